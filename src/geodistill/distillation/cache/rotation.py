"""Principal axes of teacher features, and the most that a cut to them can cost a geometry loss.

Procrustes, Gram and CKA do not change when the teacher's features are rotated, so these may be stored in their
principal axes and cut to the leading ones. Centring is linear and commutes with that; the mean is not subtracted, and
what of it lies outside the leading axes has a separate axis, so that a loss without centring keeps its rows too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CutBounds:
    """The most that the cut can change each measure between the features and any student, all of them normalised.

    `share` is the part ρ of the centred features' variance that is kept. Each bound holds for centred features of unit
    Frobenius norm (after the cut too) and says |measure before − measure after| ≤ bound, whatever the student. It is
    of the rows it was computed from: the share of a batch is smaller or greater. Rounding is not in it.
    """

    share: float
    procrustes: float
    procrustes_squared: float
    gram: float
    gram_squared: float
    cka: float

    def __str__(self) -> str:
        return (
            f"{self.share:.4%} of the variance kept; on all rows together the cut moves D_P² by at most "
            f"{self.procrustes_squared:.2g}, D_FG² by {self.gram_squared:.2g}, CKA by {self.cka:.2g}"
        )


def mean_and_covariance(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean (d,) and covariance (d, d), float64, of rows that come in blocks (n, d)."""
    count = 0
    total: Tensor | None = None
    products: Tensor | None = None
    for block in blocks:
        rows = block.double()
        count += len(rows)
        total = rows.sum(0) if total is None else total + rows.sum(0)
        products = rows.T @ rows if products is None else products.addmm_(rows.T, rows)
    if total is None or products is None or count == 0:
        raise ValueError("there are no rows")
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)


def principal_axes(mean: Tensor, covariance: Tensor, share: float) -> Tensor:
    """Return orthonormal axes (d, k): the fewest leading principal axes with `share` of the variance, and the mean's.

    The last axis is the direction of what the leading ones leave of the mean, if they leave any, so that
    X · axes keeps the mean whole and at least `share` of the variance.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    # Eigenvalues below this are rounding: with share = 1 they must not count as variance.
    values = values * (values > 1e-12 * values[0])
    kept = values.cumsum(0)
    rank = int((kept < share * kept[-1] * (1 - 1e-12)).sum()) + 1
    axes = vectors[:, :rank]
    rest = mean - axes @ (axes.T @ mean)
    if rank < len(mean) and rest.norm() > 1e-6 * mean.norm():
        rest = rest - axes @ (axes.T @ rest)  # once more, for orthogonality to the last digit
        axes = torch.cat([axes, (rest / rest.norm()).unsqueeze(1)], dim=1)
    return axes


def cut_bounds(covariance: Tensor, axes: Tensor) -> CutBounds:
    """Bound what keeping only `axes` (d, k), orthonormal, of features T (n × d) can change, from C = TᵀT / ‖T‖² alone.

    Let P = axes · axesᵀ, ρ = tr CP, the share kept, and T' = TP / √ρ the features after the cut, of unit norm again.

    - Procrustes: the identity is a rotation, so D_P(T, T')² ≤ ‖T − T'‖² = 2 − 2√ρ. D_P is a metric, hence
      |D_P(S, T) − D_P(S, T')| ≤ √(2 − 2√ρ). So is the angle θ with cos θ = ‖SᵀT‖∗ = 1 − D_P² / 2, which moves by
      at most arccos √ρ; since D_P² = 2 − 2 cos θ and θ ≤ π/2, D_P² moves by at most 2 sin arccos √ρ = 2√(1 − ρ).
      (Upwards the true D_P² exceeds the one after the cut by 2 − 2√ρ at most: ‖SᵀT‖∗ ≥ √ρ ‖SᵀT'‖∗.)
    - Gram: with A = TTᵀ − T'T'ᵀ, whose non-zero eigenvalues are those of C^½ (I − P/ρ) C^½, the triangle inequality
      gives |D_FG(S, T) − D_FG(S, T')| ≤ ‖A‖_F. D_FG² differs by ‖TTᵀ‖² − ‖T'T'ᵀ‖² − 2⟨SSᵀ, A⟩, and SSᵀ is positive
      semidefinite with trace 1, so by at most |‖TTᵀ‖² − ‖T'T'ᵀ‖²| + 2‖A‖₂.
    - CKA is the cosine of the angle between Gram matrices, an angle that moves by at most the one between T and T',
      whose cosine is κ = CKA(T, T') = tr C²P / (‖C‖ ‖PCP‖): CKA moves by at most √(1 − κ²).

    The covariance may have any scale; the bounds are bounds of the rows that it was computed from.
    """
    covariance = covariance.double()
    axes = axes.double()
    trace = covariance.trace()
    if trace <= 0:
        return CutBounds(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # rows all alike: no geometry to lose
    full = covariance / trace
    kept = axes.T @ full @ axes
    share = kept.trace().clamp(max=1)
    values, vectors = torch.linalg.eigh(full)
    root = vectors * values.clamp(min=0).sqrt()
    overlap = root.T @ axes
    difference = root.T @ root - overlap @ overlap.T / share
    change = torch.linalg.eigvalsh(difference)
    full_norm, kept_norm = full.norm(), kept.norm()
    cosine = ((full @ axes).square().sum() / (full_norm * kept_norm)).clamp(max=1)
    return CutBounds(
        share=float(share),
        procrustes=float((2 - 2 * share.sqrt()).sqrt()),
        procrustes_squared=float(2 * (1 - share).sqrt()),
        gram=float(change.norm()),
        gram_squared=float((full_norm**2 - (kept_norm / share) ** 2).abs() + 2 * change.abs().max()),
        cka=float((1 - cosine**2).sqrt()),
    )
