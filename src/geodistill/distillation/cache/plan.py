"""What a teacher cache will hold and how much disk that takes, before anything is written."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from geodistill.distillation.cache.format import LOGITS, CacheDtype, RowsPer, Table, TopK
from geodistill.distillation.cache.index import Collate, ExampleIndex, Examples
from geodistill.distillation.signals import FeatureRequest, Teacher, TeacherSignals
from geodistill.errors import GeodistillError
from geodistill.features import is_causal

Key = FeatureRequest | None
"""A table of the cache: a feature request's, or the logits' (None)."""


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
    size = estimate_bytes(final, index)
    if not rotated:
        return Plan(final, final, size)
    waiting: dict[Key, Table] = {
        key: replace(table, file=f"spool-{number}.bin", dtype="float32")
        for number, (key, table) in enumerate(final.items())
        if key is not None
    }
    axes = sum(4 * table.shape[0] ** 2 for table in waiting.values())
    written = {key: waiting.get(key, table) for key, table in final.items()}
    return Plan(written, final, size + axes + sum(_size(table, index) for table in waiting.values()))


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
    whole = logits is not None and logits.per != "example" and logits.top_k is None
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
    positions = index.order[-1:]
    inputs = make_batch(teacher, dataset, collate, positions)
    signals = teacher(inputs)
    tables: dict[Key, Table] = {}
    if teacher.logits:
        tables[None] = _logits_table(teacher, whole_logits(signals), inputs, top_k)
    for number, request in enumerate(teacher.requests):
        per: RowsPer = "example"
        if request.rows == "tokens":
            per = "attended" if request.special_tokens else "content"
        elif request.rows in ("response", "words"):
            per = request.rows  # type: ignore[assignment]  # one of the two
        width = signals.features[request].shape[-1]
        tables[request] = Table(f"features-{number}.bin", dtype, (width,), per)
    for key, table in tables.items():
        if index.rows(table.per) == 0:
            raise GeodistillError(
                "No example has a token whose logits are scored."
                if key is None
                else f"No example has a token for the rows '{key.rows}'.",
                "Check the texts, or keep special tokens; a response needs labels, and words need word_ids.",
            )
    return tables


def whole_logits(signals: TeacherSignals) -> Tensor:
    """The logits of a teacher that runs, which gives all of them."""
    assert isinstance(signals.logits, Tensor)
    return signals.logits


def _logits_table(teacher: Teacher, logits: Tensor, inputs: Mapping[str, Tensor], top_k: TopK | None) -> Table:
    # Float32 whatever the features are: there are few of them, and a KL divergence of confident logits feels rounding.
    per = _logits_per(teacher, logits, inputs)
    if top_k is None:
        return Table(LOGITS, "float32", tuple(logits.shape[2:] if per == "attended" else logits.shape[1:]), per)
    if per == "example":
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


def _logits_per(teacher: Teacher, logits: Tensor, inputs: Mapping[str, Tensor]) -> RowsPer:
    if logits.ndim == 2:
        return "scored" if is_causal(teacher.model) else "example"
    if logits.ndim == 3 and logits.shape[:2] == inputs["input_ids"].shape:
        return "attended"
    raise GeodistillError(
        f"The teacher's logits have shape {tuple(logits.shape)}, neither (examples, labels) nor (examples, tokens, …).",
        "Set teacher.cache=false for this teacher.",
    )


def make_batch(teacher: Teacher, dataset: Examples, collate: Collate, positions: Tensor) -> dict[str, Tensor]:
    """Collate the examples at these positions, on the teacher's device."""
    batch = collate([dataset[position] for position in positions.tolist()])
    return {name: value.to(teacher.device) for name, value in batch.items() if isinstance(value, Tensor)}


def say(message: str, progress: bool) -> None:
    """Tell the user beside the progress bar, or the log where no bar is wanted."""
    if progress:
        tqdm.write(message, file=sys.stderr)
    else:
        logging.getLogger(__name__).info(message)


def describe(key: Key) -> str:
    if key is None:
        return "logits"
    return f"{key.rows}{'' if key.special_tokens else ' without special tokens'} of {key.point}"
