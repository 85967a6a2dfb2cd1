"""ShuffleNetV1: the block by its formula, parameters by hand, and widths that do not divide into groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.models import CifarShuffleNetV1Config, CifarShuffleNetV1ForImageClassification
from geodistill.models.shufflenet_v1 import GroupedUnit

Normalise = Callable[[torch.Tensor, nn.BatchNorm2d], torch.Tensor]


def grouped(x: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """A 1 × 1 convolution, group by group: each group of outputs sees one group of inputs."""
    parts = zip(x.chunk(groups, dim=1), weight[:, :, 0, 0].chunk(groups), strict=True)
    return torch.cat([torch.einsum("bchw,oc->bohw", part, block) for part, block in parts], dim=1)


@pytest.mark.parametrize("halves", [False, True])
def test_unit_by_its_formula(halves: bool, seeded: None, normalise: Normalise) -> None:
    inputs, outputs, groups = (8, 24, 2) if halves else (16, 16, 2)
    unit = GroupedUnit(inputs, outputs, groups=groups, first_groups=groups, halves=halves).train()
    x = torch.randn(3, inputs, 6, 6)
    first, first_norm, _, _, alone, alone_norm, _, last, last_norm = unit.residual
    middle = normalise(grouped(x, first.weight, groups), first_norm).clamp(min=0)
    per_group = middle.shape[1] // groups
    shuffled = torch.stack([middle[:, g * per_group + i] for i in range(per_group) for g in range(groups)], dim=1)
    stride = 2 if halves else 1
    mixed = functional.conv2d(shuffled, alone.weight, stride=stride, padding=1, groups=middle.shape[1])
    residual = normalise(grouped(normalise(mixed, alone_norm).clamp(min=0), last.weight, groups), last_norm)
    if halves:
        windows = functional.pad(x, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
        expected = torch.cat([residual, windows.sum(dim=(-2, -1)) / 9], dim=1).clamp(min=0)
    else:
        expected = (residual + x).clamp(min=0)
    torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-5)


def parameters_by_hand(labels: int) -> int:
    total, inputs = 3 * 24 + 2 * 24, 24
    for stage, (width, blocks) in enumerate(((240, 4), (480, 8), (960, 4))):
        for block in range(blocks):
            made = width - inputs if block == 0 else width
            middle, groups = made // 4, 1 if (stage, block) == (0, 0) else 3
            total += inputs * middle // groups + 2 * middle
            total += 9 * middle + 2 * middle
            total += middle * made // 3 + 2 * made
            inputs = width
    return total + (inputs + 1) * labels


def test_parameters_by_hand(count: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        model = CifarShuffleNetV1ForImageClassification(CifarShuffleNetV1Config(num_labels=100))
    assert count(model) == parameters_by_hand(100)


@pytest.mark.parametrize("given", [{"widths": (240, 480)}, {"widths": (240, 481, 960)}, {"groups": 5}, {"groups": 0}])
def test_widths_that_do_not_divide(given: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(GeodistillError, match="has to divide into the groups"):
        CifarShuffleNetV1Config(**given)
