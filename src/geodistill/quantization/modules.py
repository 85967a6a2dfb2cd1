"""Layers whose weights, inputs and biases are rounded while they compute; weights are kept and trained in float.

A layer becomes quantised in place, by another class: it stays the same object with the same `weight` and `bias`, so all
that refers to it, ties a weight to it or hooks on to it goes on to do so.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from geodistill.quantization.quantizer import Quantizer

LARGEST_BIAS = 2.0**31 - 128  # the largest float32 that an int32 holds


class QuantizedModule(nn.Module):
    """What quantised layers have in common. `quantize` makes a plain layer one, in place; nobody constructs it.

    Attributes:
        weight_quantizer: rounds the weight. Layers that share a weight share the quantiser; only one of them has it as
            a child.
        input_quantizer: rounds the input; None if the input stays float.
        rounds_bias: whether the bias is rounded to multiples of s_x · s_w, the steps of input and weight, as integer
            kernels hold it.

    Example:
        quantized_modules(student)["classifier"].rounded_weight()
    """

    plain: ClassVar[type[nn.Module]]
    channel_axis: ClassVar[int] = 0

    weight: Any  # a tensor for some plain layers, and a parameter for others
    weight_quantizer: Quantizer
    input_quantizer: Quantizer | None
    rounds_bias: bool

    def rounded_input(self, x: Tensor) -> Tensor:
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def rounded_weight(self) -> Tensor:
        return cast(Tensor, self.weight_quantizer(self.weight))

    def rounded_bias(self) -> Tensor | None:
        """The bias on the int32 grid of step s_x · s_w; its gradient passes straight through."""
        bias: Tensor | None = getattr(self, "bias", None)  # an embedding has none
        if bias is None or not self.rounds_bias or self.input_quantizer is None:
            return bias
        with torch.no_grad():
            step = self.input_quantizer.scale * self.weight_quantizer.scale
            rounded = (bias / step).round().clamp(-LARGEST_BIAS, LARGEST_BIAS) * step
        # The first summand holds the value exactly, the second is zero and holds the gradient.
        return rounded.to(bias.dtype) + (bias - bias.detach())


class QuantizedLinear(QuantizedModule, nn.Linear):
    """x̂ Ŵᵀ + b̂: an `nn.Linear` with rounded input, weight and bias; see `QuantizedModule`.

    Example:
        isinstance(student.classifier, QuantizedLinear)
    """

    plain = nn.Linear

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(self.rounded_input(input), self.rounded_weight(), self.rounded_bias())


class QuantizedConv1d(QuantizedModule, nn.Conv1d):
    """An `nn.Conv1d` with rounded input, weight and bias; see `QuantizedModule`.

    Example:
        isinstance(student.get_submodule("first"), QuantizedConv1d)
    """

    plain = nn.Conv1d

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.rounded_input(input), self.rounded_weight(), self.rounded_bias())


class QuantizedConv2d(QuantizedModule, nn.Conv2d):
    """An `nn.Conv2d` with rounded input, weight and bias; see `QuantizedModule`.

    Example:
        isinstance(student.get_submodule("stem.0"), QuantizedConv2d)
    """

    plain = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.rounded_input(input), self.rounded_weight(), self.rounded_bias())


class QuantizedTransposedLinear(QuantizedModule, Conv1D):
    """The linear layer of GPT-2, `Conv1D` of transformers, whose weight is (in, out); see `QuantizedModule`.

    Example:
        isinstance(student.get_submodule("transformer.h.0.mlp.c_fc"), QuantizedTransposedLinear)
    """

    plain = Conv1D
    channel_axis = 1

    def forward(self, x: Tensor) -> Tensor:
        bias = self.rounded_bias()
        assert bias is not None
        product = torch.addmm(bias, self.rounded_input(x).reshape(-1, x.size(-1)), self.rounded_weight())
        return product.view(*x.shape[:-1], self.nf)


class QuantizedEmbedding(QuantizedModule, nn.Embedding):
    """An `nn.Embedding` whose rows are rounded after they are looked up: the rows of a batch, not the whole table.

    Example:
        isinstance(student.get_input_embeddings(), QuantizedEmbedding)
    """

    plain = nn.Embedding

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)
        return cast(Tensor, self.weight_quantizer(rows, None if self.weight_quantizer.axis is None else input))


KINDS: dict[type[nn.Module], type[QuantizedModule]] = {
    kind.plain: kind
    for kind in (QuantizedLinear, QuantizedConv1d, QuantizedConv2d, QuantizedTransposedLinear, QuantizedEmbedding)
}
"""The quantised class of each plain one."""


def input_features(module: nn.Module) -> int:
    """How many features a plain layer reads at each position."""
    layer: Any = module
    if isinstance(module, nn.Linear):
        return int(layer.in_features)
    return int(layer.nx if isinstance(module, Conv1D) else layer.in_channels)
