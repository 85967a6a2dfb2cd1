"""VGG with batch normalisation for CIFAR-size images: five groups of 3 × 3 convolutions and one linear layer."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from geodistill.errors import GeodistillError
from geodistill.models.base import CifarClassifier, CifarConfig, conv_norm_relu


class CifarVGGConfig(CifarConfig):
    """The config of a VGG.

    Args:
        convolutions: how many convolutions each of the five groups has: (1, 1, 1, 1, 1) is VGG-8, (2, 2, 2, 2, 2) is
            VGG-13. The name also counts three linear layers of the original, of which one is left.
        widths: channels of the five groups.
        **kwargs: as for `CifarConfig`.

    Raises:
        GeodistillError: there are not five groups and widths, or a group is empty.

    Example:
        CifarVGGConfig(convolutions=(2, 2, 2, 2, 2), num_labels=10)
    """

    model_type = "geodistill_vgg"
    halvings: ClassVar[int] = 3

    convolutions: list[int] | tuple[int, ...] = (1, 1, 1, 1, 1)
    widths: list[int] | tuple[int, ...] = (64, 128, 256, 512, 512)

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if not len(self.convolutions) == len(self.widths) == 5 or min(self.convolutions) < 1:
            raise GeodistillError(
                f"convolutions is {list(self.convolutions)} and widths is {list(self.widths)}.",
                "Give five of each, and at least one convolution a group.",
            )


class CifarVGGForImageClassification(CifarClassifier):
    """VGG-n with batch normalisation and one linear layer, as in the CRD benchmark for 32 × 32 images.

    The first group is the stem. Stages 1 to 3 halve the map by maximum pooling and then convolve; stage 4 convolves at
    the size of stage 3. The hidden states are maps of h × w, h/2 × w/2, h/4 × w/4, h/8 × w/8 and h/8 × w/8, after the
    rectifier.

    Args:
        config: a `CifarVGGConfig`.

    Example:
        model = CifarVGGForImageClassification(CifarVGGConfig(convolutions=(2, 2, 2, 2, 2), num_labels=10))
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition",
    arXiv 1409.1556, configurations A, B, D and E; Tian et al., arXiv 1910.10699, for VGG-8 and the single linear layer.
    """

    config_class = CifarVGGConfig
    config: CifarVGGConfig

    def __init__(self, config: CifarVGGConfig) -> None:
        super().__init__(config)
        groups = []
        inputs = config.num_channels
        for count, width in zip(config.convolutions, config.widths, strict=True):
            # The biases are redundant before batch normalisation. The published counts include them.
            layers = [conv_norm_relu(inputs, width, bias=True)]
            layers += [conv_norm_relu(width, width, bias=True) for _ in range(1, count)]
            groups.append(layers)
            inputs = width
        first, *halved, last = groups
        self.stem = nn.Sequential(*first)
        self.stages = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), *layers) for layers in halved)
        self.stages.append(nn.Sequential(*last))
        self._finish(nn.Identity(), inputs)
