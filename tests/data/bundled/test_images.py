from __future__ import annotations

import base64
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geodistill.data.bundled import packages
from geodistill.data.bundled.images import cifar10, digits, mnist
from geodistill.data.bundled.packages import CIFAR10, NATURAL_INSTRUCTIONS, Package
from geodistill.data.decoding import as_array, as_png, decode
from geodistill.data.images import load_images
from geodistill.data.tables import Table
from geodistill.recipe import DataRecipe


def first_of(table: Table, label: int) -> np.ndarray:
    place = list(table.columns["label"]).index(label)
    return as_array(decode({"bytes": table.columns["image"][place], "path": None}), 1)[:, :, 0]


def test_digits_are_those_of_scikit_learn() -> None:
    table = digits()["train"]
    assert len(table.columns["image"]) == 1797 and table.class_names["label"] == [str(each) for each in range(10)]
    zero = first_of(table, 0)
    assert zero.shape == (8, 8) and zero[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


def test_mnist() -> None:
    table = mnist()["train"]
    assert Counter(table.columns["label"]) == {number: 500 for number in range(10)}
    zero, one = first_of(table, 0), first_of(table, 1)
    assert zero.shape == (28, 28) and zero.max() > 200
    assert zero[11:17, 11:17].mean() < one[11:17, 11:17].mean(), "a zero is empty in the middle, a one is not"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small archive in the form of the published one, and no package index; returns the bytes of its task."""
    names = ["airplane", "cat", "ship"]
    examples = []
    for label in range(3):
        for number in range(10):
            image = as_png(np.full((4, 4, 3), 80 * label + number, dtype=np.uint8))["bytes"]
            scores = {name: int(place == label) for place, name in enumerate(names)}
            examples.append({"input": base64.b64encode(image).decode(), "target_scores": scores})
    task = json.dumps({"canary": "GUID", "examples": examples}).encode()
    path = tmp_path / "bigbench-1.0.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {"bigbench-1.0.0/README.md": b"x", CIFAR10.members["cifar10.json"]: task}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    def download(package: Package, folder: Path) -> Path:
        return Path(shutil.copy(path, folder))

    monkeypatch.setattr(packages, "download", download)
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path / "cache"))
    return task


def test_cifar10_is_cut_by_class_and_shuffled(package: bytes, tmp_path: Path) -> None:
    tables = cifar10()
    assert {name: len(table.columns["image"]) for name, table in tables.items()} == {"train": 24, "test": 6}
    assert Counter(tables["test"].columns["label"]) == {0: 2, 1: 2, 2: 2}
    labels = list(tables["train"].columns["label"])
    assert labels != sorted(labels)
    for table in tables.values():
        for image, label in zip(table.columns["image"], table.columns["label"], strict=True):
            value = Image.open(io.BytesIO(image)).getpixel((0, 0))[0]
            assert value // 80 == label and table.class_names["label"] == ["airplane", "cat", "ship"]
    kept = tmp_path / "cache" / "bigbench-1.0.0-cifar10" / "cifar10.json"
    assert kept.read_bytes() == package, "the file is kept as it is, with its canary"


def test_cifar10_is_split_alike_for_every_seed(package: bytes) -> None:
    first, second = (load_images(DataRecipe(source="bundled:cifar10", seed=seed)) for seed in (0, 1))
    assert {name: len(split) for name, split in first.splits.items()} == {"train": 21, "validation": 3, "test": 6}
    assert first.held_out.texts["test"] == second.held_out.texts["test"]
    assert first.held_out.texts["validation"] != second.held_out.texts["validation"]
    assert first.notes == ["These are the 10,000 images of the CIFAR-10 test split, cut 8k/2k, not the usual 50k/10k."]


def test_one_archive_has_two_entries_in_the_cache() -> None:
    assert (CIFAR10.entry, NATURAL_INSTRUCTIONS.entry) == ("bigbench-1.0.0-cifar10", "bigbench-1.0.0")
    assert (CIFAR10.name, CIFAR10.sha256) == (NATURAL_INSTRUCTIONS.name, NATURAL_INSTRUCTIONS.sha256)


@pytest.mark.slow
def test_the_real_cifar10() -> None:
    """358 MB are fetched for it, once."""
    examples = load_images(DataRecipe(source="bundled:cifar10"))
    assert {name: len(split) for name, split in examples.splits.items()} == {
        "train": 7200,
        "validation": 800,
        "test": 2000,
    }
    assert (examples.size, examples.channels, len(examples.label_names)) == ((32, 32), 3, 10)
    assert np.allclose(examples.mean, (0.4914, 0.4822, 0.4465), atol=0.01), "as published for the train split"
