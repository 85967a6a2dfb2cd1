"""VGG: the order of its layers, parameters by hand and as published, and groups that do not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.models import CifarVGGConfig, CifarVGGForImageClassification

WIDTHS = (64, 128, 256, 512, 512)
# torchvision publishes these counts with its ImageNet weights; of them these three linear layers are not ours.
LINEAR_LAYERS_OF_TORCHVISION = (512 * 49 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000


def test_stages_pool_and_then_convolve(
    seeded: None, normalise: Callable[[torch.Tensor, nn.BatchNorm2d], torch.Tensor]
) -> None:
    config = CifarVGGConfig(convolutions=(1, 1, 1, 1, 1), widths=(4, 4, 4, 4, 4), num_labels=3)
    model = CifarVGGForImageClassification(config).train()
    images = torch.randn(3, 3, 16, 16)
    maps = model(images, output_hidden_states=True).hidden_states
    x = images
    for number, group in enumerate([model.stem[0], *(stage[-1] for stage in model.stages)]):
        if 0 < number < 4:
            x = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)
        convolution, norm, _ = group
        x = normalise(functional.conv2d(x, convolution.weight, convolution.bias, padding=1), norm).clamp(min=0)
        torch.testing.assert_close(maps[number], x, rtol=1e-3, atol=1e-4)


def parameters_by_hand(convolutions: tuple[int, ...], labels: int) -> int:
    total, inputs = 0, 3
    for count, width in zip(convolutions, WIDTHS, strict=True):
        for _ in range(count):
            total += 9 * inputs * width + width + 2 * width
            inputs = width
    return total + (inputs + 1) * labels


def test_parameters_by_hand(count: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        model = CifarVGGForImageClassification(CifarVGGConfig(convolutions=(1, 1, 2, 2, 2), num_labels=100))
    assert count(model) == parameters_by_hand((1, 1, 2, 2, 2), 100)


@pytest.mark.parametrize(
    ("convolutions", "published"),
    [
        ((1, 1, 2, 2, 2), 132_868_840),
        ((2, 2, 2, 2, 2), 133_053_736),
        ((2, 2, 3, 3, 3), 138_365_992),
        ((2, 2, 4, 4, 4), 143_678_248),
    ],
)
def test_convolutions_are_those_of_torchvision(convolutions: tuple[int, ...], published: int) -> None:
    """`num_params` of VGG11_BN, VGG13_BN, VGG16_BN and VGG19_BN in torchvision's table of weights."""
    assert parameters_by_hand(convolutions, 0) == published - LINEAR_LAYERS_OF_TORCHVISION


@pytest.mark.parametrize(
    "given", [{"convolutions": (1, 1, 1)}, {"convolutions": (1, 1, 1, 1, 0)}, {"widths": (64, 128)}]
)
def test_groups_that_do_not_fit(given: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(GeodistillError, match="Give five of each"):
        CifarVGGConfig(**given)
