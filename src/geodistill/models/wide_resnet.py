"""Wide ResNet for CIFAR-size images: three stages of blocks that normalise before they convolve."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.models.base import CifarClassifier, CifarConfig, conv_norm_relu, convolution


class CifarWideResNetConfig(CifarConfig):
    """The config of a wide ResNet WRN-depth-widen_factor.

    Args:
        depth: 6n + 4 layers, n blocks a stage: 10, 16, 22, 28, 40.
        widen_factor: k; the stages have 16k, 32k and 64k channels.
        **kwargs: as for `CifarConfig`.

    Raises:
        GeodistillError: the depth is not 6n + 4, or the factor is below 1.

    Example:
        CifarWideResNetConfig(depth=40, widen_factor=2, num_labels=10)
    """

    model_type = "geodistill_wide_resnet"
    halvings: ClassVar[int] = 2

    depth: int = 16
    widen_factor: int = 1

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.depth < 10 or self.depth % 6 != 4:
            raise GeodistillError(
                f"A wide ResNet has 6n + 4 layers, and depth is {self.depth}.",
                "Give a depth such as 10, 16, 22, 28 or 40.",
            )
        if self.widen_factor < 1:
            raise GeodistillError(f"widen_factor is {self.widen_factor}.", "Give a whole number from 1 up.")


class PreActivationBlock(nn.Module):
    """F(relu(norm(x))) + x; if the channels change, the shortcut is a 1 × 1 convolution of relu(norm(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.residual = nn.Sequential(
            *conv_norm_relu(inputs, outputs, stride=stride),
            convolution(outputs, outputs),
        )
        self.shortcut = None if inputs == outputs else convolution(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activation(x)
        return self.residual(active) + (x if self.shortcut is None else self.shortcut(active))


class CifarWideResNetForImageClassification(CifarClassifier):
    """WRN-d-k without dropout, as in the CRD benchmark.

    Its hidden states are maps of h × w, h × w, h/2 × w/2 and h/4 × w/4 before any rectifier: the sums that the next
    block normalises.

    Args:
        config: a `CifarWideResNetConfig`.

    Example:
        model = CifarWideResNetForImageClassification(CifarWideResNetConfig(depth=40, widen_factor=2, num_labels=10))
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: Zagoruyko and Komodakis, "Wide residual networks", arXiv 1605.07146, table 1.
    """

    config_class = CifarWideResNetConfig
    config: CifarWideResNetConfig
    _no_split_modules = ["PreActivationBlock"]  # noqa: RUF012

    def __init__(self, config: CifarWideResNetConfig) -> None:
        super().__init__(config)
        blocks = (config.depth - 4) // 6
        inputs = 16
        self.stem = convolution(config.num_channels, inputs)
        self.stages = nn.ModuleList()
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            width *= config.widen_factor
            others = (PreActivationBlock(width, width, 1) for _ in range(1, blocks))
            self.stages.append(nn.Sequential(PreActivationBlock(inputs, width, stride), *others))
            inputs = width
        self._finish(nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()), inputs)
