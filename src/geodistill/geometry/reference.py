"""What a distance may be held against: the floor of a width, the level of chance, and the rank of a cloud."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.distances import (
    cheaper_side,
    cka,
    gram_distance,
    gram_square,
    procrustes_distance,
    procrustes_moments,
    procrustes_square,
    similarity,
)
from geodistill.geometry.features import FeatureRows, pair_rows, prepare_features
from geodistill.geometry.moments import Moments
from geodistill.geometry.numerics import full_precision, or_one, wide_dtype


@dataclass(frozen=True)
class Geometry:
    """The three measures side by side.

    Args:
        procrustes: D_P², in [0, 2]; lower is nearer.
        gram: D_FG², in [0, 2]; lower is nearer.
        cka: CKA, in [0, 1]; higher is nearer.

    Example:
        measure(student_hidden, teacher_hidden).procrustes
    """

    procrustes: float
    gram: float
    cka: float


def measure(
    student: Tensor, teacher: Tensor | FeatureRows, *, mask: Tensor | None = None, center: bool = True
) -> Geometry:
    """D_P² and D_FG² of clouds of unit Frobenius norm, and their CKA, as plain numbers.

    Args:
        student: (…, d_s).
        teacher: (…, d_t), the same inputs. Or the result of `prepare_features`.
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row of each side.

    Returns:
        A `Geometry`: the floats `procrustes` (D_P²), `gram` (D_FG²) and `cka`.

    Raises:
        GeodistillError: shapes do not fit.

    Example:
        measure(student_hidden, teacher_hidden, mask=attention_mask).cka
    """
    student = student.detach()
    return Geometry(
        procrustes_distance(student, teacher, mask=mask, center=center, squared=True).item(),
        gram_distance(student, teacher, mask=mask, center=center, squared=True).item(),
        cka(student, teacher, mask=mask, center=center).item(),
    )


def floor(teacher: Tensor, width: int, *, mask: Tensor | None = None, center: bool = True) -> Geometry:
    """The lowest D_P² and D_FG² and the highest CKA that any student of `width` can reach on features (…, d_t).

    With λ_1 ≥ λ_2 ≥ … the eigenvalues of TTᵀ, which sum to one under unit Frobenius norm, k = `width`, ρ = Σ_{i≤k} λ_i
    and τ = 1 − ρ:

        D_P² ≥ 2 − 2√ρ        D_FG² ≥ τ²/k + Σ_{i>k} λ_i²        CKA ≤ (Σ_{i≤k} λ_i² / Σ λ_i²)^½

    Different students reach the three: the leading principal components of T with their spectrum scaled, shifted, and
    left unchanged.

    Args:
        teacher: (…, d_t).
        width: d_s, how many columns the student has.
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row.

    Returns:
        A `Geometry`: the floats `procrustes` (D_P²), `gram` (D_FG²) and `cka`.

    Raises:
        GeodistillError: the width is below one.

    Example:
        floor(teacher_hidden, 128).procrustes
    """
    if width < 1:
        raise GeodistillError(f"A student of width {width} has no features.", "Give a width of at least 1.")
    return floor_of_spectrum(variance_spectrum(teacher, mask=mask, center=center), width)


def floor_of_spectrum(spectrum: Tensor, width: int) -> Geometry:
    """The floor of a width, from the eigenvalues λ of a teacher; see `floor`."""
    kept, lost = spectrum[:width], spectrum[width:]
    missing = lost.sum()
    gram = missing.square() / width + lost.square().sum()
    best = (kept.square().sum() / or_one(spectrum.square().sum())).sqrt()
    return Geometry((2 * missing / (1 + (1 - missing).sqrt())).item(), gram.item(), best.item())


def chance_level(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    permutations: int = 10,
    seed: int = 0,
) -> Geometry:
    """What unpaired rows give: the mean of D_P², D_FG² and CKA over random orders of the student's rows.

    Few rows make any two clouds look alike: a distance that is not well below chance says nothing about the pairing.

    Args:
        student: (…, d_s).
        teacher: (…, d_t).
        mask: (…), the rows that count, or a weight ≥ 0 for each. Rows are permuted among the rows that count.
        center: subtract the mean row of each side.
        permutations: how many random orders the mean is taken over.
        seed: of the random orders.

    Returns:
        A `Geometry`: the floats `procrustes` (D_P²), `gram` (D_FG²) and `cka`.

    Raises:
        GeodistillError: shapes do not fit, or `permutations` is below one.

    Example:
        chance_level(student_hidden, teacher_hidden, mask=attention_mask).cka
    """
    if permutations < 1:
        raise GeodistillError("Chance was to be averaged over no permutation.", "Give permutations of at least 1.")
    pair = pair_rows(student.detach(), teacher, mask)
    kept = slice(None) if pair.weights is None else pair.weights != 0
    s, t = pair.student[kept], pair.teacher.values[kept]
    prepared = prepare_features(t, None if pair.weights is None else pair.weights[kept])
    generator = torch.Generator().manual_seed(seed)
    draws = torch.zeros(3, dtype=wide_dtype(s.device), device=s.device)
    for _ in range(permutations):
        rows = pair_rows(s[torch.randperm(len(s), generator=generator).to(s.device)], prepared)
        side = cheaper_side(rows, center)
        moments = side if isinstance(side, Moments) else procrustes_moments(rows, center)
        squares = procrustes_square(moments, center, True)[0], gram_square(side, center, True)[0]
        draws += torch.stack([*squares, similarity(side, center)])
    return Geometry(*(draws / permutations).tolist())


def variance_spectrum(features: Tensor, *, mask: Tensor | None = None, center: bool = True) -> Tensor:
    """The shares of the variance along the principal directions of features X (…, d).

    They are the eigenvalues of XXᵀ for X of unit Frobenius norm.

    Args:
        features: (…, d).
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row.

    Returns:
        min(n, d) numbers in float64, largest first, which sum to one. All are zero for a cloud that is a single point,
        and NaN for features that are not finite.

    Raises:
        GeodistillError: the mask has another shape than the rows.

    Example:
        variance_spectrum(teacher_hidden)[:16].sum()
    """
    rows = prepare_features(features, mask)
    rows = FeatureRows(rows.values, rows.weights, wide_dtype(features.device))
    with full_precision(features.device):
        if len(rows) < rows.width:
            gram = rows.kernel(center)
        else:
            gram = rows.gram if center else rows.gram + rows.counts[1] * torch.outer(rows.mean, rows.mean)
    return spectrum_of(gram)


def spectrum_of(gram: Tensor) -> Tensor:
    """The eigenvalues of a Gram matrix (d, d), float64, largest first, of sum one; see `variance_spectrum`."""
    peak = gram.abs().amax() if gram.numel() else gram.sum()
    if not peak.isfinite():
        return torch.full_like(gram[0], torch.nan)
    spectrum = torch.linalg.eigvalsh(gram / or_one(peak)).flip(0).clamp(min=0)
    return spectrum / or_one(spectrum.sum())


def effective_rank(features: Tensor, *, mask: Tensor | None = None, center: bool = True) -> float:
    """exp(−Σ p_i ln p_i), with p_i = σ_i / Σ σ_j the normalised singular values of features (…, d).

    Args:
        features: (…, d).
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row.

    Returns:
        A number between 1 (a line) and min(n, d) (equal singular values).

    Raises:
        GeodistillError: the mask has another shape than the rows.

    Example:
        effective_rank(teacher_hidden)

    Reference: Roy & Vetterli (2007), The effective rank.
    """
    return rank_of_spectrum(variance_spectrum(features, mask=mask, center=center))


def rank_of_spectrum(spectrum: Tensor) -> float:
    """The effective rank of a cloud of these eigenvalues λ = σ²; see `effective_rank`."""
    sigma = spectrum.sqrt()
    shares = sigma / or_one(sigma.sum())
    return torch.exp(-torch.xlogy(shares, shares).sum()).item()


def participation_ratio(features: Tensor, *, mask: Tensor | None = None, center: bool = True) -> float:
    """(Σ λ_i)² / Σ λ_i² of the eigenvalues λ of the covariance: how many directions share the variance.

    Args:
        features: (…, d).
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row.

    Returns:
        A number between 1 (a line) and min(n, d) (an even spectrum).

    Raises:
        GeodistillError: the mask has another shape than the rows.

    Example:
        participation_ratio(teacher_hidden)
    """
    spectrum = variance_spectrum(features, mask=mask, center=center)
    return (spectrum.sum().square() / or_one(spectrum.square().sum())).item()
