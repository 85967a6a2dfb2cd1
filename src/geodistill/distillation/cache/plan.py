"""What a teacher cache will hold and how much disk that takes, before anything is written."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from geodistill.distillation.cache.format import LOGITS, CacheDtype, Table, TopK
from geodistill.distillation.cache.index import EXAMPLE, Collate, ExampleIndex, Examples, attended_tokens
from geodistill.distillation.signals import FeatureRequest, Teacher, TeacherSignals, device_of
from geodistill.errors import GeodistillError
from geodistill.features import is_causal, next_tokens_scored, select_rows

Key = FeatureRequest | None
"""A table of the cache: a feature request's, or the logits' (None)."""
SCORED, ATTENDED = "scored tokens", "attended tokens"
"""What a table of logits has a row for: the tokens that a language model is scored by, or all of a token classifier."""
_COUNTED_TOGETHER = 256


class Plan(NamedTuple):
    """The tables that the teacher's pass writes, those that are left in the end, and the bytes they take together.

    They are the same without a rotation. A rotation is known only when all rows are, so until then these wait as they
    came from the teacher, in float32; `final` has them at full width, for the rank is not known before either.
    """

    written: dict[Key, Table]
    final: dict[Key, Table]
    bytes: int


def plan_cache(
    teacher: Teacher,
    dataset: Examples,
    collate: Collate,
    index: ExampleIndex,
    dtype: CacheDtype,
    rotated: bool,
    top_k: TopK | None,
) -> Plan:
    """Plan a cache by asking the teacher about the shortest example, which tells the shapes of its answers.

    Raises GeodistillError for logits of an unknown shape or that have no k largest, or rows that no example has.
    """
    final = _plan_tables(teacher, dataset, collate, index, dtype, top_k)
    if rotated:
        _refuse_to_rotate(final)
    size = estimate_bytes(final, index)
    if not rotated:
        return Plan(final, final, size)
    waiting: dict[Key, Table] = {
        key: replace(table, file=f"spool-{number}.bin", dtype="float32")
        for number, (key, table) in enumerate(final.items())
        if key is not None
    }
    axes = sum(4 * table.shape[-1] ** 2 for table in waiting.values())
    written = {key: waiting.get(key, table) for key, table in final.items()}
    return Plan(written, final, size + axes + sum(_size(table, index) for table in waiting.values()))


def _refuse_to_rotate(tables: Mapping[Key, Table]) -> None:
    """Refuse the rows that have no axes to rotate into: maps, and samples, whose covariance would be too large."""
    for key in tables:
        if key is not None and key.rows in ("map", "samples"):
            raise GeodistillError(
                f"Rows of the kind '{key.rows}' are not kept in principal axes.", "Leave teacher.cache_variance out."
            )


def estimate_bytes(tables: Mapping[Key, Table], index: ExampleIndex) -> int:
    """The size on disk of the tables and of the index, for all examples of the index."""
    return sum(_size(table, index) for table in tables.values()) + index.bytes


def _size(table: Table, index: ExampleIndex) -> int:
    return table.row_bytes * index.rows(table.per)


def check_space(folder: Path, plan: Plan, index: ExampleIndex, limit: int, progress: bool) -> None:
    """Say what the cache will take; raises GeodistillError if that is over the limit or more than the disk has."""
    rotating, kinds = plan.written != plan.final, len([key for key in plan.final if key is not None])
    size = (
        f"{'at most ' if rotating else ''}{_readable(plan.bytes)} for {len(index):,} examples and "
        f"{kinds} kinds of feature rows{' until these are rotated and cut' if rotating else ''}"
    )
    there = sum(path.stat().st_size for path in folder.glob("*.bin"))
    free = shutil.disk_usage(folder).free + there
    for allowed, whose in [(limit, "its limit is"), (free, f"{folder} has room for")]:
        if plan.bytes > allowed:
            raise GeodistillError(
                f"The teacher cache would take {size}, and {whose} {_readable(allowed)}.",
                f"{_shorter_logits(plan)} raise teacher.cache_limit_gb, or set teacher.cache=false.",
            )
    say(f"Teacher cache: {size}, in {folder} (limit {_readable(limit)}).", progress)


def _shorter_logits(plan: Plan) -> str:
    logits = plan.final.get(None)
    whole = logits is not None and logits.per != EXAMPLE and logits.top_k is None
    return "Keep the largest logits only (teacher.cache_top_k=64)," if whole else "Ask for fewer layers,"


def _readable(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"


def _plan_tables(
    teacher: Teacher,
    dataset: Examples,
    collate: Collate,
    index: ExampleIndex,
    dtype: CacheDtype,
    top_k: TopK | None,
) -> dict[Key, Table]:
    inputs = make_batch(teacher, dataset, collate, index.order[-1:])
    signals = teacher(inputs)
    tables: dict[Key, Table] = {}
    if teacher.logits:
        tables[None] = _logits_table(teacher, whole_logits(signals), inputs, top_k)
    for number, request in enumerate(teacher.requests):
        values, mask = signals.features[request]
        per = EXAMPLE if mask is None else _name_of(request)
        shape = tuple(values.shape[1:] if mask is None else values.shape[2:])
        tables[request] = Table(f"features-{number}.bin", dtype, shape, per)
    _count(tables, teacher, dataset, collate, index)
    for key, table in tables.items():
        if index.rows(table.per) == 0:
            raise GeodistillError(
                "No example has a token whose logits are scored."
                if key is None
                else f"No example has a token for the rows '{key.rows}'.",
                "Check the texts, or keep special tokens; a response needs labels, and words need word_ids.",
            )
    return tables


def _name_of(request: FeatureRequest) -> str:
    return f"{request.rows}{'' if request.special_tokens else ' without special tokens'}"


def _count(
    tables: Mapping[Key, Table], teacher: Teacher, dataset: Examples, collate: Collate, index: ExampleIndex
) -> None:
    """Count the rows that each example has in each table, by masks alone: the teacher does not run."""
    wanted = {table.per: key for key, table in tables.items() if table.per != EXAMPLE}
    counts = {per: torch.zeros(len(index), dtype=torch.long) for per in wanted}
    for positions in index.order.split(_COUNTED_TOGETHER) if wanted else ():
        inputs = make_batch(teacher, dataset, collate, positions)
        for per, key in wanted.items():
            mask = row_mask(teacher, key, per, inputs)
            counts[per][positions] = mask.sum(1).cpu()
    index.counts |= counts


def row_mask(teacher: Teacher, key: Key, per: str, inputs: Mapping[str, Tensor]) -> Tensor:
    """Which tokens or words (b, k) of a batch have a row in a table."""
    if per == SCORED:
        return next_tokens_scored(inputs)
    attended = attended_tokens(inputs)
    if attended is None:
        raise GeodistillError(
            f"The teacher has rows for the parts of an example ({describe(key)}), and the batch does not say how many.",
            "Give an 'attention_mask', or set teacher.cache=false.",
        )
    if key is None:
        return attended
    # Features of no width have the rows of any others.
    nothing = torch.zeros(*attended.shape, 0, device=device_of(inputs))
    mask = select_rows(nothing, inputs, kind=key.rows, special_tokens=key.special_tokens).mask
    return attended if mask is None else mask


def whole_logits(signals: TeacherSignals) -> Tensor:
    """The logits of a teacher that runs, which gives all of them."""
    assert isinstance(signals.logits, Tensor)
    return signals.logits


def _logits_table(teacher: Teacher, logits: Tensor, inputs: Mapping[str, Tensor], top_k: TopK | None) -> Table:
    # Float32 whatever the features are: there are few of them, and a KL divergence of confident logits feels rounding.
    per = _logits_per(teacher, logits, inputs)
    if top_k is None:
        return Table(LOGITS, "float32", tuple(logits.shape[2:] if per == ATTENDED else logits.shape[1:]), per)
    if per == EXAMPLE:
        raise GeodistillError(
            f"The teacher's logits have shape {tuple(logits.shape)}, and only those of tokens are cut to the largest.",
            "Leave teacher.cache_top_k out.",
        )
    if 2 * top_k.k + 1 >= logits.shape[-1]:
        raise GeodistillError(
            f"To keep the {top_k.k} largest of {logits.shape[-1]} logits takes no less room than to keep all.",
            f"Set teacher.cache_top_k below {logits.shape[-1] // 2}, or leave it out.",
        )
    return Table(LOGITS, "float32", (2 * top_k.k + 1,), per, top_k)


def _logits_per(teacher: Teacher, logits: Tensor, inputs: Mapping[str, Tensor]) -> str:
    if logits.ndim == 2:
        return SCORED if is_causal(teacher.model) else EXAMPLE
    attended = attended_tokens(inputs)
    if logits.ndim == 3 and attended is not None and logits.shape[:2] == attended.shape:
        return ATTENDED
    raise GeodistillError(
        f"The teacher's logits have shape {tuple(logits.shape)}, neither (examples, labels) nor (examples, tokens, …).",
        "Set teacher.cache=false for this teacher.",
    )


def make_batch(teacher: Teacher, dataset: Examples, collate: Collate, positions: Tensor) -> dict[str, Tensor]:
    """Collate the examples at these positions, on the teacher's device."""
    batch = collate([dataset[position] for position in positions.tolist()])
    return {name: value.to(teacher.device) for name, value in batch.items() if isinstance(value, Tensor)}


def say(message: str, progress: bool) -> None:
    """Tell the user beside the progress bar, or in the log if no bar is wanted."""
    if progress:
        tqdm.write(message, file=sys.stderr)
    else:
        logging.getLogger(__name__).info(message)


def describe(key: Key) -> str:
    if key is None:
        return "logits"
    return f"{_name_of(key)} of {key.point}"
