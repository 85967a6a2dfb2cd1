"""The level of chance of two clouds, from their spectra alone: for clouds of more rows than fit into memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geodistill.geometry.reference import Geometry

EMPTY = 1e-12  # a share of the variance that counts as none


def chance_of_spectra(student: Tensor, teacher: Tensor, rows: int, *, draws: int = 2, seed: int = 0) -> Geometry:
    """What two clouds of these spectra give on average if one is turned at random among the n rows.

    With λ and μ the eigenvalues of both (sum one) and n rows, SᵀT becomes Λ^½ M M^½ with M a block of a random
    orthogonal matrix of order n − 1, so E‖SᵀT‖_F² = 1 / (n − 1), which is also the mean over all permutations:

        D_FG² = Σ λ² + Σ μ² − 2 / (n − 1)        CKA = 1 / ((n − 1) √(Σ λ² Σ μ²))

    and D_P² = 2 − 2 E‖SᵀT‖_* is averaged over random blocks.

    Args:
        student, teacher: eigenvalues, largest first, as `spectrum_of` gives them.
        rows: n, at least 2.
        draws: random blocks; the nuclear norm hardly varies.
        seed: of the draws.

    Example: `chance_of_spectra(spectrum_of(s.T @ s), spectrum_of(t.T @ t), len(s))`

    Reference: derived here; `chance_level` permutes rows and needs them all. Collins and Śniady (2006) for the mean.
    """
    degrees = max(1, rows - 1)
    left, right = (each[each > EMPTY][:degrees] for each in (student, teacher))
    shared = 1 / degrees
    squares = left.square().sum().item(), right.square().sum().item()
    generator = np.random.default_rng(seed)
    nuclear = 0.0
    if len(left) and len(right):
        for _ in range(draws):
            block = left.sqrt().unsqueeze(1) * random_block(degrees, len(left), len(right), generator) * right.sqrt()
            nuclear += torch.linalg.svdvals(block).sum().item() / draws
    cka = shared / (squares[0] * squares[1]) ** 0.5 if all(squares) else 0.0
    return Geometry(2 - 2 * nuclear, sum(squares) - 2 * shared, min(1.0, cka))


def random_block(order: int, height: int, width: int, generator: np.random.Generator) -> Tensor:
    """The upper left block (height, width) of a random orthogonal matrix, float64, in memory of (width, width).

    The first columns of such a matrix are a Gaussian matrix X times the inverse root of XᵀX. Of X only the upper rows
    are drawn; what the others add to XᵀX has a Wishart distribution (Bartlett 1933).
    """
    upper = generator.standard_normal((height, width))
    rest = order - height
    if rest >= width:
        lower = np.tril(generator.standard_normal((width, width)), -1)
        lower[np.diag_indices(width)] = np.sqrt(generator.chisquare(rest - np.arange(width)))
        below = lower @ lower.T
    else:
        others = generator.standard_normal((rest, width))
        below = others.T @ others
    root = np.linalg.cholesky(upper.T @ upper + below)
    return torch.from_numpy(np.linalg.solve(root, upper.T).T.copy())
