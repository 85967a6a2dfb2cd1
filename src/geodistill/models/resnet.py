"""ResNet for CIFAR-size images: three stages of basic blocks on a 3 × 3 stem that keeps the size."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.models.base import CifarClassifier, CifarConfig, conv_norm, conv_norm_relu


class CifarResNetConfig(CifarConfig):
    """The config of a ResNet of 6n + 2 layers.

    Args:
        depth: 6n + 2 layers, n blocks a stage: 8, 14, 20, 32, 44, 56, 110.
        widths: channels of the stem and of the three stages.
        **kwargs: as for `CifarConfig`.

    Raises:
        GeodistillError: the depth is not 6n + 2, or there are not four widths.

    Example:
        CifarResNetConfig(depth=20, num_labels=10)
    """

    model_type = "geodistill_resnet"
    halvings: ClassVar[int] = 2

    depth: int = 20
    widths: list[int] | tuple[int, ...] = (16, 16, 32, 64)

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.depth < 8 or self.depth % 6 != 2:
            raise GeodistillError(
                f"A ResNet of basic blocks has 6n + 2 layers, and depth is {self.depth}.",
                "Give a depth such as 8, 14, 20, 32, 44, 56 or 110.",
            )
        if len(self.widths) != 4:
            raise GeodistillError(
                f"widths has {len(self.widths)} entries.", "Give the channels of the stem and of the three stages."
            )


class BasicBlock(nn.Module):
    """relu(F(x) + shortcut(x)), F two 3 × 3 convolutions; the shortcut is a 1 × 1 convolution if shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *conv_norm_relu(inputs, outputs, stride=stride),
            *conv_norm(outputs, outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, kernel=1, stride=stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class CifarResNetForImageClassification(CifarClassifier):
    """ResNet-n of He et al. for 32 × 32 images, with the shortcuts and widths of the CRD benchmark.

    Its hidden states are maps of h × w, h × w, h/2 × w/2 and h/4 × w/4, after the rectifier.

    Args:
        config: a `CifarResNetConfig`.

    Example:
        model = CifarResNetForImageClassification(CifarResNetConfig(depth=20, num_labels=10))
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: He et al., "Deep residual learning for image recognition", arXiv 1512.03385, section 4.2; its shortcuts
    have no parameters (option A), while CRD (Tian et al., arXiv 1910.10699) uses 1 × 1 convolutions (option B).
    """

    config_class = CifarResNetConfig
    config: CifarResNetConfig
    _no_split_modules = ["BasicBlock"]  # noqa: RUF012

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        blocks = (config.depth - 2) // 6
        stem, *widths = config.widths
        self.stem = conv_norm_relu(config.num_channels, stem)
        self.stages = nn.ModuleList()
        inputs = stem
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            first, others = BasicBlock(inputs, width, stride), (BasicBlock(width, width, 1) for _ in range(1, blocks))
            self.stages.append(nn.Sequential(first, *others))
            inputs = width
        self._finish(nn.Identity(), inputs)
