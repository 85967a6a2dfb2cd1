"""The user's cache folder: things that are made once, kept whole, and read by any number of processes.

An entry is a folder that appears under its final name by one rename, complete, with a `SHA256SUMS` file beside its
members (`sha256sum -c SHA256SUMS` checks it by hand). A damaged entry is noticed on its first use and made again.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from geodistill.errors import GeodistillError
from geodistill.files import sha256

SUMS = "SHA256SUMS"


def cache_folder() -> Path:
    """`$GEODISTILL_CACHE`, else `$XDG_CACHE_HOME/geodistill`, else `~/.cache/geodistill`."""
    if chosen := os.environ.get("GEODISTILL_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "geodistill"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cache entry `name`, a folder, made by `build(folder)` when it is absent or damaged.

    `build` fills an empty folder. Whatever it raises leaves no entry behind. One process builds, others wait for it.
    """
    entry = cache_folder() / name
    if is_whole(entry):
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(entry.with_name(entry.name + ".lock")):
            if not is_whole(entry):  # another process may have built it while we waited
                if entry.exists():
                    print(f"The cached {entry} is damaged and is made again.", file=sys.stderr)
                _build(entry, build)
    except OSError as error:
        raise GeodistillError(
            f"The cache folder {cache_folder()} cannot be written: {error}.",
            "Set GEODISTILL_CACHE to a folder that is writable and has room.",
        ) from error
    return entry


def _build(entry: Path, build: Callable[[Path], None]) -> None:
    partial = entry.with_name(entry.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed; the lock is ours
    partial.mkdir()
    try:
        build(partial)
        members = sorted(path for path in partial.rglob("*") if path.is_file())
        sums = "".join(f"{sha256(path)}  {path.relative_to(partial).as_posix()}\n" for path in members)
        (partial / SUMS).write_text(sums, encoding="utf-8")
        if entry.exists():
            shutil.rmtree(entry)
        os.replace(partial, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_whole(entry: Path) -> bool:
    """Whether all that `SHA256SUMS` lists is there, unaltered. A file is read once, and again when it has changed."""
    try:
        lines = (entry / SUMS).read_text(encoding="utf-8").splitlines()
        sums = [line.split("  ", 1) for line in lines]
        return bool(sums) and all(sha256(entry / member) == sum for sum, member in sums)
    except (OSError, ValueError):  # a member is missing, or the list itself is damaged
        return False
