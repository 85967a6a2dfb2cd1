"""Rounding to a uniform grid of 2 to 8 bits whose clipping interval is learned.

A value x becomes x̂ = s · k with the integer k = clamp(round(x / s), l, l + 2ᵇ − 1). The step s = v / (2ᵇ − 1) follows
from the width v of the clipping interval, which is learned. A symmetric quantiser has l = −2ᵇ⁻¹. An asymmetric one
learns the lower end o of its interval too, with l = clamp(round(o / s), 1 − 2ᵇ, 0), so zero is always on the grid.

Rounding has the gradient of the identity (straight through). With r = round(x / s), the gradients are

    ∂x̂/∂x = 1            ∂x̂/∂v = (x̂ − x) / v      ∂x̂/∂o = 0      if l ≤ r ≤ l + 2ᵇ − 1
    ∂x̂/∂x = 0            ∂x̂/∂v = (x̂ − o) / v      ∂x̂/∂o = 1      otherwise (o = 0 for a symmetric quantiser)

Sources: the learned clipping interval is the one of QKD (arXiv 1911.12491). The gradient of the step is the one of LSQ
(Esser et al., arXiv 1902.08153), and of the lower end the one of LSQ+ (Bhalgat et al., arXiv 2004.09576), as torch's
learnable fake quantisation has them: values up to half a step outside the interval still count as inside.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from geodistill.errors import GeodistillError

FEWEST_BITS, MOST_BITS = 2, 8
SMALLEST_INTERVAL = torch.finfo(torch.float32).tiny * 2**MOST_BITS
"""Narrower intervals have a step that float32 does not hold in full."""


class Quantizer(nn.Module):
    """Round values to a grid of 2ᵇ integers over a learned interval.

    The gradients of `interval` and `offset` are multiplied by 1 / √(n · q), q the largest integer, as LSQ does it. Here
    n is a constant of the layer. The gradient is then the same however a batch is split over ranks and micro-batches.

    Args:
        bits: 2 to 8.
        symmetric: whether the grid is signed with zero in its middle, as for weights.
        channels: how many intervals there are, one for each place along `axis`; one interval in all if absent.
        axis: the axis of the channels.
        count: n, how many values of one example or of one channel share an interval.

    Attributes:
        interval: the width v of the clipping interval, (1,) or (channels,).
        offset: the lower end o of the clipping interval, of the same shape; None if symmetric.

    Raises:
        GeodistillError: the number of bits is not 2 to 8.

    Example:
        quantizer = Quantizer(4, symmetric=True, channels=64, axis=0, count=128)
        quantizer.start(weight.amin(1), weight.amax(1))  # weight (64, 128)
        rounded = quantizer(weight)
    """

    def __init__(
        self,
        bits: int,
        *,
        symmetric: bool,
        channels: int | None = None,
        axis: int | None = None,
        count: int = 1,
    ) -> None:
        super().__init__()
        if not FEWEST_BITS <= bits <= MOST_BITS:
            raise GeodistillError(
                f"A quantiser of {bits} bits was asked for.", f"Give {FEWEST_BITS} to {MOST_BITS} bits."
            )
        self.bits = bits
        self.symmetric = symmetric
        self.axis = axis
        largest = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
        self.gradient_scale = 1 / (count * largest) ** 0.5
        # One interval has one entry and no zero dimensions, since FSDP does not shard scalars.
        self.interval = nn.Parameter(torch.ones(channels or 1))
        self.offset: nn.Parameter | None
        self.register_parameter("offset", None if symmetric else nn.Parameter(torch.zeros(channels or 1)))

    @torch.no_grad()
    def start(self, low: Tensor, high: Tensor) -> None:
        """Set the clipping interval from the smallest and the largest value, (), (1,) or (channels,).

        A symmetric interval is as wide as twice the largest magnitude. An asymmetric one reaches to zero at least. Then
        no value between low and high moves by more than half a step. A channel that holds zeros alone gets the mean
        width of the other channels, or 1.
        """
        low, high = low.to(self.interval).reshape(-1).clamp(max=0), high.to(self.interval).reshape(-1).clamp(min=0)
        width = 2 * torch.maximum(-low, high) if self.symmetric else high - low
        empty = width < SMALLEST_INTERVAL
        others = width[~empty].mean() if bool((~empty).any()) else torch.ones_like(width[0])
        self.interval.copy_(torch.where(empty, others, width))
        if self.offset is not None:
            self.offset.copy_(low)

    def forward(self, x: Tensor, channels: Tensor | None = None) -> Tensor:
        """Return x̂, of the shape and type of x.

        With `channels`, integers (…), x (…, d) holds rows of the channels of these numbers.
        """
        interval, offset = self._intervals(x, channels)
        return fake_quantize(x, interval, offset, bits=self.bits, gradient_scale=self.gradient_scale)

    @property
    def scale(self) -> Tensor:
        """The step s, () or (channels,)."""
        return self._step(self.interval.detach()).squeeze() if self.axis is None else self._step(self.interval.detach())

    @property
    def zero_point(self) -> Tensor:
        """The integer that stands for zero, of the shape of `scale` and of the type of `integers`; 0 if symmetric."""
        scale = self.scale
        if self.offset is None:
            return torch.zeros_like(scale, dtype=torch.int8)
        lowest = lowest_integer(self.offset.detach().reshape(scale.shape), scale, self.bits)
        return (-lowest).to(torch.uint8)

    @torch.no_grad()
    def integers(self, x: Tensor) -> Tensor:
        """Return the integers that x is rounded to: int8, −2ᵇ⁻¹ to 2ᵇ⁻¹ − 1, if symmetric, else uint8, 0 to 2ᵇ − 1."""
        interval, offset = self._intervals(x, None)
        wide = x.to(torch.promote_types(x.dtype, interval.dtype))
        scale = self._step(interval)
        lowest = -(2 ** (self.bits - 1)) if offset is None else lowest_integer(offset, scale, self.bits)
        integers = (wide / scale).round().clamp(lowest, lowest + 2**self.bits - 1)
        return integers.to(torch.int8) if offset is None else (integers - lowest).to(torch.uint8)

    @torch.no_grad()
    def values(self, integers: Tensor) -> Tensor:
        """Return the values that integers stand for: s · (integer − zero point)."""
        scale, zero_point = self.scale, self.zero_point.int()
        if self.axis is not None:
            scale, zero_point = self._along_axis(scale, integers), self._along_axis(zero_point, integers)
        return (integers.int() - zero_point) * scale

    def extra_repr(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"{self.bits} bits, {kind}" + ("" if self.axis is None else f", {len(self.interval)} channels")

    def _intervals(self, x: Tensor, channels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Width and lower end in at least float32, in a shape that goes with x."""
        interval = self.interval.to(torch.promote_types(self.interval.dtype, torch.float32))
        offset = None
        if self.offset is not None:
            # Zero stays within the interval: padding is zero, and integers of the grid have to stand for it.
            offset = self.offset.to(interval.dtype).clamp(min=-interval).clamp(max=0)
        if channels is not None:
            return interval[channels].unsqueeze(-1), None if offset is None else offset[channels].unsqueeze(-1)
        if self.axis is None:
            return interval, offset
        return self._along_axis(interval, x), None if offset is None else self._along_axis(offset, x)

    def _along_axis(self, each: Tensor, x: Tensor) -> Tensor:
        assert self.axis is not None
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return each.view(shape)

    def _step(self, interval: Tensor) -> Tensor:
        return interval.to(torch.promote_types(interval.dtype, torch.float32)) / (2**self.bits - 1)


