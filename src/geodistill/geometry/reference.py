"""What a distance may be held against: the floor of a width, the level of chance, and the rank of a cloud."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.distances import cka, gram_distance, procrustes_distance
from geodistill.geometry.rows import pair_rows


@dataclass(frozen=True)
class Geometry:
    """The three measures side by side: D_P², D_FG² (centred, unit Frobenius norm) and CKA."""

    procrustes: float
    gram: float
    cka: float


def measure(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, center: bool = True) -> Geometry:
    """D_P², D_FG² and CKA of features (…, d_s) and (…, d_t) of unit Frobenius norm, as plain numbers."""
    student = student.detach()
    return Geometry(
        procrustes_distance(student, teacher, mask=mask, center=center, squared=True).item(),
        gram_distance(student, teacher, mask=mask, center=center, squared=True).item(),
        cka(student, teacher, mask=mask, center=center).item(),
    )


def floor(teacher: Tensor, width: int, *, mask: Tensor | None = None, center: bool = True) -> Geometry:
    """The lowest D_P² and D_FG² and the highest CKA that any student of `width` can reach.

    With λ_1 ≥ λ_2 ≥ … the eigenvalues of TTᵀ, which sum to one under unit Frobenius norm, k = min(width, number of
    rows), ρ = Σ_{i≤k} λ_i and τ = 1 − ρ:

        D_P² ≥ 2 − 2√ρ      D_FG² ≥ τ²/k + Σ_{i>k} λ_i²      CKA ≤ (Σ_{i≤k} λ_i² / Σ λ_i²)^½

    The three bounds are reached by different students: the principal components of T with their spectrum scaled,
    shifted and left as it is.
    """
    spectrum = variance_spectrum(teacher, mask=mask, center=center)
    if width < 1:
        raise GeodistillError(f"A student of width {width} has no features.", "Give a width of at least 1.")
    kept, lost = spectrum[:width], spectrum[width:]
    if spectrum.sum() == 0:
        return Geometry(0.0, 0.0, 0.0)
    missing = lost.sum()
    procrustes = 2 - 2 * (1 - missing).sqrt()
    gram = missing.square() / len(kept) + lost.square().sum()
    return Geometry(procrustes.item(), gram.item(), (kept.square().sum() / spectrum.square().sum()).sqrt().item())


def chance_level(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    permutations: int = 10,
    seed: int = 0,
) -> Geometry:
    """What unpaired rows give: the mean of each measure over random permutations of the student's rows.

    Rows are permuted among those that the mask keeps. Few rows make any two clouds look alike; a distance that is not
    well below this one says nothing.
    """
    rows = pair_rows(student.detach(), teacher, mask)
    kept = slice(None) if rows.weights is None else rows.weights != 0
    s, t = rows.student[kept], rows.teacher[kept]
    weights = None if rows.weights is None else rows.weights[kept]
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        measure(s[torch.randperm(len(s), generator=generator).to(s.device)], t, mask=weights, center=center)
        for _ in range(permutations)
    ]
    return Geometry(
        sum(each.procrustes for each in drawn) / permutations,
        sum(each.gram for each in drawn) / permutations,
        sum(each.cka for each in drawn) / permutations,
    )


def variance_spectrum(features: Tensor, *, mask: Tensor | None = None, center: bool = True) -> Tensor:
    """The eigenvalues of XXᵀ of features X of unit Frobenius norm, largest first: float64, min(n, d) of them, sum 1.

    They are the shares of the variance along the principal directions; all zero for a cloud that is a single point.
    """
    rows = pair_rows(features.detach(), features, mask)
    wide = rows.teacher.double()
    if rows.weights is not None:
        kept = rows.weights != 0
        wide, weights = wide[kept], rows.weights[kept].double().unsqueeze(1)
    else:
        weights = torch.ones_like(wide[:, :1])
    if center:
        wide = wide - (weights * wide).sum(0) / weights.sum().clamp(min=torch.finfo(wide.dtype).tiny)
    wide = wide * weights.sqrt()
    squares = torch.linalg.svdvals(wide).square()
    return squares / torch.where(squares.sum() == 0, 1, squares.sum())


def effective_rank(features: Tensor, *, mask: Tensor | None = None, center: bool = True) -> float:
    """exp(−Σ p_i ln p_i) with p_i = σ_i / Σ σ_j the normalised singular values of the features (…, d).

    Between 1 (a line) and min(n, d) (an even spectrum). Roy & Vetterli (2007), The effective rank.
    """
    sigma = variance_spectrum(features, mask=mask, center=center).sqrt()
    shares = sigma[sigma > 0] / sigma.sum()
    return torch.exp(-(shares * shares.log()).sum()).item()


def participation_ratio(features: Tensor, *, mask: Tensor | None = None, center: bool = True) -> float:
    """(Σ λ_i)² / Σ λ_i² of the eigenvalues of the features' covariance: how many directions share the variance."""
    spectrum = variance_spectrum(features, mask=mask, center=center)
    return (1 / spectrum.square().sum()).item()
