"""Wide ResNet: the block by its formula, parameters by hand and as published, and depths that do not exist."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.models import CifarWideResNetConfig, CifarWideResNetForImageClassification
from geodistill.models.wide_resnet import PreActivationBlock

Normalise = Callable[[torch.Tensor, nn.BatchNorm2d], torch.Tensor]


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 2)])
def test_block_normalises_first(inputs: int, outputs: int, stride: int, seeded: None, normalise: Normalise) -> None:
    block = PreActivationBlock(inputs, outputs, stride).train()
    x = torch.randn(3, inputs, 8, 8)
    active = normalise(x, block.activation[0]).clamp(min=0)
    first, norm, _, second = block.residual
    middle = normalise(functional.conv2d(active, first.weight, stride=stride, padding=1), norm).clamp(min=0)
    shortcut = x if inputs == outputs else functional.conv2d(active, block.shortcut.weight, stride=stride)
    expected = functional.conv2d(middle, second.weight, padding=1) + shortcut
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def parameters_by_hand(depth: int, factor: int, labels: int) -> int:
    total, inputs = 27 * 16, 16
    for width in (16 * factor, 32 * factor, 64 * factor):
        for _ in range((depth - 4) // 6):
            total += 2 * inputs + 9 * inputs * width + 2 * width + 9 * width * width
            if inputs != width:
                total += inputs * width
            inputs = width
    return total + 2 * inputs + (inputs + 1) * labels


@pytest.mark.parametrize(("depth", "factor"), [(16, 1), (16, 2), (40, 2)])
def test_parameters_by_hand(depth: int, factor: int, count: Callable[[nn.Module], int]) -> None:
    config = CifarWideResNetConfig(depth=depth, widen_factor=factor, num_labels=100)
    assert count(CifarWideResNetForImageClassification(config)) == parameters_by_hand(depth, factor, 100)


@pytest.mark.parametrize(("depth", "factor", "millions"), [(40, 1, 0.6), (40, 2, 2.2), (28, 10, 36.5)])
def test_parameters_of_the_paper(depth: int, factor: int, millions: float) -> None:
    """Tables 3 and 4 of arXiv 1605.07146, for CIFAR-10, rounded there to a tenth of a million."""
    assert parameters_by_hand(depth, factor, 10) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("given", "message"), [({"depth": 20}, "6n \\+ 4 layers"), ({"widen_factor": 0}, "widen_factor is 0")]
)
def test_network_that_does_not_exist(given: dict[str, int], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        CifarWideResNetConfig(**given)
