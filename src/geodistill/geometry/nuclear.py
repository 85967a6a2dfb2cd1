"""The nuclear norm ‖M‖_* (the sum of the singular values) and its gradient, the polar factor UVᵀ of M = UΣVᵀ.

Only the polar factor is kept for the backward pass. Differentiating through U and V instead gives NaN when singular
values coincide, and differentiating `matrix_norm(·, "nuc")` is several times slower and less exact.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Singular directions below 1e-6 σ₁ (1e-12 λ₁ on the Gram matrix) are rounding noise of a float32 matrix. There the polar
# factor is damped to σ/floor, so that a rank-deficient matrix has a reproducible gradient.
EIGENVALUE_FLOOR = 1e-12


def nuclear_norm(matrix: Tensor) -> Tensor:
    """‖M‖_* of a matrix (m, k), or of a batch of them (…, m, k), as float64; differentiable once.

    The gradient is the polar factor UVᵀ. A matrix that holds NaN or infinity gives NaN, as a sum would.
    """
    return _NuclearNorm.apply(matrix)


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        norm, polar = polar_factor(matrix)
        ctx.save_for_backward(polar)
        return norm

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (polar,) = ctx.saved_tensors
        return polar * gradient[..., None, None].to(polar.dtype)


def polar_factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return ‖M‖_* in float64 and the polar factor UVᵀ in M's dtype, of M (…, m, k); not differentiable."""
    matrix = matrix.detach()
    peak = matrix.abs().amax((-2, -1), keepdim=True)
    finite = torch.isfinite(peak)  # LAPACK raises on NaN: compute on zeros instead and answer NaN
    scaled = torch.where(finite, matrix / torch.where(peak == 0, 1, peak), 0)
    norm, polar = algorithm(scaled)(scaled)
    norm = torch.where(finite, norm[..., None, None] * peak.to(norm.dtype), torch.nan)[..., 0, 0]
    return norm, torch.where(finite, polar.to(matrix.dtype), torch.nan)


def algorithm(matrix: Tensor) -> Any:
    """How the polar factor of a matrix is found: the one place that chooses."""
    if matrix.dtype == torch.float64:
        return by_svd  # all digits were asked for
    return by_eigenvectors


def by_svd(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Through the singular value decomposition: exact for rank-deficient matrices too, and slow."""
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    floor = EIGENVALUE_FLOOR * sigma[..., :1]
    damped = sigma / torch.where(sigma[..., :1] == 0, 1, torch.maximum(sigma, floor))
    return sigma.sum(-1), (left * damped.unsqueeze(-2)) @ right


def by_eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Through the eigenvectors of the smaller Gram matrix MMᵀ = VΛVᵀ, in float64: UVᵀ = V Λ^-½ Vᵀ M."""
    if matrix.shape[-2] > matrix.shape[-1]:
        norm, polar = by_eigenvectors(matrix.mT)
        return norm, polar.mT
    wide = matrix.double()
    values, vectors = torch.linalg.eigh(wide @ wide.mT)
    root = torch.maximum(values, EIGENVALUE_FLOOR * values[..., -1:]).sqrt()
    root = torch.where(root == 0, 1, root)
    return (values / root).sum(-1), (vectors / root.unsqueeze(-2)) @ (vectors.mT @ wide)
