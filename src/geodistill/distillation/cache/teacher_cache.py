"""The teacher runs once: its logits and feature rows on disk, read by later epochs, seeds and objectives."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from torch import Tensor, nn

from geodistill.distillation.cache.build import discard, write_cache
from geodistill.distillation.cache.format import (
    AXES,
    DTYPES,
    INDEX,
    CacheDtype,
    Table,
    TopK,
    fingerprint_teacher,
    read_manifest,
    request_from_json,
    verify_files,
)
from geodistill.distillation.cache.index import BatchRows, Collate, ExampleIndex, Examples, scan
from geodistill.distillation.cache.plan import ATTENDED, Key, describe, say
from geodistill.distillation.cache.rotation import CutBounds
from geodistill.distillation.signals import (
    NO_INPUTS,
    FeatureRequest,
    Teacher,
    TeacherSignals,
    device_of,
    teacher_view,
)
from geodistill.errors import GeodistillError, suggest
from geodistill.features import Rows, input_names
from geodistill.losses.top_k import TopKLogits


class TeacherCache:
    """What the teacher said of every example of one data set, read from disk: a `SignalSource` like `Teacher`.

    Called with a batch that has `example_id` (b,), the examples' positions in the cached data, it returns what the
    teacher would have: logits, if it was asked for any, in float32, or `TopKLogits` if it was made with `top_k`, and
    rows (b, t, d) or (b, d) in the dtype of the cache, on the device of the inputs. The batch may be padded on either
    side and to any length. Its tokens are compared with a checksum: a batch of other data raises GeodistillError.

    `widths` maps each request to the width of its rows. In a rotated cache that is less than the teacher's; `axes` has
    the matrix (d, width) that rotates and cuts the teacher's rows in the same way, and `bounds` what the cut can cost.

    `model` is the teacher that the signals are of. A trainer pairs its layers with the student's, and does not run it.
    `vocabulary` is how many of its logits stand for a token. Both are None if the cache was opened without them.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        entries: Mapping[Key, Mapping[str, Any]],
        requests: Sequence[FeatureRequest],
        *,
        model: nn.Module | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.requests = list(dict.fromkeys(requests))
        self.model, self.vocabulary = model, vocabulary
        self._index = ExampleIndex.of(load_file(folder / INDEX))
        keys: list[Key] = [*([None] if None in entries else []), *self.requests]
        tables = {key: Table.from_json(entries[key]["table"]) for key in keys}
        self.top_k = tables[None].top_k if None in tables else None
        self._per_token = None in tables and tables[None].per == ATTENDED
        self._data: dict[str, dict[Key, Tensor]] = {}
        for key, table in tables.items():
            rows = self._index.rows(table.per)
            self._data.setdefault(table.per, {})[key] = table.map(folder, rows)
        self.widths = {request: tables[request].shape[0 if request.rows == "map" else -1] for request in self.requests}
        self.bounds = {
            request: CutBounds(**bounds)
            for request in self.requests
            if (bounds := entries[request]["bounds"]) is not None
        }
        stored_axes = load_file(folder / AXES) if self.bounds else {}
        self.axes = {request: stored_axes[tables[request].file] for request in self.bounds}

    def __len__(self) -> int:
        return len(self._index)

    def select(self, requests: Sequence[FeatureRequest]) -> TeacherCache:
        """The same cache, reading fewer of its requests: what one objective of several needs."""
        for request in requests:
            if request not in self.requests:
                raise GeodistillError(
                    f"The teacher cache was not opened for {describe(request)}.",
                    f"Choose among {', '.join(map(describe, self.requests)) or 'none but the logits'}.",
                )
        chosen = copy.copy(self)
        chosen.requests = list(dict.fromkeys(requests))
        chosen._data = {
            per: {key: rows for key, rows in data.items() if key is None or key in chosen.requests}
            for per, data in self._data.items()
        }
        return chosen

    def to(self, device: torch.device) -> TeacherCache:
        return self  # the rows stay on disk and follow each batch to its device

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        inputs = teacher_view(inputs)
        positions = inputs.get("example_id")
        if positions is None:
            raise GeodistillError(
                "A batch for the teacher cache has no 'example_id'.",
                "Give each example its position in the cached data, and keep the column (remove_unused_columns=False).",
            )
        positions = positions.cpu()
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(self):
            raise GeodistillError(
                f"A batch names the examples {positions.tolist()}, and the teacher cache holds {len(self)}.",
                "Read only the data that the cache was written from.",
            )
        batch, device = BatchRows(self._index, positions, inputs), device_of(inputs)
        found: dict[Key, Rows] = {}
        for per, data in self._data.items():
            found |= {key: rows.to(device) for key, rows in batch.gather(per, data).items()}
        features = {request: found[request] for request in self.requests}
        return TeacherSignals(self._logits(found[None], batch) if None in found else None, features)

    def _logits(self, rows: Rows, batch: BatchRows) -> Tensor | TopKLogits:
        """The logits as a `Teacher` gives them: one for each example, for each scored token, or at each token."""
        logits, kept = rows
        if kept is not None:
            logits = logits[kept]
        if self._per_token:
            assert batch.attended is not None
            attended = batch.attended.to(logits.device)
            placed = logits.new_zeros(*attended.shape, *logits.shape[1:])
            placed[attended] = logits
            logits = placed
        return logits if self.top_k is None else TopKLogits.unpack(logits, self.top_k.temperature)


