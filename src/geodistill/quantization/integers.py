"""Layers that hold integers where the quantised ones hold floats: the form in which a quantised model is deployed.

    y = s_x (k_x − z_x) · s_w (k_w − z_w) + b        k: unsigned bytes, z: their zero points, s: their steps

Operators of torch's library say what a runtime has to do, and run in torch as well; `quantization/onnx.py` translates
them. They compute what the quantised layer computes, so nothing but the order of float sums changes.

All integers are unsigned: processors without VNNI add two products of an unsigned and a signed byte in 16 bits, which
overflows with weights of 8 bits; and with fewer bits, convolutions of ONNX Runtime are four times slower where one side
is signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from geodistill.quantization.modules import QuantizedEmbedding, QuantizedModule
from geodistill.quantization.quantizer import Quantizer

MIDDLE = 128  # of the unsigned bytes, where a signed byte has zero


@torch.library.custom_op("geodistill::round_to_grid", mutates_args=())
def round_to_grid(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    """Return s · (clamp(round(x / s) + z, low, high) − z) for one step s and one zero point z, a byte."""
    zero = zero_point.to(x.dtype)
    return ((x / scale).round().add(zero).clamp(low, high) - zero) * scale


@round_to_grid.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("geodistill::dequantize", mutates_args=())
def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return s · (k − z), with a step and a zero point for each place along `axis`, or one of each."""
    shape = [1] * integers.ndim
    if scale.ndim:
        shape[axis] = -1
    return (integers.float() - zero_point.float().reshape(shape)) * scale.reshape(shape)


