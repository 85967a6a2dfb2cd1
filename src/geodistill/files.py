"""Files and folders: written whole, hashed once, known by a fingerprint, and written by one process at a time."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from geodistill.errors import GeodistillError

# What `from_pretrained` may read: config, tokenizer, weights in one file or in shards, chat template and custom code.
MODEL_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".json",
    ".txt",
    ".model",
    ".spm",
    ".codes",
    ".tiktoken",
    ".jinja",
    ".py",
)
# What a training leaves beside the model, which the model does not depend on.
RECORDS = ("teacher.json", "student.json", "trainer_state.json", "training_args.bin")
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
LOCK_SECONDS = 1.0  # workers of a comparison that was killed end a moment after it


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json_text(content, indent=2) + "\n")


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return JSON that every reader accepts: a number that is not finite is null, since JSON has no NaN."""
    return json.dumps(finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def write_lines(path: Path, lines: Iterable[Any]) -> None:
    """Write a file of one JSON value a line, whole or not at all."""
    write_text(path, "".join(f"{json_text(line)}\n" for line in lines))


def read_lines(path: Path) -> list[Any]:
    """Read a file of one JSON value a line; none without the file. A line that was cut short is left out."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line separators
    except FileNotFoundError:  # not begun, or cleared by a run that starts over beside us
        return []
    values = []
    for line in lines:
        try:
            values.append(json.loads(line))
        except ValueError:
            continue
    return values


def finite(content: Any) -> Any:
    """Return JSON-able content with None in the place of each number that is not finite."""
    if isinstance(content, Mapping):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def with_nan(content: Any) -> Any:
    """Return the numbers of a mapping, nested or not, with NaN for each null of the file: what `finite` took away."""
    if isinstance(content, Mapping):
        return {name: with_nan(value) for name, value in content.items()}
    return math.nan if content is None else content


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, also when the machine stops."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Half a surrogate pair in a user's text becomes a question mark, rather than the end of a run.
        with part.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex. A process reads a file once, and again when the file has changed."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=1024)
def _sha256(path: str, size: int, modified: int, inode: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_of(*parts: Any) -> str:
    """Return the SHA-256 of JSON-able parts, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint_of_side(model: str, **settings: Any) -> str:
    """Identify one side of a distillation: a student or a teacher with its tokenizer, and how it is loaded.

    Args:
        model: a folder, which is known by its files wherever it lies, or a hub name.
        settings: what decides which model comes out of it, such as `revision`, `weights` and `precision`.
    """
    folder = Path(model)
    return fingerprint_of(model_files(folder) if folder.is_dir() else model, settings)


def model_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, and in its subfolders, that a model or a tokenizer is loaded from.

    Checkpoints, records and hidden files are left out.
    """
    sums = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        own = path.name in RECORDS or any(part[0] == "." or part == CHECKPOINTS for part in parts)
        if path.suffix in MODEL_SUFFIXES and not own and path.is_file():
            sums["/".join(parts)] = sha256(path)
    return sums


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an existing folder; the lock of a process that was killed is free.

    Raises GeodistillError when another process holds it.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise GeodistillError(
            f"Another process writes the folder '{folder}'.", "Wait until it ends, or choose another --output."
        ) from None
    try:
        yield
    finally:
        lock.release()
