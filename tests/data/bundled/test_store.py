from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geodistill.data.bundled import store as cache
from geodistill.data.bundled.store import cache_folder, cached, is_whole
from geodistill.errors import GeodistillError
from geodistill.files import sha256


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("alpha")
    (folder / "b.txt").write_text("beta")


def test_folder_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("GEODISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "geodistill"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "geodistill"


def test_built_once_and_kept() -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        write(folder)

    entry = cached("thing", build)
    assert entry == cached("thing", build)
    assert len(built) == 1
    assert (entry / "inner" / "a.txt").read_text() == "alpha"
    assert not list(entry.parent.glob("*.partial"))


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "list"])
def test_damaged_entry_is_made_again(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = cached("thing", write)
    member = entry / "inner" / "a.txt"
    if damage == "altered":
        member.write_text("alphb")
        os.utime(member, ns=(1, 1))  # the clock may be too coarse to tell two writes apart
    elif damage == "truncated":
        member.write_text("al")
    elif damage == "missing":
        member.unlink()
    else:
        (entry / cache.SUMS).write_text("no list of sums")
    assert not is_whole(entry)
    assert (cached("thing", write) / "inner" / "a.txt").read_text() == "alpha"
    assert "damaged" in capsys.readouterr().err


def test_sums_are_read_by_sha256sum() -> None:
    entry = cached("thing", write)
    assert (entry / cache.SUMS).read_text().splitlines()[0] == f"{sha256(entry / 'b.txt')}  b.txt"


def test_failed_build_leaves_nothing(private_cache: Path) -> None:
    def build(folder: Path) -> None:
        write(folder)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        cached("thing", build)
    assert [path.name for path in private_cache.iterdir()] == ["thing.lock"]


def test_remains_of_a_killed_build_are_replaced(private_cache: Path) -> None:
    (private_cache / "thing.partial").mkdir(parents=True)
    (private_cache / "thing.partial" / "stray.txt").write_text("stray")
    entry = cached("thing", write)
    assert not (entry / "stray.txt").exists()


def test_two_processes_build_once(private_cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    script = f"""
import time
from pathlib import Path
from geodistill.data.bundled.store import cached

def build(folder):
    with open({str(log)!r}, "a") as file:
        file.write("built\\n")
    time.sleep(1.0)
    (folder / "a.txt").write_text("alpha")

assert (cached("thing", build) / "a.txt").read_text() == "alpha"
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ)) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert log.read_text() == "built\n"


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(GeodistillError, match="Set GEODISTILL_CACHE"):
        cached("thing", write)