def prepare_cache(
    folder: Path,
    teacher: Teacher,
    dataset: Examples,
    collate: Collate,
    *,
    limit_bytes: int,
    dtype: CacheDtype = "bfloat16",
    variance: float | None = None,
    top_k: TopK | None = None,
    batch_size: int = 64,
    fresh: bool = False,
    progress: bool = True,
) -> TeacherCache:
    """Open the teacher's cache of a data set, or let the teacher read the data once and write it.

    `dataset` is a sequence of encoded examples (input_ids, attention_mask, …), `collate` pads a list of them to a
    batch. The cache answers the teacher's requests, and has logits if the teacher gives any. It is reused while the
    teacher's weights and precision, the tokenizer, the data, `dtype`, `variance` and `top_k` are the same, and is
    otherwise written anew, as with `fresh`; if only requests or logits are missing, what it held stays in it.

    With `variance`, such as 0.999, the rows are kept in their principal axes, the fewest that hold this share of the
    variance: smaller, the same to Procrustes, Gram and CKA up to the stated bounds, and narrower than the teacher,
    which a projection term must heed (`TeacherCache.widths`).

    With `top_k`, of each token's logits only the k largest are kept, and the mass of the rest at that temperature,
    8k + 4 bytes a token. A `LogitLoss` of another temperature refuses them.

    An interrupted writer is gone on with. Of two processes one writes and the other waits.

    Raises GeodistillError when the cache would exceed `limit_bytes` or the disk, when one that is there is damaged, or
    when the teacher gives NaN or infinite values.
    """
    if dtype not in DTYPES:
        raise GeodistillError(f"A teacher cache cannot be kept in '{dtype}'.", suggest(dtype, DTYPES))
    if variance is not None and not 0 < variance <= 1:
        raise GeodistillError(
            f"The share of the variance that a rotated cache keeps is {variance}.", "Give a share above 0 and up to 1."
        )
    index, data = scan(dataset, read_columns(teacher))
    fingerprint = fingerprint_teacher(teacher, data, dtype, variance, top_k)
    with _locked(folder, progress):
        if fresh:
            discard(folder)
        manifest = read_manifest(folder)
        if manifest is not None and manifest["fingerprint"] == fingerprint:
            held = list(_entries(manifest))
            if set(teacher.requests) <= set(held) and (None in held or not teacher.logits):
                return _open(folder, fingerprint, teacher)
            both = [*(key for key in held if key is not None), *teacher.requests]
            logits = teacher.logits or None in held
            teacher = Teacher(
                teacher.model, both, precision=teacher.precision, logits=logits, vocabulary=teacher.vocabulary
            )
        if manifest is not None:
            say(f"The teacher cache in {folder} was made for something else and is written anew.", progress)
            discard(folder)
        write_cache(
            folder,
            teacher,
            dataset,
            collate,
            index,
            fingerprint=fingerprint,
            batch_size=batch_size,
            dtype=dtype,
            limit_bytes=limit_bytes,
            variance=variance,
            top_k=top_k,
            progress=progress,
        )
        return _open(folder, fingerprint, teacher)


def _open(folder: Path, fingerprint: str, teacher: Teacher) -> TeacherCache:
    return open_cache(
        folder,
        fingerprint=fingerprint,
        requests=teacher.requests,
        model=teacher.model,
        vocabulary=teacher.vocabulary,
    )


def cache_fingerprint(
    teacher: Teacher,
    dataset: Examples,
    *,
    dtype: CacheDtype = "bfloat16",
    variance: float | None = None,
    top_k: TopK | None = None,
) -> str:
    """SHA-256 over all that decides what a cache holds: weights, config, precision, tokenizer, encoded data,
    dtype, rotation and cut of the logits.

    Which layers and rows it holds is not in it: a cache answers any of the requests that its manifest lists.
    """
    return fingerprint_teacher(teacher, scan(dataset, read_columns(teacher))[1], dtype, variance, top_k)


def read_columns(teacher: Teacher) -> set[str] | None:
    """Return the columns that decide what a teacher answers; None for a module that reads any."""
    names = input_names(teacher.model)
    return None if names is None else {*names, *NO_INPUTS}


def open_cache(
    folder: Path,
    *,
    fingerprint: str,
    requests: Sequence[FeatureRequest] = (),
    model: nn.Module | None = None,
    vocabulary: int | None = None,
) -> TeacherCache:
    """Open a finished cache for some of the requests that it holds, after verifying it against its checksums.

    A trainer also needs the `model` that the cache is of, to pair its layers with the student's, and its `vocabulary`;
    see `TeacherCache`.

    Raises GeodistillError when there is none, when its fingerprint is another, when it lacks a request, or when a file
    of it is missing, truncated or altered.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise GeodistillError(f"There is no finished teacher cache in {folder}.", "Write one with prepare_cache.")
    if manifest["fingerprint"] != fingerprint:
        raise GeodistillError(
            f"The teacher cache in {folder} is stale: other weights, tokenizer, data or settings made it.",
            "Write it anew with prepare_cache, or delete the folder.",
        )
    entries = _entries(manifest)
    for request in requests:
        if request not in entries:
            raise GeodistillError(
                f"The teacher cache in {folder} does not hold {describe(request)}; it holds "
                f"{', '.join(describe(key) for key in entries)}.",
                "Write it anew with prepare_cache, for all the rows that are wanted.",
            )
    verify_files(folder, manifest)
    return TeacherCache(folder, fingerprint, entries, requests, model=model, vocabulary=vocabulary)


def _entries(manifest: Mapping[str, Any]) -> dict[Key, Mapping[str, Any]]:
    return {
        None if entry["request"] is None else request_from_json(entry["request"]): entry
        for entry in manifest["entries"]
    }


@contextmanager
def _locked(folder: Path, progress: bool) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            say(f"Another process writes the teacher cache in {folder}; waiting for it.", progress)
            held = lock.acquire()
        with held:
            yield
    except OSError as error:
        raise GeodistillError(
            f"The teacher cache in {folder} cannot be written: {error}.",
            "Choose a folder that is writable and has room, or set teacher.cache=false.",
        ) from error
