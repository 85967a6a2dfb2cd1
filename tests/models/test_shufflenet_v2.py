"""ShuffleNetV2: the shuffle, parameters by hand and as published, and widths that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from geodistill.errors import GeodistillError
from geodistill.models import CifarShuffleNetV2Config, CifarShuffleNetV2ForImageClassification
from geodistill.models.shufflenet_v2 import ShuffleUnit


def test_unit_keeps_one_half_and_mixes(seeded: None) -> None:
    unit = ShuffleUnit(6, 6, halves=False).eval()
    x = torch.randn(2, 6, 4, 4)
    mixed = unit(x)
    convolved = unit.convolved(x[:, 3:])
    for channel in range(3):
        torch.testing.assert_close(mixed[:, 2 * channel], x[:, channel])
        torch.testing.assert_close(mixed[:, 2 * channel + 1], convolved[:, channel])


def test_first_unit_of_a_stage_halves_the_map(seeded: None) -> None:
    unit = ShuffleUnit(3, 8, halves=True).eval()
    x = torch.randn(2, 3, 6, 6)
    mixed = unit(x)
    assert mixed.shape == (2, 8, 3, 3)
    torch.testing.assert_close(mixed[:, 0::2], unit.kept(x))
    torch.testing.assert_close(mixed[:, 1::2], unit.convolved(x))


def parameters_by_hand(labels: int) -> int:
    total, inputs = 3 * 24 + 2 * 24, 24
    for width, blocks in ((116, 4), (232, 8), (464, 4)):
        half = width // 2
        tail = 2 * half + 9 * half + 2 * half + half * half + 2 * half
        total += 9 * inputs + 2 * inputs + inputs * half + 2 * half  # the branch of the first unit that is kept
        total += inputs * half + tail
        total += (blocks - 1) * (half * half + tail)
        inputs = width
    return total + inputs * 1024 + 2 * 1024 + (1024 + 1) * labels


def test_parameters_by_hand(count: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        model = CifarShuffleNetV2ForImageClassification(CifarShuffleNetV2Config(num_labels=100))
    assert count(model) == parameters_by_hand(100)


def test_parameters_of_torchvision() -> None:
    """`num_params` of torchvision's ShuffleNet_V2_X1_0, whose stem is a 3 × 3 convolution and ours 1 × 1."""
    assert parameters_by_hand(1000) + 3 * 24 * (9 - 1) == 2_278_604


@pytest.mark.parametrize("given", [{"widths": (116, 232)}, {"widths": (116, 233, 464)}, {"blocks": (4, 8)}])
def test_widths_that_do_not_fit(given: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(GeodistillError, match="even widths"):
        CifarShuffleNetV2Config(**given)
