"""ShuffleNetV1 for CIFAR-size images: 1 × 1 convolutions of groups of channels, and a shuffle that mixes the groups."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.models.base import CifarClassifier, CifarConfig, conv_norm, conv_norm_relu

STEM_WIDTH = 24


class CifarShuffleNetV1Config(CifarConfig):
    """The config of a ShuffleNetV1.

    Args:
        widths: channels of the three stages; each stage joins its predecessor's channels to new ones.
        blocks: blocks of the three stages.
        groups: groups of the 1 × 1 convolutions; the very first convolution sees every channel of the stem.
        **kwargs: as for `CifarConfig`.

    Raises:
        GeodistillError: there are not three widths and numbers of blocks, or a quarter of the channels that a stage or
            its first block makes does not divide into the groups.

    Example:
        CifarShuffleNetV1Config(groups=3, num_labels=10)
    """

    model_type = "geodistill_shufflenet_v1"
    halvings: ClassVar[int] = 3

    widths: list[int] | tuple[int, ...] = (240, 480, 960)
    blocks: list[int] | tuple[int, ...] = (4, 8, 4)
    groups: int = 3

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        made = [width - before for before, width in zip((STEM_WIDTH, *self.widths), self.widths, strict=False)]
        whole = self.groups > 0 and all(
            channels > 0 and channels % (4 * self.groups) == 0 for channels in (*made, *self.widths)
        )
        if not len(self.widths) == len(self.blocks) == 3 or not whole:
            raise GeodistillError(
                f"widths is {list(self.widths)}, blocks is {list(self.blocks)} and groups is {self.groups}.",
                "Give three widths and three numbers of blocks; a quarter of each width, and of what each width adds "
                f"to the one before ({STEM_WIDTH} before the first), has to divide into the groups.",
            )


class GroupedUnit(nn.Module):
    """A residual block whose 1 × 1 convolutions see one group of channels each.

    The first unit of a stage halves the map: it joins the average-pooled input to the channels that it makes.
    """

    def __init__(self, inputs: int, outputs: int, *, groups: int, first_groups: int, halves: bool) -> None:
        super().__init__()
        made = outputs - inputs if halves else outputs
        middle = made // 4
        self.residual = nn.Sequential(
            *conv_norm(inputs, middle, kernel=1, groups=first_groups),
            nn.ReLU(),
            nn.ChannelShuffle(first_groups),
            *conv_norm(middle, middle, stride=2 if halves else 1, groups=middle),
            nn.ReLU(),
            *conv_norm(middle, made, kernel=1, groups=groups),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if halves else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        return self.relu(residual + x if self.pool is None else torch.cat([residual, self.pool(x)], dim=1))


class CifarShuffleNetV1ForImageClassification(CifarClassifier):
    """ShuffleNetV1 as in the CRD benchmark, with a 1 × 1 stem that keeps the size.

    A rectifier follows each depthwise convolution. Its hidden states are maps of h, h/2, h/4 and h/8, after the
    rectifier.

    Args:
        config: a `CifarShuffleNetV1Config`.

    Example:
        model = CifarShuffleNetV1ForImageClassification(CifarShuffleNetV1Config(num_labels=10))
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: Zhang et al., "ShuffleNet: an extremely efficient convolutional neural network for mobile devices",
    arXiv 1707.01083, table 1; Tian et al., arXiv 1910.10699, for the stem.
    """

    config_class = CifarShuffleNetV1Config
    config: CifarShuffleNetV1Config
    _no_split_modules = ["GroupedUnit"]  # noqa: RUF012

    def __init__(self, config: CifarShuffleNetV1Config) -> None:
        super().__init__(config)
        inputs = STEM_WIDTH
        self.stem = conv_norm_relu(config.num_channels, inputs, kernel=1)
        self.stages = nn.ModuleList()
        groups = config.groups
        for number, (width, blocks) in enumerate(zip(config.widths, config.blocks, strict=True)):
            first_groups = 1 if number == 0 else groups
            first = GroupedUnit(inputs, width, groups=groups, first_groups=first_groups, halves=True)
            others = (
                GroupedUnit(width, width, groups=groups, first_groups=groups, halves=False) for _ in range(1, blocks)
            )
            self.stages.append(nn.Sequential(first, *others))
            inputs = width
        self._finish(nn.Identity(), inputs)
