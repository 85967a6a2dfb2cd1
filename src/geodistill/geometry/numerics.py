"""The numerics below all geometry: divisors, wide sums, products XᵀX, Frobenius norms and inner products.

Frobenius norms and inner products are float64 scalars that survive features of any scale. Matrices are divided by their
largest entries first: features of size 1e10 have second moments whose squares float32 cannot hold. Rows are summed in
float32 and the sums of rows in float64, since torch's float32 norms are too coarse to tell a small distance.

Of products XᵀX only one triangle is computed: a good third of the work saved on large matrices.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STRIPES = 4  # leaves 10/16 of the multiplications; narrower stripes multiply less and more slowly
SMALL = 256  # up to this width there is nothing to save


def square_sum(values: Tensor) -> Tensor:
    """Σ x² in float64: each row in float32, whose error is small, the sum of the rows in float64."""
    return torch.linalg.vecdot(values, values).sum(dtype=wide_dtype(values.device))


def largest_entry(matrix: Tensor) -> Tensor:
    """max |a_ij| of each matrix (…, m, k), or one for a matrix of zeros: a divisor. NaN gives NaN."""
    low, high = torch.aminmax(matrix) if matrix.dim() == 2 else torch.aminmax(matrix.flatten(-2), dim=-1)
    return or_one(torch.maximum(-low, high))


def or_one(value: Tensor) -> Tensor:
    """A divisor: one instead of zero. NaN stays NaN."""
    return value + (value == 0)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off: products of features must leave in float32, whatever the model around them does."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which scalars are accumulated: float64, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def gram(rows: Tensor) -> Tensor:
    """XᵀX, (…, d, d), of rows (…, n, d); of a batch, all of it is multiplied."""
    if rows.dim() > 2 or rows.shape[-1] <= SMALL:
        return rows.mT @ rows
    return mirror(add_lower_gram(rows.new_zeros(rows.shape[1], rows.shape[1]), rows))


def add_lower_gram(total: Tensor, rows: Tensor) -> Tensor:
    """Add XᵀX of rows (n, d) to the lower triangle of a (d, d) matrix, in place; what lies above is left undefined."""
    for stripe in _stripes(len(total)):
        total[stripe, : stripe.stop].addmm_(rows[:, stripe].mT, rows[:, : stripe.stop])
    return total


def mirror(lower: Tensor) -> Tensor:
    """Fill the upper triangle from the lower one, in place."""
    for stripe in _stripes(len(lower)):
        lower[: stripe.start, stripe] = lower[stripe, : stripe.start].mT
    return lower


def _stripes(width: int) -> list[slice]:
    step = max(1, width if width <= SMALL else -(-width // STRIPES))
    return [slice(start, min(start + step, width)) for start in range(0, width, step)]


def frobenius_square(matrix: Tensor) -> Tensor:
    """‖A‖_F² of a matrix as a float64 scalar, differentiable once."""
    return _FrobeniusSquare.apply(matrix)


def frobenius_inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨A, B⟩ = Σ a_ij b_ij of two matrices as a float64 scalar, differentiable once."""
    return _FrobeniusInner.apply(a, b)


def projected_square(gram: Tensor, weight: Tensor) -> Tensor:
    """‖SW‖_F² = ⟨SᵀS W, W⟩ of a symmetric Gram matrix SᵀS (d, d) and a map W (d, k); float64, differentiable once."""
    return _ProjectedSquare.apply(gram, weight)


class _FrobeniusSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        peak = largest_entry(matrix)
        ctx.save_for_backward(matrix, peak)
        return square_sum(matrix / peak) * peak.to(wide_dtype(matrix.device)).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        matrix, peak = ctx.saved_tensors
        return (matrix / peak) * (2 * gradient * peak).to(matrix.dtype)


class _FrobeniusInner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        wide = wide_dtype(a.device)
        a_peak, b_peak = largest_entry(a), largest_entry(b)
        ctx.save_for_backward(a, b, a_peak, b_peak)
        return torch.linalg.vecdot(a / a_peak, b / b_peak).sum(dtype=wide) * a_peak.to(wide) * b_peak.to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, a_peak, b_peak = ctx.saved_tensors
        a_gradient = (b / b_peak) * (gradient * b_peak).to(b.dtype) if ctx.needs_input_grad[0] else None
        b_gradient = (a / a_peak) * (gradient * a_peak).to(a.dtype) if ctx.needs_input_grad[1] else None
        return a_gradient, b_gradient


class _ProjectedSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gram: Tensor, weight: Tensor) -> Tensor:
        wide, peak = wide_dtype(gram.device), largest_entry(gram)
        mapped = (gram / peak) @ weight
        ctx.save_for_backward(weight, mapped, peak)
        return torch.linalg.vecdot(mapped, weight).sum(dtype=wide) * peak.to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, mapped, peak = ctx.saved_tensors
        with full_precision(weight.device):
            gram_gradient = (weight @ weight.mT) * gradient.to(weight.dtype)
        return gram_gradient, mapped * (2 * gradient * peak).to(weight.dtype)