def lowest_integer(offset: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return l = round(o / s) as a float, kept so that zero lies on the grid."""
    return (offset / scale).round().clamp(1 - 2**bits, 0)


def fake_quantize(
    x: Tensor, interval: Tensor, offset: Tensor | None = None, *, bits: int, gradient_scale: float = 1.0
) -> Tensor:
    """Return x̂, x rounded to the grid, with the gradients at the top of this file.

    Args:
        x: values of any shape; the arithmetic is in float32 at least, also under autocast.
        interval: the width v of the clipping interval, in a shape that broadcasts to that of x.
        offset: the lower end o, of the same shape and −v ≤ o ≤ 0; None for a symmetric grid.
        bits: b.
        gradient_scale: what the gradients of interval and offset are multiplied by.

    Returns:
        x̂, of the shape and type of x.

    Example:
        fake_quantize(torch.tensor([0.2, 0.8]), torch.tensor(3.0), bits=2)  # tensor([0., 1.])

    Reference: the sources at the top of this file.
    """
    return cast(Tensor, _FakeQuantize.apply(x, interval, offset, bits, gradient_scale))


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, interval: Tensor, offset: Tensor | None, bits: int, gradient_scale: float
    ) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, interval.dtype))
        scale = interval / (2**bits - 1)
        lowest = -(2 ** (bits - 1)) if offset is None else lowest_integer(offset, scale, bits)
        # In place if possible, and by functions of one pass: a new tensor costs more than the arithmetic in it.
        rounded = torch.div(wide, scale).round_()
        inside = None
        if any(ctx.needs_input_grad):
            integers = _clamped(rounded, lowest, bits, torch.empty_like(rounded))
            inside = integers == rounded
        else:
            integers = _clamped(rounded, lowest, bits, rounded)
        values = integers.mul_(scale)
        ctx.save_for_backward(x, values, inside, interval, offset)
        ctx.gradient_scale = gradient_scale
        return values if values.dtype == x.dtype else values.to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, values, inside, interval, offset = ctx.saved_tensors
        within = torch.where(inside, gradient, 0)
        of_interval = of_offset = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            wide = gradient.to(values.dtype)
            # Differences before the sum: x̂ − x is small beside both, and the difference of two sums would lose it.
            missed = torch.where(inside, x.to(values.dtype), 0 if offset is None else offset).neg_().add_(values)
            of_interval = missed.mul_(wide).sum_to_size(interval.shape) / interval * ctx.gradient_scale
            if offset is not None:
                # The two sums are alike to the last bit if nothing is outside.
                passed = within.to(values.dtype).sum_to_size(offset.shape)
                of_offset = (wide.sum_to_size(offset.shape) - passed) * ctx.gradient_scale
        return within, of_interval, of_offset, None, None


def _clamped(rounded: Tensor, lowest: Tensor | int, bits: int, out: Tensor) -> Tensor:
    """Write the integers, kept within the grid, to `out`."""
    if isinstance(lowest, int):
        return torch.clamp(rounded, lowest, lowest + 2**bits - 1, out=out)
    torch.maximum(rounded, lowest, out=out)
    return torch.minimum(out, lowest + (2**bits - 1), out=out)
