"""What the classifiers of small images share: the config, the parts and their order, the loss and the output."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from geodistill.errors import GeodistillError


class CifarConfig(PretrainedConfig):
    """What the config of every family holds: the images that the model reads, beside the labels of transformers.

    Args:
        num_channels: colour channels of an image: 3, or 1 for grey.
        image_size: height and width of an image in pixels. The model takes other sizes as well, down to `smallest`.
        **kwargs: as for any config of transformers: num_labels, id2label, label2id, problem_type.

    Raises:
        GeodistillError: `image_size` is below `smallest`, or a number is below 1.

    Example:
        CifarResNetConfig(depth=20, num_labels=10, image_size=28, num_channels=1)
    """

    # How often a family halves the height and width of an image between its input and its last map.
    halvings: ClassVar[int] = 0

    num_channels: int = 3
    image_size: int = 32

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.num_channels < 1:
            raise GeodistillError(f"num_channels is {self.num_channels}.", "Give 3 for colour and 1 for grey images.")
        self.check_size(self.image_size, self.image_size)

    @property
    def smallest(self) -> int:
        """The least height and width of an image: each halving still has two pixels to make one of."""
        return 2**self.halvings

    def check_size(self, height: int, width: int) -> None:
        """Raise GeodistillError for images that are too small for this family."""
        if min(height, width) < self.smallest:
            raise GeodistillError(
                f"Images of {height} × {width} pixels are too small for '{self.model_type}', which halves them "
                f"{self.halvings} times.",
                f"Use images of at least {self.smallest} × {self.smallest} pixels, or a family with fewer halvings.",
            )


class CifarClassifier(PreTrainedModel):
    """An image classifier of four parts: stem, stages, neck, and a linear classifier on the averaged last map.

    logits = W · mean over (h, w) of neck(stage_S(… stage_1(stem(pixel_values)))) + b

    `hidden_states` has the convention of transformers' ResNet: 0 is the stem's output, i the output of stage i. The
    neck (what a family puts between its last stage and the average) is in none of them. Each is also the output of a
    module: `stem`, `stages.0`, `stages.1`, … Gradient checkpointing is not offered: running a block twice would
    update the running statistics of batch normalisation twice.

    A subclass sets `stem` and `stages`, then calls `_finish`.

    Raises:
        GeodistillError: the config has no labels, or images are smaller than the family can halve.

    Example:
        outputs = named("resnet8", num_labels=10)(torch.randn(2, 3, 32, 32), output_hidden_states=True)
        [states.shape for states in outputs.hidden_states]  # the stem and three stages
    """

    config_class = CifarConfig
    config: CifarConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    # There is no backbone module inside: the model is its own base model.
    base_model_prefix = ""

    stem: nn.Module
    stages: nn.ModuleList

    def _finish(self, neck: nn.Module, width: int) -> None:
        """Add the neck and the linear layer, which reads the neck's `width` channels, and draw all weights."""
        if not self.config.num_labels:
            raise GeodistillError("The config has no labels to classify.", "Give num_labels, from 1 up.")
        self.neck = neck
        self.classifier = nn.Linear(width, self.config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple[Tensor, ...]:
        """Classify images.

        Args:
            pixel_values: (b, num_channels, h, w), normalised as the image processor does it.
            labels: (b,) class numbers; (b, num_labels) zeros and ones, or numbers, by `config.problem_type`.
            output_hidden_states: whether to return the maps, `config.output_hidden_states` by default.
            return_dict: whether to return a model output and not a tuple, `config.return_dict` by default.

        Returns:
            `loss` (a scalar, if labels are given), `logits` (b, num_labels) and `hidden_states`, S + 1 maps
            (b, c_i, h_i, w_i), if they are asked for.

        Raises:
            GeodistillError: the images have another number of channels than the config, or are too small.
        """
        self._check_images(pixel_values)
        if pixel_values.device.type == "cpu":
            # A step of ResNet, WRN or MobileNetV2 takes a quarter less time on a CPU when channels come last, and each
            # layer keeps the order of its input. On a GPU that depends on the precision, so there the caller chooses.
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict

        maps = [self.stem(pixel_values)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        logits = self.classifier(self.neck(maps[-1]).mean(dim=(2, 3)))

        output = ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=tuple(maps) if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _check_images(self, pixel_values: Tensor) -> None:
        if pixel_values.ndim != 4:
            raise GeodistillError(
                f"pixel_values has {pixel_values.ndim} dimensions.", "Give a batch of images, (b, channels, h, w)."
            )
        _, channels, height, width = pixel_values.shape
        if channels != self.config.num_channels:
            raise GeodistillError(
                f"The images have {channels} channels, and the model reads {self.config.num_channels}.",
                "Convert the images (colour to RGB, grey to L), or build the model with another num_channels.",
            )
        self.config.check_size(height, width)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # He initialisation by outgoing connections for convolutions, as the benchmarks do it, and torch's own bounds
        # for the linear layer. `init` leaves weights alone that were loaded.
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, nn.BatchNorm2d):
            super()._init_weights(module)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            init.zeros_(module.bias)


def convolution(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution that is padded so that only its stride changes the size of a map."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)


def conv_norm(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias, and batch normalisation, which has one."""
    return nn.Sequential(
        convolution(inputs, outputs, kernel, stride=stride, groups=groups),
        nn.BatchNorm2d(outputs),
    )


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, bias: bool = False) -> nn.Sequential:
    """A convolution, batch normalisation and a rectifier; not in place, because features are taken at any module."""
    return nn.Sequential(
        convolution(inputs, outputs, kernel, stride=stride, bias=bias), nn.BatchNorm2d(outputs), nn.ReLU()
    )
