"""MobileNetV2 for CIFAR-size images: inverted residual blocks that halve a 32 × 32 image four times."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.models.base import CifarClassifier, CifarConfig, conv_norm, conv_norm_relu

# For each stage its groups of blocks: (expands, channels at width 1, blocks, stride of the first).
STAGES = (
    ((False, 16, 1, 1), (True, 24, 2, 1)),
    ((True, 32, 3, 2),),
    ((True, 64, 4, 2), (True, 96, 3, 1)),
    ((True, 160, 3, 2), (True, 320, 1, 1)),
)
NECK_WIDTH = 1280


class CifarMobileNetV2Config(CifarConfig):
    """The config of a MobileNetV2.

    Args:
        width: factor of all channels but the channels of the neck, which only a factor above 1 widens.
        expansion: by how much a block widens its input before the depthwise convolution; T in the benchmark.
        **kwargs: as for `CifarConfig`.

    Raises:
        GeodistillError: the width leaves a group without a channel, or the expansion is below 1.

    Example:
        CifarMobileNetV2Config(width=0.5, expansion=6, num_labels=10)
    """

    model_type = "geodistill_mobilenet_v2"
    halvings: ClassVar[int] = 4

    width: float = 0.5
    expansion: int = 6

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if int(16 * self.width) < 1 or self.expansion < 1:
            raise GeodistillError(
                f"width is {self.width} and expansion is {self.expansion}.",
                "Give a width from 1/16 up and an expansion from 1 up.",
            )


class InvertedResidual(nn.Module):
    """Widen by a 1 × 1 convolution, convolve each channel alone, and narrow without a rectifier; plus the input, if
    the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = nn.Sequential(
            *conv_norm_relu(inputs, hidden, kernel=1),
            *conv_norm(hidden, hidden, stride=stride, groups=hidden),
            nn.ReLU(),
            *conv_norm(hidden, outputs, kernel=1),
        )
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.adds_input else self.residual(x)


class CifarMobileNetV2ForImageClassification(CifarClassifier):
    """MobileNetV2 as in the CRD benchmark: width 0.5, expansion 6, and half of the original's halvings.

    It differs from the original in three ways: the stem and later stages halve an image 4 times instead of 5, the
    first block also has its 1 × 1 convolution, and the rectifiers have no upper bound. The hidden states are maps of
    h/2, h/2, h/4, h/8 and h/16; the maps of the stages are linear, because the blocks end without a rectifier.

    Args:
        config: a `CifarMobileNetV2Config`.

    Example:
        model = CifarMobileNetV2ForImageClassification(CifarMobileNetV2Config(num_labels=10))
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", arXiv 1801.04381, table 2;
    Tian et al., arXiv 1910.10699, for the strides and the width.
    """

    config_class = CifarMobileNetV2Config
    config: CifarMobileNetV2Config
    _no_split_modules = ["InvertedResidual"]  # noqa: RUF012

    def __init__(self, config: CifarMobileNetV2Config) -> None:
        super().__init__(config)
        inputs = int(32 * config.width)
        self.stem = conv_norm_relu(config.num_channels, inputs, stride=2)
        self.stages = nn.ModuleList()
        for groups in STAGES:
            blocks = []
            for expands, channels, count, stride in groups:
                outputs = int(channels * config.width)
                expansion = config.expansion if expands else 1
                for number in range(count):
                    blocks.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, expansion))
                    inputs = outputs
            self.stages.append(nn.Sequential(*blocks))
        width = int(NECK_WIDTH * max(1.0, config.width))
        self._finish(conv_norm_relu(inputs, width, kernel=1), width)
