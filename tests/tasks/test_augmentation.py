from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from geodistill.tasks.augmentation import View, apply_view, draw_view

IMAGE = np.arange(1, 2 * 32 * 32 + 1).reshape(2, 32, 32).astype(np.uint8)


def test_a_view_is_decided_by_seed_epoch_and_example() -> None:
    assert draw_view("crop_flip", 0, 1, 2) == draw_view("crop_flip", 0, 1, 2)
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        draws = [draw_view("crop_flip", *(each + 10 * shift for each in other)) for shift in range(5)]
        assert draws != [draw_view("crop_flip", *(each + 10 * shift for each in (0, 1, 2))) for shift in range(5)]
    assert draw_view("none", 0, 1, 2) == View()


def test_views_are_equally_likely() -> None:
    views = [draw_view("crop_flip", 0, 0, example) for example in range(9000)]
    for shifts in (Counter(view.down for view in views), Counter(view.right for view in views)):
        assert set(shifts) == set(range(-4, 5)) and all(850 < count < 1150 for count in shifts.values())
    assert 4200 < sum(view.mirrored for view in views) < 4800
    assert 50 < sum(view.down == view.right == 0 for view in views) < 180, "both shifts are drawn by themselves"
    assert not any(draw_view("crop", 0, 0, example).mirrored for example in range(100))


@pytest.mark.parametrize("down", [-4, -1, 0, 3])
@pytest.mark.parametrize("right", [-4, 0, 2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_view_is_a_crop_of_the_padded_image(down: int, right: int, mirrored: bool) -> None:
    padded = np.pad(IMAGE, ((0, 0), (4, 4), (4, 4)))
    expected = padded[:, 4 - down : 36 - down, 4 - right : 36 - right]
    before = IMAGE.copy()
    seen = apply_view(IMAGE, View(down, right, mirrored))
    assert np.array_equal(seen, expected[:, :, ::-1] if mirrored else expected)
    assert np.array_equal(IMAGE, before) and seen.dtype == np.uint8 and seen.flags.c_contiguous


def test_images_of_two_sizes_get_the_same_view() -> None:
    small = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    large = small.repeat(7, axis=1).repeat(7, axis=2)  # 224 × 224
    view = View(3, -4, True)
    assert np.array_equal(apply_view(large, view)[:, ::7, ::7], apply_view(small, view))


def test_shifts_of_small_images_are_whole_pixels() -> None:
    image = np.arange(1, 65).reshape(1, 8, 8).astype(np.uint8)
    assert np.array_equal(apply_view(image, View(4, 0))[:, 1:], image[:, :-1])
    assert np.array_equal(apply_view(image, View(1, -1)), image), "less than half a pixel"
