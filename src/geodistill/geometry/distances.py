"""Distances between paired feature clouds that no rotation can change: Procrustes, Gram and CKA.

S (n, d_s) are the student's rows and T (n, d_t) the teacher's. Each distance is a short function of their second
moments: of `Moments` or, when rows are few, of `Kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.features import FeatureRows, PairedRows, counting_rows, only_counted, pair_rows, unit_rows
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.nuclear import nuclear_norm
from geodistill.geometry.numerics import full_precision, or_one

Normalize = bool | Literal["rows"]

# float32 products leave D² with an error of up to 3e-7 of ‖S‖² + ‖T‖² (measured): below this share of that sum, D²
# would have fewer than five digits.
SMALL = 0.03


def procrustes_distance(
    student: Tensor,
    teacher: Tensor | FeatureRows,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    normalize: Normalize = True,
    squared: bool = False,
) -> Tensor:
    """The Procrustes distance: how far the student stays from the teacher after the best rotation.

        D_P = min_Q ‖T − SQ‖_F,    D_P² = ‖S‖_F² + ‖T‖_F² − 2‖SᵀT‖∗

    over orthogonal Q, the narrower side padded with zeros; ‖·‖∗ is the nuclear norm.

    Args:
        student: (…, d_s), any floating dtype; receives the gradient 2(S − TWᵀ), with W the polar factor of SᵀT.
        teacher: (…, d_t), the same inputs; never receives a gradient. Or the result of `prepare_features`.
        mask: (…), the rows that count, boolean, or a weight ≥ 0 for each; rows of weight zero may hold anything.
        center: subtract the mean row of each side.
        normalize: True divides each side by its Frobenius norm, after centring. "rows" scales each row to unit length,
            before centring, and divides the whole by the root of the number of rows. False leaves the scale alone.
        squared: return D_P², which is smooth at zero; the gradient of D_P at zero is taken to be zero.

    Returns:
        A scalar in float32 (float64 for float64 features). D_P² lies in [0, 2] under `normalize=True`. With fewer than
        two rows it is a zero that can be differentiated. NaN or infinite features give NaN.

    Raises:
        GeodistillError: shapes do not fit, or a weight is negative on the CPU (elsewhere the result is NaN).

    Example:
        distance = procrustes_distance(student_hidden, teacher_hidden, mask=attention_mask)

    Reference: arXiv 2509.25253; Schönemann (1966), A generalized solution of the orthogonal Procrustes problem.
    """
    rows = select(student, teacher, mask, normalize)
    return _measure(lambda each: procrustes_square(procrustes_moments(each, center), center, normalize), rows, squared)


def gram_distance(
    student: Tensor,
    teacher: Tensor | FeatureRows,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    normalize: Normalize = True,
    squared: bool = False,
) -> Tensor:
    """The distance of the feature Gram matrices: how much the inner products between rows differ.

        D_FG = ‖SSᵀ − TTᵀ‖_F,    D_FG² = ‖SᵀS‖_F² + ‖TᵀT‖_F² − 2‖SᵀT‖_F²

    It is zero exactly when the Procrustes distance is. The gradient of D_FG² is 4(S·SᵀS − T·TᵀS).

    Args:
        student: (…, d_s), any floating dtype.
        teacher: (…, d_t), the same inputs; never receives a gradient. Or the result of `prepare_features`.
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row of each side.
        normalize: as in `procrustes_distance`.
        squared: return D_FG².

    Returns:
        A scalar, as `procrustes_distance` returns. D_FG² lies in [0, 2] under `normalize=True`.

    Raises:
        GeodistillError: as in `procrustes_distance`.

    Example:
        distance = gram_distance(student_hidden, teacher_hidden, squared=True)

    Reference: arXiv 2509.25253.
    """
    rows = select(student, teacher, mask, normalize)
    return _measure(lambda each: gram_square(cheaper_side(each, center), center, normalize), rows, squared)


def cka(
    student: Tensor,
    teacher: Tensor | FeatureRows,
    *,
    mask: Tensor | None = None,
    center: bool = True,
    normalize: Normalize = True,
    debiased: bool = False,
) -> Tensor:
    """Linear centred kernel alignment, a similarity in [0, 1]: 1 when the Grams are equal up to scale.

        CKA = ‖SᵀT‖_F² / (‖SᵀS‖_F ‖TᵀT‖_F)

    Args:
        student: (…, d_s), any floating dtype.
        teacher: (…, d_t), the same inputs; never receives a gradient. Or the result of `prepare_features`.
        mask: (…), the rows that count, or a weight ≥ 0 for each.
        center: subtract the mean row of each side.
        normalize: "rows" scales each row to unit length, before centring. True and False give the same, because scale
            does not matter.
        debiased: replace the three products by unbiased estimates of the Hilbert–Schmidt independence criterion.
            Unrelated features of any number of rows then give 0 on average, and can give less than 0. It needs four
            rows, always centres, and takes any non-zero weight for one.

    Returns:
        A scalar, as `procrustes_distance` returns.

    Raises:
        GeodistillError: as in `procrustes_distance`.

    Example:
        similarity = cka(student_hidden, teacher_hidden, mask=attention_mask, debiased=True)

    References: Kornblith et al. (2019), Similarity of neural network representations revisited; debiased: Song et al.
    (2012), Feature selection via dependence maximization, eq. 5, and Nguyen, Raghu, Kornblith (2021).
    """
    rows = select(student, teacher, mask, normalize)
    with full_precision(student.device):
        value = debiased_similarity(rows) if debiased else similarity(cheaper_side(rows, center), center)
    return value.to(rows.dtype)


def select(student: Tensor, teacher: Tensor | FeatureRows, mask: Tensor | None, normalize: Normalize) -> PairedRows:
    """Features to rows, of unit length if so asked."""
    if normalize not in (True, False, "rows"):
        raise GeodistillError(f"Unknown normalisation {normalize!r}.", "Valid: True, False, 'rows'.")
    rows = pair_rows(*counting_rows(student, teacher, mask))
    return unit_rows(rows) if normalize == "rows" else rows


def cheaper_side(rows: PairedRows, center: bool) -> Moments | Kernels:
    """Second moments on the side that costs less: the one place that chooses."""
    return Kernels.of(rows, center=center) if prefer_kernels(*rows.shape, rows.teacher.prepared) else Moments.of(rows)


def prefer_kernels(n: int, student_width: int, teacher_width: int, teacher_prepared: bool = False) -> bool:
    """Whether n × n kernels cost less than d × d moments, forward and backward, of the Gram distance or CKA.

    Counted in multiply-adds, plus the passes over the matrices that come out. Never for n > d_s + d_t.
    """
    passes = 512  # what reading and writing one entry about ten times costs, in multiply-adds
    teacher = 0 if teacher_prepared else teacher_width
    kernels = n * n * (2 * student_width + teacher + passes)
    moments = n * (2 * student_width * (student_width + teacher_width) + teacher * teacher_width)
    moments += passes * (student_width * (student_width + teacher_width) + teacher_width * teacher_width // 3)
    return 0 < n < student_width + teacher_width and kernels < moments


def procrustes_moments(rows: PairedRows, center: bool) -> Moments:
    """The moments that the Procrustes distance needs, with a teacher of more columns than rows rotated into n."""
    n, student_width, teacher_width = rows.shape
    if 0 < n < teacher_width and n <= student_width:
        rows = PairedRows(rows.student, rows.teacher.compact(center))
    return Moments.of(rows, student_gram=False, teacher_gram=False)


def procrustes_square(moments: Moments, center: bool, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """D_P² and ‖S‖_F² + ‖T‖_F², of which D_P² is a part: float64 scalars."""
    moments = moments if center else moments.about_origin()
    student, teacher = moments.student_square, moments.teacher_square
    nuclear = nuclear_norm(moments.cross)
    if normalize is True:
        whole, shared = torch.full_like(teacher, 2.0), 2 * nuclear / or_one(student * teacher).sqrt()
    else:
        scale = common_scale(moments, normalize)
        whole, shared = (student + teacher) / scale, 2 * nuclear / scale
    return or_zero((whole - shared).clamp(min=0), moments), whole


def gram_square(moments: Moments | Kernels, center: bool, normalize: Normalize) -> tuple[Tensor, Tensor]:
    """D_FG² and ‖SᵀS‖_F² + ‖TᵀT‖_F², of which D_FG² is a part: float64 scalars."""
    if isinstance(moments, Moments) and not center:
        moments = moments.about_origin()
    student, teacher, cross = moments.gram_squares()
    if normalize is True:
        s, t = or_one(moments.student_square), or_one(moments.teacher_square)
        whole, shared = student / s.square() + teacher / t.square(), 2 * cross / (s * t)
    else:
        scale = common_scale(moments, normalize).square()
        whole, shared = (student + teacher) / scale, 2 * cross / scale
    return or_zero((whole - shared).clamp(min=0), moments), whole


def similarity(moments: Moments | Kernels, center: bool) -> Tensor:
    """CKA, a float64 scalar; zero when a side has no spread."""
    if isinstance(moments, Moments) and not center:
        moments = moments.about_origin()
    student, teacher, cross = moments.gram_squares()
    return or_zero(cross / or_one(student * teacher).sqrt(), moments)


def debiased_similarity(rows: PairedRows) -> Tensor:
    """CKA of unbiased estimates, a float64 scalar; zero with fewer than four rows.

    Of centred rows, with a_i = ‖s_i‖² and b_i = ‖t_i‖² the diagonals of the kernels K and L, set to zero there:
    n(n − 3) HSIC(K, L) = ‖SᵀT‖² − Σ a b + Σa Σb / ((n − 1)(n − 2)) − 2 Σ a b / (n − 2).
    """
    if rows.weights is not None:
        ones = (rows.weights != 0).to(rows.dtype)
        rows = PairedRows(rows.student, FeatureRows(rows.teacher.values, ones, rows.dtype))
    moments = cheaper_side(rows, center=True)
    wide, n = moments.count.dtype, moments.rows
    student = only_counted(rows.student.to(rows.dtype), rows.weights)
    student = student - student.sum(0) / rows.teacher.divisor
    a, b = (torch.linalg.vecdot(x, x).to(wide) for x in (student, rows.teacher.block(slice(None))))
    a = only_counted(a, rows.weights)

    def unbiased(product: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return unbiased_product(product, (x * y).sum(), x.sum(), y.sum(), n)

    student_gram, teacher_gram, cross = moments.gram_squares()
    enough = n >= 4
    n = torch.where(enough, n, 4)
    scale = (unbiased(student_gram, a, a) * unbiased(teacher_gram, b, b)).clamp(min=0).sqrt()
    return torch.where(enough, unbiased(cross, a, b) / or_one(scale), 0)


def unbiased_product(product: Tensor, diagonal: Tensor, a: Tensor, b: Tensor, n: Tensor) -> Tensor:
    """n(n − 3) HSIC of n centred rows, from ‖SᵀT‖², Σ a_i b_i, Σ a_i and Σ b_i; see `debiased_similarity`."""
    return product - diagonal + a * b / ((n - 1) * (n - 2)) - 2 * diagonal / (n - 2)


def common_scale(moments: Moments | Kernels, normalize: Normalize) -> Tensor:
    """What the squares of both sides are divided by when each keeps its length: the count for unit rows, or one."""
    return or_one(moments.count) if normalize == "rows" else torch.ones_like(moments.count)


def or_zero(value: Tensor, moments: Moments | Kernels) -> Tensor:
    """A zero that can be differentiated when fewer than two rows count: a single point has no shape."""
    return torch.where(moments.rows < 2, 0, value)


def root(square: Tensor, whole: Tensor, dtype: torch.dtype) -> Tensor:
    """D from D² of products in `dtype`; zero, with a gradient of zero, if D² is below their rounding."""
    resolved = ~(square <= 8 * torch.finfo(dtype).eps * whole)  # written so that NaN stays NaN
    return torch.where(resolved, torch.where(resolved, square, 1).sqrt(), 0)


def _measure(distance: Callable[[PairedRows], tuple[Tensor, Tensor]], rows: PairedRows, squared: bool) -> Tensor:
    """A distance in the features' dtype, from float64 products when it turns out to be small.

    Looking at the value waits for an accelerator; the losses, which are for training, do not.
    """
    dtype = rows.dtype
    with full_precision(rows.student.device):
        square, whole = distance(rows)
        if dtype == torch.float32 and square.dtype == torch.float64 and square < SMALL * whole:
            dtype = torch.float64
            square, whole = distance(rows.to(dtype))
    return (square if squared else root(square, whole, dtype)).to(rows.dtype)
