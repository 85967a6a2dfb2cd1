"""Writing a teacher cache: one pass of the teacher over the data, resumable, sealed at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from geodistill.distillation.cache.format import (
    AXES,
    DTYPES,
    INDEX,
    LOGITS,
    MANIFEST,
    PROGRESS,
    CacheDtype,
    Table,
    TopK,
    request_to_json,
    tensor_bytes,
    write_manifest,
)
from geodistill.distillation.cache.index import BatchRows, Collate, ExampleIndex, Examples
from geodistill.distillation.cache.plan import (
    ATTENDED,
    Key,
    check_space,
    describe,
    make_batch,
    plan_cache,
    say,
    whole_logits,
)
from geodistill.distillation.cache.rotation import CutBounds, cut_bounds, mean_and_covariance, principal_axes
from geodistill.distillation.signals import Teacher, TeacherSignals
from geodistill.errors import GeodistillError
from geodistill.files import write_json
from geodistill.losses.top_k import TopKLogits

# How often what was written is forced to the disk and counted as done: the most that a power cut can cost.
FLUSH_SECONDS = 5.0
_BLOCK = 16384


def write_cache(
    folder: Path,
    teacher: Teacher,
    dataset: Examples,
    collate: Collate,
    index: ExampleIndex,
    *,
    fingerprint: str,
    batch_size: int,
    dtype: CacheDtype,
    limit_bytes: int,
    variance: float | None,
    top_k: TopK | None,
    progress: bool,
) -> None:
    """Run the teacher over the data, from where an interrupted writer left off, and seal the cache.

    The caller holds the folder's lock. See `prepare_cache` for the arguments and errors.
    """
    plan = plan_cache(teacher, dataset, collate, index, dtype, rotated=variance is not None, top_k=top_k)
    check_space(folder, plan, index, limit_bytes, progress)

    mark = {"fingerprint": fingerprint, "tables": [[repr(key), asdict(table)] for key, table in plan.written.items()]}
    done = _resume(folder, mark, plan.written, index)
    if 0 < done < len(index):
        say(f"Going on with the teacher cache at example {done:,} of {len(index):,}.", progress)
    _run_teacher(folder, teacher, dataset, collate, index, plan.written, mark, done, batch_size, progress)

    final = dict(plan.final)
    axes: dict[str, Tensor] = {}
    bounds: dict[Key, CutBounds] = {}
    if variance is not None:
        for key, table in plan.written.items():
            if key is None:
                continue
            final[key], axes[final[key].file], bounds[key] = _rotate(folder, table, final[key], index, variance)
            say(
                f"Rotated cache, {describe(key)}: width {table.shape[-1]} → {final[key].shape[-1]}, {bounds[key]}.",
                progress,
            )
        save_file(axes, folder / AXES)
    save_file(index.tensors(), folder / INDEX)
    entries = [
        {
            "request": None if key is None else request_to_json(key),
            "table": asdict(table),
            "bounds": asdict(bounds[key]) if key in bounds else None,
        }
        for key, table in final.items()
    ]
    files = [table.file for table in final.values()] + [INDEX] + ([AXES] if axes else [])
    write_manifest(folder, {"fingerprint": fingerprint, "entries": entries}, files)
    discard(folder, keep=[MANIFEST, *files])


def discard(folder: Path, keep: Sequence[str] = ()) -> None:
    """Remove a cache's files, the manifest first, and nothing else that may lie in the folder.

    Removed, not emptied: another process may have them mapped.
    """
    names = [MANIFEST, PROGRESS, INDEX, AXES, LOGITS]
    numbered = [path.name for pattern in ("features-*.bin", "spool-*.bin") for path in sorted(folder.glob(pattern))]
    for name in names + numbered:
        if name not in keep:
            (folder / name).unlink(missing_ok=True)


def _resume(folder: Path, mark: Mapping[str, Any], tables: Mapping[Key, Table], index: ExampleIndex) -> int:
    """Return how many examples an interrupted writer of the same cache finished, and cut its files to these."""
    done = 0
    try:
        progress = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        sizes = {
            folder / table.file: table.row_bytes * index.rows(table.per, progress["examples"])
            for table in tables.values()
        }
        if progress["mark"] == json.loads(json.dumps(mark)) and all(p.stat().st_size >= s for p, s in sizes.items()):
            done = progress["examples"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing there that could be gone on with
    if done:
        for path, size in sizes.items():
            os.truncate(path, size)
    else:
        discard(folder)
    return done


def _run_teacher(
    folder: Path,
    teacher: Teacher,
    dataset: Examples,
    collate: Collate,
    index: ExampleIndex,
    tables: Mapping[Key, Table],
    mark: Mapping[str, Any],
    done: int,
    batch_size: int,
    progress: bool,
) -> None:
    # Tokens, not examples, make the time left right: the longest examples come first.
    total = index.tokens()
    bar = tqdm(
        total=total,
        initial=index.tokens(done),
        desc="Teacher",
        unit="token" if index.tokens() > len(index) else "example",
        unit_scale=True,
        disable=not progress,
    )
    with bar, ExitStack() as stack:
        files = {key: stack.enter_context((folder / table.file).open("ab")) for key, table in tables.items()}

        def save() -> None:
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
            write_json(folder / PROGRESS, {"mark": mark, "examples": done})

        saved = time.monotonic()
        try:
            while done < len(index):
                positions = index.order[done : done + batch_size]
                inputs = make_batch(teacher, dataset, collate, positions)
                rows = BatchRows(index, positions, inputs)
                signals = teacher(inputs)
                for key, table in tables.items():
                    files[key].write(tensor_bytes(_select(signals, key, table, rows).to(DTYPES[table.dtype])))
                done += len(positions)
                bar.update(int(index.lengths[positions].sum()))
                if time.monotonic() - saved > FLUSH_SECONDS:
                    save()
                    saved = time.monotonic()
        finally:
            save()


def _select(signals: TeacherSignals, key: Key, table: Table, rows: BatchRows) -> Tensor:
    """The rows that the table stores of one batch's signals, (rows, …), on the CPU."""
    if key is None:
        values = whole_logits(signals)
        if table.top_k is not None:
            values = TopKLogits.of(values, *table.top_k).pack()
        values = values.cpu()[rows.attended] if table.per == ATTENDED else values.cpu()
    else:
        values, mask = signals.features[key]
        values = values.cpu() if mask is None else values.cpu()[mask.cpu()]
    if not values.isfinite().all():
        raise GeodistillError(
            f"The teacher gives NaN or infinite values ({describe(key)}).",
            "Check the teacher's weights, or set teacher.precision=float32.",
        )
    return values


def _rotate(
    folder: Path, spool: Table, final: Table, index: ExampleIndex, variance: float
) -> tuple[Table, Tensor, CutBounds]:
    """Write the spooled rows in their principal axes, cut; return their table, the axes and what the cut can cost."""
    rows = spool.map(folder, index.rows(spool.per))
    mean, covariance = mean_and_covariance(block.flatten(0, -2) for block in rows.split(_BLOCK))
    axes = principal_axes(mean, covariance, variance)
    table = replace(final, shape=(*final.shape[:-1], axes.shape[1]))
    with (folder / table.file).open("wb") as file:
        for block in rows.split(_BLOCK):
            file.write(tensor_bytes((block @ axes.float()).to(DTYPES[table.dtype])))
        file.flush()
        os.fsync(file.fileno())
    return table, axes.float().contiguous(), cut_bounds(covariance, axes)
