"""Views of an image: shifted and mirrored. Both sides of a distillation get the same view, each in its own size.

A view is drawn from the seed, the epoch and the example's number alone, by a hash. It needs no state, so a resumed run,
several ranks and both sides agree on it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geodistill.recipe import Augmentation

# The usual crop of CIFAR-10: 4 pixels of padding around 32 × 32 (He et al. 2016). Shifts are drawn in 32nds of the side
# at every size, so images of 32 and of 224 pixels are shifted alike.
STEPS, MOST_STEPS = 32, 4
CHOICES = 2 * MOST_STEPS + 1


@dataclass(frozen=True)
class View:
    """How an image is seen.

    down, right: by how many 32nds of its height and width it is shifted; what it leaves is black
    mirrored: whether left and right are exchanged, after the shift
    """

    down: int = 0
    right: int = 0
    mirrored: bool = False


def draw_view(augmentation: Augmentation, seed: int, epoch: int, example: int) -> View:
    """Draw the view of an example in an epoch.

    `crop` is a crop of the image's size out of the image with a border of an eighth of its side: shifts from −4 to +4
    32nds, all equally likely. `crop_flip` mirrors half of the views as well. `none` is the image itself.
    """
    if augmentation == "none":
        return View()
    drawn = int.from_bytes(hashlib.blake2b(f"{seed} {epoch} {example}".encode(), digest_size=8).digest(), "big")
    drawn, down = divmod(drawn, CHOICES)
    drawn, right = divmod(drawn, CHOICES)
    return View(down - MOST_STEPS, right - MOST_STEPS, augmentation == "crop_flip" and drawn % 2 == 1)


def apply_view(pixels: NDArray[np.uint8], view: View) -> NDArray[np.uint8]:
    """Return an image (channels, height, width) as it is seen in a view. The image itself stays unchanged."""
    _, height, width = pixels.shape
    rows, columns = round(view.down * height / STEPS), round(view.right * width / STEPS)
    seen = pixels
    if rows or columns:
        seen = np.zeros_like(pixels)
        to_rows, from_rows = _overlap(rows, height)
        to_columns, from_columns = _overlap(columns, width)
        seen[:, to_rows, to_columns] = pixels[:, from_rows, from_columns]
    return np.ascontiguousarray(seen[:, :, ::-1]) if view.mirrored else seen


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Where the pixels of a side go when it is shifted, and where they come from."""
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size - max(shift, 0))
