"""Frobenius norms and inner products of matrices, as float64 scalars that survive features of any scale.

Matrices are divided by their largest entries first: features of size 1e10 have second moments whose squares float32
cannot hold. Rows are summed in float32 and the sums of rows in float64, since torch's float32 norms are too coarse to
tell a small distance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geodistill.geometry.features import full_precision, largest_entry, square_sum, wide_dtype


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
