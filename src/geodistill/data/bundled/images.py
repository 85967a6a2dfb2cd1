"""The bundled sets of images: real ones, read from a pinned package or from scikit-learn, each image as PNG bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from geodistill.data.bundled.packages import CIFAR10, MNIST, package_files
from geodistill.data.decoding import as_png
from geodistill.data.parts import cut
from geodistill.data.tables import Table

CIFAR10_TEST_SHARE = 0.2
CIFAR10_NOTE = "These are the 10,000 images of the CIFAR-10 test split, cut 8k/2k, not the usual 50k/10k."


def cifar10() -> dict[str, Table]:
    """The CIFAR-10 test split, cut 8,000 / 2,000 (Krizhevsky 2009): 32 × 32, RGB, 10 classes.

    The package holds the 10,000 test images alone, sorted by class. They are put in the order of a hash of their bytes
    and cut class by class, so train and test are the same for every seed. Results on them are not those of the usual
    split of 50,000 / 10,000.
    """
    content = json.loads((package_files(CIFAR10) / "cifar10.json").read_text(encoding="utf-8"))
    names = sorted(content["examples"][0]["target_scores"])
    rows = []
    for example in content["examples"]:
        image = base64.b64decode(example["input"])
        scores = example["target_scores"]
        rows.append((hashlib.sha256(image).hexdigest(), image, names.index(max(scores, key=scores.__getitem__))))
    rows.sort()
    keys, labels = [key for key, _, _ in rows], [label for _, _, label in rows]
    parts = cut(keys, labels, {"test": CIFAR10_TEST_SHARE}, seed=0)
    return {
        part: _table([rows[index][1] for index in indices], [labels[index] for index in indices], names)
        for part, indices in parts.items()
    }


def mnist() -> dict[str, Table]:
    """5,000 handwritten digits of MNIST (LeCun et al. 1998), 500 a class: 28 × 28, grey."""
    with gzip.open(package_files(MNIST) / "mnist_5k.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    pixels, labels = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    return {"train": _digits(pixels, labels.tolist())}


def digits() -> dict[str, Table]:
    """1,797 handwritten digits that scikit-learn brings (Alpaydin & Kaynak 1998): 8 × 8, grey. Nothing is fetched."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)  # scikit-learn's grey values run from 0 to 16
    return {"train": _digits(pixels, found.target.tolist())}


BUNDLED_IMAGES: dict[str, Callable[[], dict[str, Table]]] = {
    "bundled:cifar10": cifar10,
    "bundled:mnist": mnist,
    "bundled:digits": digits,
}


def _digits(pixels: np.ndarray, labels: Sequence[int]) -> Table:
    return _table([as_png(each)["bytes"] for each in pixels], labels, [str(number) for number in range(10)])


def _table(images: Sequence[bytes], labels: Sequence[int], names: list[str]) -> Table:
    return Table({"image": images, "label": labels}, {"label": names})