@dequantize.register_fake
def _(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(integers, dtype=scale.dtype)


@torch.library.custom_op("geodistill::convolve", mutates_args=())
def convolve(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    low: int,
    high: int,
    integers: Tensor,
    weight_scale: Tensor,
    middle: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return the convolution of a rounded input with a weight of integers, whose zero point is `middle`."""
    rounded = round_to_grid(x, scale, zero_point, low, high)
    shape = [-1 if weight_scale.ndim else 1, *[1] * (integers.ndim - 1)]
    weight = (integers.float() - middle) * weight_scale.reshape(shape)
    return _convolution(integers)(rounded, weight, None, stride, padding, dilation, groups)


@convolve.register_fake
def _(x: Tensor, *rounding: Any) -> Tensor:
    integers, (stride, padding, dilation, groups) = rounding[4], rounding[7:]
    return _convolution(integers)(x, integers.to(x.dtype), None, stride, padding, dilation, groups)


def _convolution(weight: Tensor) -> Any:
    """The convolution of torch whose weight has so many dimensions."""
    return functional.conv1d if weight.ndim == 3 else functional.conv2d


class RoundedInput(nn.Module):
    """What an input quantiser does, on unsigned bytes."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        shift = MIDDLE if quantizer.symmetric else 0
        self.low = MIDDLE - 2 ** (quantizer.bits - 1) if quantizer.symmetric else 0
        self.high = self.low + 2**quantizer.bits - 1
        self.register_buffer("scale", quantizer.scale.float())
        self.register_buffer("zero_point", (quantizer.zero_point.int() + shift).to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        return round_to_grid(x, self.scale, self.zero_point, self.low, self.high)


class StoredWeight(nn.Module):
    """A weight as integers with a step for each place along `axis`, or one step; `forward` gives its values.

    Args:
        integers: int8, as a weight quantiser makes them.
        scale: s, () or (channels,).
        bits: how many bits an integer needs.
        axis: of the channels.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self, integers: Tensor, scale: Tensor, *, bits: int, axis: int = 0) -> None:
        super().__init__()
        self.bits, self.axis = bits, axis
        self.middle = 2 ** (bits - 1)
        self.register_buffer("integers", (integers.int() + self.middle).to(torch.uint8).contiguous())
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", torch.full_like(self.scale, self.middle, dtype=torch.uint8))

    def forward(self) -> Tensor:
        return dequantize(self.integers, self.scale, self.zero_point, self.axis)

    def rows(self, numbers: Tensor) -> Tensor:
        """Return the values of rows alone: a table is looked up before it becomes float."""
        found = functional.embedding(numbers, self.integers)
        if not self.scale.ndim:
            return dequantize(found, self.scale, self.zero_point, 0)
        return (found.float() - self.middle) * functional.embedding(numbers, self.scale.unsqueeze(-1))


class IntegerModule(nn.Module):
    """A quantised layer with its weight stored as integers, and what it reads rounded."""

    def __init__(self, module: QuantizedModule, integers: Tensor, axis: int) -> None:
        super().__init__()
        quantizer = module.weight_quantizer
        self.stored = StoredWeight(integers, quantizer.scale, bits=quantizer.bits, axis=axis)
        self.input = None if module.input_quantizer is None else RoundedInput(module.input_quantizer)

    @property
    def weight(self) -> Tensor:
        """The values of the weight: models ask their layers for its type."""
        return self.stored()


class IntegerLinear(IntegerModule):
    """A linear layer, its weight stored as (in, out), as a matrix product of ONNX takes it."""

    bias: Tensor | None

    def __init__(self, module: QuantizedModule) -> None:
        integers = module.weight_quantizer.integers(module.weight)
        super().__init__(module, integers if isinstance(module, Conv1D) else integers.T, axis=1)
        self.register_buffer("bias", _bias(module))

    def forward(self, x: Tensor) -> Tensor:
        if self.input is not None:
            x = self.input(x)
        # ONNX Runtime makes one float operation of the product of two matrices and a sum, so a matrix is made a batch.
        product = (x.unsqueeze(0) @ self.weight).squeeze(0) if x.ndim == 2 else x @ self.weight
        return product if self.bias is None else product + self.bias


class IntegerConvolution(IntegerModule):
    """A convolution. The sum of products of integers becomes float at once, so that what follows stays exact, such as a
    bias or batch normalisation. The fused QLinearConv of ONNX Runtime would round a bias to the product of the steps,
    which is coarse in few bits, and is integer only if the next rounding follows at once."""

    bias: Tensor | None

    def __init__(self, module: Any) -> None:
        super().__init__(module, module.weight_quantizer.integers(module.weight), axis=0)
        self.edge, padding = None, module.padding
        if isinstance(padding, str) or module.padding_mode != "zeros":
            # Padded before the convolution: zero is on the grid, and all else is rounded afterwards.
            mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
            self.edge, padding = (module._reversed_padding_repeated_twice, mode), [0] * len(module.stride)
        self.settings = (list(module.stride), list(padding), list(module.dilation), module.groups)
        self.register_buffer("bias", _bias(module))

    def forward(self, x: Tensor) -> Tensor:
        stored = self.stored
        if self.edge is not None:
            x = functional.pad(x, *self.edge)
        if self.input is None:
            return _convolution(stored.integers)(x, self.weight, self.bias, *self.settings)
        grid = (self.input.scale, self.input.zero_point, self.input.low, self.input.high)
        summed = convolve(x, *grid, stored.integers, stored.scale, stored.middle, *self.settings)
        return summed if self.bias is None else summed + self.bias.reshape(-1, *[1] * (x.ndim - 2))


class IntegerEmbedding(IntegerModule):
    """An embedding. Rows are looked up as integers, and only they become float."""

    def __init__(self, module: QuantizedModule) -> None:
        super().__init__(module, module.weight_quantizer.integers(module.weight), axis=0)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.stored.rows(numbers)


def to_integers(model: nn.Module) -> nn.Module:
    """Replace each quantised layer of a model by one that holds integers, in place, and return the model.

    Args:
        model: with quantised layers, in evaluation mode. It cannot be trained afterwards.

    Example:
        to_integers(copy.deepcopy(quantised).eval())(**batch)
    """
    made: dict[int, nn.Module] = {}
    # A layer may be in a model under several names.
    for name, module in [*model.named_modules(remove_duplicate=False)]:
        if isinstance(module, QuantizedModule):
            if id(module) not in made:
                made[id(module)] = _integer_form(module)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, made[id(module)])
    return model


def _integer_form(module: QuantizedModule) -> nn.Module:
    if isinstance(module, QuantizedEmbedding):
        return IntegerEmbedding(module)
    return IntegerConvolution(module) if isinstance(module, nn.Conv1d | nn.Conv2d) else IntegerLinear(module)


def _bias(module: QuantizedModule) -> Tensor | None:
    bias = module.rounded_bias()
    return None if bias is None else bias.detach().float()
