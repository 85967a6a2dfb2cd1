"""The nuclear norm ‖M‖∗ (the sum of the singular values) and its gradient, the polar factor UVᵀ of M = UΣVᵀ.

Only the polar factor is kept for the backward pass. Differentiating through U and V instead gives NaN where singular
values nearly coincide, and differentiating `matrix_norm(·, "nuc")` is slower and less exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geodistill.geometry.numerics import gram, largest_entry, wide_dtype

# Singular directions below 1e-6 σ₁ are mostly rounding noise of a float32 matrix. Damping them in the gradient to
# σ / (1e-6 σ₁) makes the gradient of a rank-deficient matrix reproducible; the norm itself is damped far less.
GRADIENT_FLOOR = 1e-12  # of the eigenvalues λ = σ², relative to λ₁
NORM_FLOOR = 1e-14

Algorithm = Callable[[Tensor], tuple[Tensor, Tensor]]


def nuclear_norm(matrix: Tensor) -> Tensor:
    """‖M‖∗, the sum of the singular values of a matrix, in float64; differentiable once.

    The gradient is the polar factor UVᵀ (Watson 1992, Characterization of the subdifferential of some matrix norms).

    Args:
        matrix: (m, k), or a batch of matrices (…, m, k).

    Returns:
        A scalar, or one number for each matrix of the batch. A matrix that holds NaN or infinity gives NaN, as a sum
        would.

    Example:
        nuclear_norm(student.mT @ teacher)
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
    """‖M‖∗ in float64 and the polar factor UVᵀ in M's dtype, of a matrix or a batch of them; not differentiable."""
    matrix = matrix.detach()
    algorithm = choose_algorithm(matrix.dtype, matrix.device)
    if algorithm is by_polynomial or math.isfinite(matrix.sum().item()):
        return _of_either_shape(algorithm, matrix)
    finite = matrix.isfinite().all(-1).all(-1)  # LAPACK raises on NaN: compute on zeros instead, and answer NaN
    norm, polar = _of_either_shape(algorithm, torch.where(finite[..., None, None], matrix, 0))
    return torch.where(finite, norm, torch.nan), torch.where(finite[..., None, None], polar, torch.nan)


def _of_either_shape(algorithm: Algorithm, matrix: Tensor) -> tuple[Tensor, Tensor]:
    if matrix.shape[-2] <= matrix.shape[-1]:
        return algorithm(matrix)
    norm, polar = algorithm(matrix.mT)
    return norm, polar.mT


def choose_algorithm(dtype: torch.dtype, device: torch.device) -> Algorithm:
    """How a polar factor is found: the one place that chooses.

    float64 asks for all digits and gets them. On a CPU, eigenvectors in float64 are the fastest exact enough way. An
    accelerator is slow at eigenvectors and fast at products, so there a polynomial of matrix products takes over; it is
    tested on CPUs, and has not been timed on a GPU.
    """
    if dtype == torch.float64:
        return by_singular_values
    return by_eigenvectors if device.type == "cpu" else by_polynomial


def by_singular_values(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and polar factor of M (…, m, k) through the singular value decomposition: slow, exact at any rank."""
    left, sigma, right = torch.linalg.svd(matrix, full_matrices=False)
    floor = (GRADIENT_FLOOR * sigma[..., :1]).clamp(min=torch.finfo(sigma.dtype).tiny)
    return sigma.sum(-1), (left * (sigma / torch.maximum(sigma, floor)).unsqueeze(-2)) @ right


def by_eigenvectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and polar factor of M (…, m, k), m ≤ k, through MMᵀ = VΛVᵀ in float64: UVᵀ = VΛ^-½Vᵀ M.

    Λ is too wide in range for float32, and so is its inverse root, up to the last product.
    """
    wide = matrix.double()
    values, vectors = torch.linalg.eigh(gram(wide.mT))
    largest = values[..., -1:].clamp(min=1e-200)  # a matrix of zeros
    fourth_root = torch.maximum(values, GRADIENT_FLOOR * largest).pow(-0.25).unsqueeze(-2)
    norm = torch.linalg.vecdot(values, torch.maximum(values, NORM_FLOOR * largest).rsqrt())
    return norm, (gram((vectors * fourth_root).mT) @ wide).to(matrix.dtype)


# p_k(x) = a x + b x³ + c x⁵, each the best approximation of 1 on the interval that the one before leaves; the first
# interval is [1e-6, 1]. Found with Remez' algorithm after Amsel et al. (2025), The Polar Express. All but the last are
# read at x / 1.01, so that rounding above 1 does not diverge, and no interval is taken below 2.4 % of its upper end.
POLYNOMIALS = (
    (8.239293, -22.997337, 16.529324),
    (4.119609, -2.874665, 0.516545),
    (4.119438, -2.874621, 0.516551),
    (4.118726, -2.874439, 0.516575),
    (4.115765, -2.873681, 0.516674),
    (4.103507, -2.870552, 0.517089),
    (4.053527, -2.857961, 0.518883),
    (3.862125, -2.812593, 0.527445),
    (3.131510, -2.301758, 0.472705),
    (2.159865, -1.513873, 0.387332),
    (1.863160, -1.220542, 0.357516),
    (1.875000, -1.250000, 0.375000),
)


def by_polynomial(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and polar factor of M (…, m, k), m ≤ k, through matrix products alone: batched, and without a host sync.

    The singular values of X_0 = M / ‖M‖_F are carried to 1 by X_{j+1} = p_j(X_j) = (aI + bA + cA²) X_j, A = X_j X_jᵀ.
    float32 or TF32 products will do, bfloat16 ones will not. Directions below 1e-6 ‖M‖_F stay damped.
    """
    peak = largest_entry(matrix)  # so that no square under- or overflows
    scaled = matrix / peak[..., None, None]
    length = torch.linalg.vecdot(scaled, scaled).sum(-1)[..., None, None].sqrt()
    x = scaled / torch.where(length == 0, 1, length)
    for a, b, c in POLYNOMIALS:
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return torch.linalg.vecdot(x, scaled).sum(-1, dtype=wide_dtype(matrix.device)) * peak, x
