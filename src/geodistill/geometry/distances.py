"""Distances between paired feature clouds that no rotation can change: Procrustes, Gram and CKA.

S (n, d_s) are the student's rows and T (n, d_t) the teacher's, by default centred and divided by their Frobenius norms.
Each distance is a short function of their second moments: of `Moments` or, for few rows, of `Kernels`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.nuclear import nuclear_norm
from geodistill.geometry.rows import PairedRows, full_precision, pair_rows, unit_rows

Normalize = bool | Literal["rows"]


def procrustes_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    normalize: Normalize = True,
    squared: bool = False,
) -> Tensor:
    rows = select(student, teacher, mask, normalize)
    return finish(procrustes_square(Moments.of(rows, grams=False), center, normalize), squared, rows.dtype)


def gram_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    normalize: Normalize = True,
    squared: bool = False,
) -> Tensor:
    rows = select(student, teacher, mask, normalize)
    return finish(gram_square(side(rows, center), center, normalize), squared, rows.dtype)


def cka(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    normalize: Normalize = True,
    debiased: bool = False,
) -> Tensor:
    rows = select(student, teacher, mask, normalize)
    return similarity(side(rows, center), center).to(rows.dtype)


def select(student: Tensor, teacher: Tensor, mask: Tensor | None, normalize: Normalize) -> PairedRows:
    """Features to rows, of unit length if so asked."""
    if normalize not in (True, False, "rows"):
        raise GeodistillError(f"Unknown normalisation {normalize!r}.", "Valid: True, False, 'rows'.")
    rows = pair_rows(student, teacher, mask)
    return unit_rows(rows) if normalize == "rows" else rows


def side(rows: PairedRows, center: bool) -> Moments | Kernels:
    """The cheaper side: n × n while rows are fewer than columns, d × d after."""
    n, student_width, teacher_width = rows.shape
    return Kernels.of(rows, center=center) if n < student_width + teacher_width else Moments.of(rows)


def procrustes_square(moments: Moments, center: bool = True, normalize: Normalize = True) -> Tensor:
    """D_P² = ‖S‖² + ‖T‖² − 2‖SᵀT‖_* as a float64 scalar."""
    moments = moments.centered() if center else moments.about_origin()
    student_scale, teacher_scale = scales(moments, normalize)
    squares = moments.student_square / student_scale + moments.teacher_square / teacher_scale
    nuclear = nuclear_norm(moments.cross) / (student_scale.sqrt() * teacher_scale.sqrt())
    return or_zero((squares - 2 * nuclear).clamp(min=0), moments)


def gram_square(moments: Moments | Kernels, center: bool = True, normalize: Normalize = True) -> Tensor:
    """D_FG² = ‖SᵀS‖² + ‖TᵀT‖² − 2‖SᵀT‖² (Frobenius norms) as a float64 scalar."""
    if isinstance(moments, Moments):
        moments = moments.centered() if center else moments.about_origin()
    student_scale, teacher_scale = scales(moments, normalize)
    student, teacher, cross = moments.gram_squares()
    squares = student / student_scale.square() + teacher / teacher_scale.square()
    return or_zero((squares - 2 * cross / (student_scale * teacher_scale)).clamp(min=0), moments)


def similarity(moments: Moments | Kernels, center: bool = True) -> Tensor:
    """CKA = ‖SᵀT‖² / (‖SᵀS‖ ‖TᵀT‖) (Frobenius norms) as a float64 scalar."""
    if isinstance(moments, Moments):
        moments = moments.centered() if center else moments.about_origin()
    student, teacher, cross = moments.gram_squares()
    return or_zero(cross / (or_one(student).sqrt() * or_one(teacher).sqrt()), moments)


def scales(moments: Moments | Kernels, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """What the squares of both sides are divided by: their own sums, the count for unit rows, or nothing."""
    if normalize is True:
        return or_one(moments.student_square), or_one(moments.teacher_square)
    scale = or_one(moments.count) if normalize == "rows" else torch.ones_like(moments.count)
    return scale, scale


def or_zero(value: Tensor, moments: Moments | Kernels) -> Tensor:
    """A zero that can be differentiated when fewer than two rows count: one point has no shape."""
    return torch.where(moments.rows < 2, 0, value)


def finish(square: Tensor, squared: bool, dtype: torch.dtype) -> Tensor:
    """D² or D, in the features' dtype; the subgradient of D at zero is zero."""
    if squared:
        return square.to(dtype)
    return torch.where(square == 0, 0, torch.where(square == 0, 1, square).sqrt()).to(dtype)


def or_one(value: Tensor) -> Tensor:
    return torch.where(value == 0, 1, value)
