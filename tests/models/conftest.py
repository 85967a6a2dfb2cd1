"""One small model of each family, and what the tests of all families share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from geodistill.models import (
    CifarConfig,
    CifarMobileNetV2Config,
    CifarResNetConfig,
    CifarShuffleNetV1Config,
    CifarShuffleNetV2Config,
    CifarVGGConfig,
    CifarWideResNetConfig,
)

SMALL: dict[str, Callable[..., CifarConfig]] = {
    "resnet": lambda **given: CifarResNetConfig(depth=8, widths=(4, 4, 8, 8), **given),
    "wide_resnet": lambda **given: CifarWideResNetConfig(depth=10, widen_factor=1, **given),
    "vgg": lambda **given: CifarVGGConfig(widths=(4, 4, 8, 8, 8), **given),
    "mobilenet_v2": lambda **given: CifarMobileNetV2Config(width=0.125, expansion=2, **given),
    "shufflenet_v1": lambda **given: CifarShuffleNetV1Config(widths=(32, 40, 48), blocks=(1, 2, 1), groups=2, **given),
    "shufflenet_v2": lambda **given: CifarShuffleNetV2Config(
        widths=(8, 16, 16), blocks=(1, 2, 1), neck_width=32, **given
    ),
}


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest) -> Callable[..., CifarConfig]:
    """Make the config of a small model, of each family in turn."""
    return SMALL[request.param]


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def count() -> Callable[[nn.Module], int]:
    return lambda model: sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def normalise() -> Callable[[torch.Tensor, nn.BatchNorm2d], torch.Tensor]:
    """Batch normalisation by its definition, with the statistics of the batch."""

    def by_definition(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
        scale, shift = norm.weight[:, None, None], norm.bias[:, None, None]
        return (x - mean) / (variance + norm.eps).sqrt() * scale + shift

    return by_definition
