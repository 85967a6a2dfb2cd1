"""ResNet: the block by its formula, parameters by hand and as published, and depths that do not exist."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.models import CifarResNetConfig, CifarResNetForImageClassification
from geodistill.models.resnet import BasicBlock

Count = Callable[[nn.Module], int]
Normalise = Callable[[torch.Tensor, nn.BatchNorm2d], torch.Tensor]


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2), (4, 8, 1)])
def test_block_is_a_residual_and_a_shortcut(
    inputs: int, outputs: int, stride: int, seeded: None, normalise: Normalise
) -> None:
    block = BasicBlock(inputs, outputs, stride).train()
    x = torch.randn(3, inputs, 8, 8)
    first, first_norm, _, second, second_norm = block.residual
    residual = normalise(functional.conv2d(x, first.weight, stride=stride, padding=1), first_norm).clamp(min=0)
    residual = normalise(functional.conv2d(residual, second.weight, padding=1), second_norm)
    shortcut = x
    if (inputs, stride) != (outputs, 1):
        projection, norm = block.shortcut
        shortcut = normalise(functional.conv2d(x, projection.weight, stride=stride), norm)
    torch.testing.assert_close(block(x), (residual + shortcut).clamp(min=0), rtol=1e-4, atol=1e-5)


def parameters_by_hand(depth: int, widths: tuple[int, ...], labels: int) -> int:
    """9·c_in·c_out for a 3 × 3 convolution, c_in·c_out for a shortcut, 2c for a normalisation, (c + 1)·labels."""
    stem, *stages = widths
    total, inputs = 27 * stem + 2 * stem, stem
    for number, width in enumerate(stages):
        for block in range((depth - 2) // 6):
            total += 9 * inputs * width + 9 * width * width + 4 * width
            if block == 0 and (number > 0 or inputs != width):
                total += inputs * width + 2 * width
            inputs = width
    return total + (inputs + 1) * labels


@pytest.mark.parametrize(("depth", "widths"), [(8, (16, 16, 32, 64)), (20, (16, 16, 32, 64)), (8, (32, 64, 128, 256))])
def test_parameters_by_hand(depth: int, widths: tuple[int, ...], count: Count) -> None:
    model = CifarResNetForImageClassification(CifarResNetConfig(depth=depth, widths=widths, num_labels=100))
    assert count(model) == parameters_by_hand(depth, widths, 100)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_of_the_paper(depth: int, millions: float) -> None:
    """Table 6 of arXiv 1512.03385, for CIFAR-10. Its shortcuts have no parameters, so the two projections go off."""
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    parameters = parameters_by_hand(depth, (16, 16, 32, 64), 10) - projections
    assert parameters / 1e6 == pytest.approx(millions, abs=0.05 if depth == 110 else 0.005)


@pytest.mark.parametrize("depth", [2, 7, 18, 40])
def test_depth_that_does_not_exist(depth: int) -> None:
    with pytest.raises(GeodistillError, match="6n \\+ 2 layers"):
        CifarResNetConfig(depth=depth)


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(GeodistillError, match="widths has 3 entries"):
        CifarResNetConfig(widths=(16, 32, 64))
