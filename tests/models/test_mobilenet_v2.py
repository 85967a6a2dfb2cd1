"""MobileNetV2: the block by its formula, parameters by hand and as published, and widths that leave nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.models import CifarMobileNetV2Config, CifarMobileNetV2ForImageClassification
from geodistill.models.mobilenet_v2 import InvertedResidual


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 4, 2), (4, 6, 1)])
def test_block_widens_and_narrows(
    inputs: int,
    outputs: int,
    stride: int,
    seeded: None,
    normalise: Callable[[torch.Tensor, nn.BatchNorm2d], torch.Tensor],
) -> None:
    block = InvertedResidual(inputs, outputs, stride, expansion=3).train()
    x = torch.randn(3, inputs, 8, 8)
    widen, widen_norm, _, alone, alone_norm, _, narrow, narrow_norm = block.residual
    wide = normalise(torch.einsum("bchw,oc->bohw", x, widen.weight[:, :, 0, 0]), widen_norm).clamp(min=0)
    channels = [
        functional.conv2d(wide[:, i : i + 1], alone.weight[i : i + 1], stride=stride, padding=1)
        for i in range(3 * inputs)
    ]
    mixed = normalise(torch.cat(channels, dim=1), alone_norm).clamp(min=0)
    expected = normalise(torch.einsum("bchw,oc->bohw", mixed, narrow.weight[:, :, 0, 0]), narrow_norm)
    if stride == 1 and inputs == outputs:
        expected = expected + x
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def parameters_by_hand(width: float, expansion: int, labels: int) -> int:
    """The table of the paper: (expansion, channels, blocks) of each group, then the neck and the linear layer."""
    inputs = int(32 * width)
    total = 27 * inputs + 2 * inputs
    table = ((1, 16, 1), (expansion, 24, 2), (expansion, 32, 3), (expansion, 64, 4))
    for widens, channels, blocks in (*table, (expansion, 96, 3), (expansion, 160, 3), (expansion, 320, 1)):
        for _ in range(blocks):
            hidden, outputs = inputs * widens, int(channels * width)
            total += inputs * hidden + 2 * hidden + 9 * hidden + 2 * hidden + hidden * outputs + 2 * outputs
            inputs = outputs
    return total + inputs * 1280 + 2 * 1280 + (1280 + 1) * labels


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_parameters_by_hand(width: float, count: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        model = CifarMobileNetV2ForImageClassification(CifarMobileNetV2Config(width=width, num_labels=100))
    assert count(model) == parameters_by_hand(width, 6, 100)


def test_parameters_of_torchvision() -> None:
    """`num_params` of torchvision's MobileNet_V2, whose first block lacks the 1 × 1 convolution (32 → 32) of ours."""
    assert parameters_by_hand(1.0, 6, 1000) - (32 * 32 + 2 * 32) == 3_504_872


@pytest.mark.parametrize("given", [{"width": 0.05}, {"expansion": 0}])
def test_widths_that_leave_nothing(given: dict[str, float]) -> None:
    with pytest.raises(GeodistillError, match="width from 1/16 up"):
        CifarMobileNetV2Config(**given)
