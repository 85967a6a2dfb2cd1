"""ShuffleNetV2 for CIFAR-size images: blocks that work on half of the channels and mix the halves."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.models.base import CifarClassifier, CifarConfig, conv_norm, conv_norm_relu

STEM_WIDTH = 24


class CifarShuffleNetV2Config(CifarConfig):
    """The config of a ShuffleNetV2.

    Args:
        widths: channels of the three stages, even numbers: (116, 232, 464) is size 1, (48, 96, 192) size 0.5.
        blocks: blocks of the three stages.
        neck_width: channels of the 1 × 1 convolution before the average.
        **kwargs: as for `CifarConfig`.

    Raises:
        GeodistillError: there are not three widths and numbers of blocks, or a width is odd.

    Example:
        CifarShuffleNetV2Config(widths=(48, 96, 192), num_labels=10)
    """

    model_type = "geodistill_shufflenet_v2"
    halvings: ClassVar[int] = 3

    widths: list[int] | tuple[int, ...] = (116, 232, 464)
    blocks: list[int] | tuple[int, ...] = (4, 8, 4)
    neck_width: int = 1024

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if not len(self.widths) == len(self.blocks) == 3 or any(width % 2 for width in self.widths):
            raise GeodistillError(
                f"widths is {list(self.widths)} and blocks is {list(self.blocks)}.",
                "Give three of each, and even widths, because a block works on half of its channels.",
            )


class ShuffleUnit(nn.Module):
    """Keep half of the channels, convolve the other half, and mix the two: channel i of both halves become neighbours.

    The first unit of a stage halves the map: both of its branches see all channels and convolve.
    """

    def __init__(self, inputs: int, outputs: int, *, halves: bool) -> None:
        super().__init__()
        half, stride = outputs // 2, 2 if halves else 1
        self.halves = halves
        self.kept = (
            nn.Sequential(
                *conv_norm(inputs, inputs, stride=stride, groups=inputs), *conv_norm_relu(inputs, half, kernel=1)
            )
            if halves
            else nn.Identity()
        )
        self.convolved = nn.Sequential(
            *conv_norm_relu(inputs if halves else half, half, kernel=1),
            *conv_norm(half, half, stride=stride, groups=half),
            *conv_norm_relu(half, half, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x, x) if self.halves else x.chunk(2, dim=1)
        joined = torch.cat([self.kept(first), self.convolved(second)], dim=1)
        return functional.channel_shuffle(joined, 2)


class CifarShuffleNetV2ForImageClassification(CifarClassifier):
    """ShuffleNetV2 as in the CRD benchmark: a 1 × 1 stem that keeps the size, and no pooling after it.

    Its hidden states are maps of h, h/2, h/4 and h/8.

    Args:
        config: a `CifarShuffleNetV2Config`.

    Example:
        model = CifarShuffleNetV2ForImageClassification(CifarShuffleNetV2Config(num_labels=10))
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: Ma et al., "ShuffleNet V2: practical guidelines for efficient CNN architecture design",
    arXiv 1807.11164, table 5; Tian et al., arXiv 1910.10699, for the stem.
    """

    config_class = CifarShuffleNetV2Config
    config: CifarShuffleNetV2Config
    _no_split_modules = ["ShuffleUnit"]  # noqa: RUF012

    def __init__(self, config: CifarShuffleNetV2Config) -> None:
        super().__init__(config)
        inputs = STEM_WIDTH
        self.stem = conv_norm_relu(config.num_channels, inputs, kernel=1)
        self.stages = nn.ModuleList()
        for width, blocks in zip(config.widths, config.blocks, strict=True):
            others = (ShuffleUnit(width, width, halves=False) for _ in range(1, blocks))
            self.stages.append(nn.Sequential(ShuffleUnit(inputs, width, halves=True), *others))
            inputs = width
        self._finish(conv_norm_relu(inputs, config.neck_width, kernel=1), config.neck_width)
