"""Second moments of paired features: all that any distance here needs to know about them.

There are two sides to compute on. `Moments` is the feature side: matrices of (d, d), which add up over batches and ranks.
`Kernels` is the sample side: Gram matrices of (n, n), cheaper when rows are fewer than columns. Both answer the same
questions, and every gradient reaches the student's rows through one hand-written backward pass of two matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geodistill.geometry.rows import PairedRows, blocks, full_precision, pair_rows, part_of, weigh, wide_dtype


@dataclass(frozen=True)
class Moments:
    """Weighted second moments of n paired rows S (n, d_s), T (n, d_t) about their means, the feature side.

    With weights w_i (a mask; 1 without), count Σ w_i, means μ = Σ w_i s_i / Σ w_i, ν = Σ w_i t_i / Σ w_i:

    - `rows`: how many rows have a non-zero weight; `count`: Σ w_i. Scalars, float64.
    - `student_mean` μ (d_s,), `teacher_mean` ν (d_t,).
    - `student_square` Σ w_i ‖s_i − μ‖², `teacher_square` Σ w_i ‖t_i − ν‖². Scalars, float64.
    - `cross` Σ w_i (s_i − μ)(t_i − ν)ᵀ, (d_s, d_t): centred SᵀT.
    - `student_gram` Σ w_i (s_i − μ)(s_i − μ)ᵀ, (d_s, d_s), `teacher_gram`, (d_t, d_t): centred SᵀS and TᵀT; None when
      left out, since the Procrustes distance does not need them.

    `a + b` are the moments of the rows of both, exactly (Chan, Golub, LeVeque 1983), so moments of batches or ranks add
    up to those of the whole. Keeping them about the mean, rather than the origin, loses no digits to a large mean.
    Differentiable once in the student; the teacher never receives a gradient.
    """

    rows: Tensor
    count: Tensor
    student_mean: Tensor
    teacher_mean: Tensor
    student_square: Tensor
    teacher_square: Tensor
    cross: Tensor
    student_gram: Tensor | None
    teacher_gram: Tensor | None

    @classmethod
    def from_rows(cls, student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, grams: bool = True) -> Moments:
        """Moments of features (…, d_s) and (…, d_t) with a mask (…) of weights, boolean or not negative.

        Rows of weight zero may hold anything. `grams=False` leaves SᵀS and TᵀT out.
        Raises GeodistillError when the leading dimensions differ.
        """
        return cls.of(pair_rows(student, teacher, mask), grams=grams)

    @classmethod
    def of(cls, rows: PairedRows, *, grams: bool = True) -> Moments:
        with full_precision(rows.student.device):
            return cls(*_SecondMoments.apply(rows.student, rows.teacher, rows.weights, rows.dtype, grams))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = (other.count / torch.where(count == 0, 1, count)).to(self.cross.dtype)
        student_mean = torch.lerp(self.student_mean, other.student_mean, share)
        teacher_mean = torch.lerp(self.teacher_mean, other.teacher_mean, share)
        one, two = self.about(student_mean, teacher_mean), other.about(student_mean, teacher_mean)
        grams = self.student_gram is not None and other.student_gram is not None
        return Moments(
            self.rows + other.rows,
            count,
            student_mean,
            teacher_mean,
            one.student_square + two.student_square,
            one.teacher_square + two.teacher_square,
            one.cross + two.cross,
            one.student_gram + two.student_gram if grams else None,  # type: ignore[operator]
            one.teacher_gram + two.teacher_gram if grams else None,  # type: ignore[operator]
        )

    def centered(self) -> Moments:
        """The moments of the centred rows: the same about the mean, with the mean at the origin."""
        return replace(
            self,
            student_mean=torch.zeros_like(self.student_mean),
            teacher_mean=torch.zeros_like(self.teacher_mean),
        )

    def about(self, student_point: Tensor, teacher_point: Tensor) -> Moments:
        """The second moments about other points than the means, such as the means of a larger whole.

        Written with that point as the origin, so that the moments of all parts about the same points simply add up.
        """
        student, teacher = self.student_mean - student_point, self.teacher_mean - teacher_point
        return replace(
            self.centered(),
            student_square=self.student_square + self.count * square_sum(student),
            teacher_square=self.teacher_square + self.count * square_sum(teacher),
            cross=self.cross + _outer(self.count, student, teacher),
            student_gram=_plus(self.student_gram, self.count, student),
            teacher_gram=_plus(self.teacher_gram, self.count, teacher),
        )

    def about_origin(self) -> Moments:
        """The raw second moments Σ w s sᵀ, Σ w s tᵀ, Σ w t tᵀ, with the means folded in."""
        return self.about(torch.zeros_like(self.student_mean), torch.zeros_like(self.teacher_mean))

    def gram_squares(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖SᵀS‖_F², ‖TᵀT‖_F² and ‖SᵀT‖_F², float64 scalars."""
        assert self.student_gram is not None and self.teacher_gram is not None, "these moments were made without Grams"
        return frobenius_square(self.student_gram), frobenius_square(self.teacher_gram), frobenius_square(self.cross)


@dataclass(frozen=True)
class Kernels:
    """The sample side: K_S = SSᵀ and K_T = TTᵀ, (n, n), of rows scaled by the square roots of their weights.

    Same names as in `Moments`; ‖SᵀS‖_F = ‖K_S‖_F and ‖SᵀT‖_F² = ⟨K_S, K_T⟩. Kernels of batches do not add up.
    """

    rows: Tensor
    count: Tensor
    student_square: Tensor
    teacher_square: Tensor
    student_kernel: Tensor
    teacher_kernel: Tensor

    @classmethod
    def of(cls, rows: PairedRows, *, center: bool = True) -> Kernels:
        with full_precision(rows.student.device):
            return cls(*_Kernels.apply(rows.student, rows.teacher, rows.weights, rows.dtype, center))

    def gram_squares(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖SᵀS‖_F², ‖TᵀT‖_F² and ‖SᵀT‖_F², float64 scalars."""
        student, teacher = self.student_kernel, self.teacher_kernel
        return frobenius_square(student), frobenius_square(teacher), frobenius_inner(student, teacher)


class _SecondMoments(torch.autograd.Function):
    """Rows to the fields of `Moments`, and back: ∂L/∂S = S_c (G + Gᵀ) + T_c Hᵀ, with G, H the gradients of SᵀS, SᵀT.

    The means inside the second moments may be held fixed: their gradients vanish, since centred rows sum to zero.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, weights: Tensor | None, dtype: torch.dtype, grams: bool
    ) -> tuple[Tensor | None, ...]:
        rows = PairedRows(student, teacher, weights)
        kept, count = _counts(rows)
        means = _mean(student, rows, count), _mean(teacher, rows, count)
        d_s, d_t = student.shape[1], teacher.shape[1]
        cross = student.new_zeros(d_s, d_t, dtype=dtype)
        student_gram = student.new_zeros(d_s, d_s, dtype=dtype) if grams else None
        teacher_gram = student.new_zeros(d_t, d_t, dtype=dtype) if grams else None
        student_square, teacher_square = torch.zeros_like(count), torch.zeros_like(count)
        root = None if weights is None else weights.sqrt()
        for part in blocks(rows):
            s = weigh(student[part].to(dtype) - means[0], part_of(root, part))
            t = weigh(teacher[part].to(dtype) - means[1], part_of(root, part))
            cross.addmm_(s.mT, t)
            student_square += square_sum(s)
            teacher_square += square_sum(t)
            if student_gram is not None and teacher_gram is not None:
                student_gram.addmm_(s.mT, s)
                teacher_gram.addmm_(t.mT, t)
        ctx.save_for_backward(student, teacher, weights, count, *means)
        ctx.dtype = dtype
        ctx.set_materialize_grads(False)
        constant = [kept, count, means[1], teacher_square, teacher_gram]
        ctx.mark_non_differentiable(*[tensor for tensor in constant if tensor is not None])
        return kept, count, *means, student_square, teacher_square, cross, student_gram, teacher_gram

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, mean_gradient, _, square_gradient, _, cross_gradient, gram_gradient, _ = gradients
        student, teacher, weights, count, student_mean, teacher_mean = ctx.saved_tensors
        root = None if weights is None else weights.sqrt()
        factor = student_mean.new_zeros(student.shape[1], student.shape[1]) if gram_gradient is None else None
        result = torch.empty_like(student)
        with full_precision(student.device):
            if gram_gradient is not None:
                factor = gram_gradient + gram_gradient.mT
            for part in blocks(PairedRows(student, teacher, weights)):
                s = student[part].to(ctx.dtype) - student_mean
                gradient = torch.zeros_like(s) if square_gradient is None else s * (2 * square_gradient).to(ctx.dtype)
                if gram_gradient is not None:
                    gradient.addmm_(s, factor)
                if cross_gradient is not None:
                    gradient.addmm_(teacher[part].to(ctx.dtype) - teacher_mean, cross_gradient.mT)
                if mean_gradient is not None:
                    gradient += mean_gradient / count.to(ctx.dtype)
                result[part] = weigh(gradient, part_of(weights, part))
        return result, None, None, None, None


class _Kernels(torch.autograd.Function):
    """Rows to the fields of `Kernels`, and back: ∂L/∂S = (G + Gᵀ) S_c, centred again, with G the gradient of K_S."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, weights: Tensor | None, dtype: torch.dtype, center: bool
    ) -> tuple[Tensor, ...]:
        rows = PairedRows(student, teacher, weights)
        kept, count = _counts(rows)
        root = None if weights is None else weights.sqrt()
        s, t = student.to(dtype), teacher.to(dtype)
        if center:
            s, t = s - _mean(student, rows, count), t - _mean(teacher, rows, count)
        s, t = weigh(s, root), weigh(t, root)
        student_kernel, teacher_kernel = s @ s.mT, t @ t.mT
        student_square, teacher_square = square_sum(s), square_sum(t)
        ctx.save_for_backward(s, root, count)
        ctx.dtype, ctx.center = student.dtype, center
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(kept, count, teacher_square, teacher_kernel)
        return kept, count, student_square, teacher_square, student_kernel, teacher_kernel

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _, _, square_gradient, _, kernel_gradient, _ = gradients
        s, root, count = ctx.saved_tensors
        gradient = torch.zeros_like(s) if square_gradient is None else s * (2 * square_gradient).to(s.dtype)
        if kernel_gradient is not None:
            with full_precision(s.device):
                gradient.addmm_(kernel_gradient + kernel_gradient.mT, s)
        gradient = weigh(gradient, root)
        if ctx.center:
            share = 1 / torch.where(count == 0, 1, count).to(s.dtype)
            mean = gradient.sum(0) * share
            gradient -= mean if root is None else root.square().unsqueeze(1) * mean
        return gradient.to(ctx.dtype), None, None, None, None


class _FrobeniusInner(torch.autograd.Function):
    """⟨A, B⟩ in float64, each first divided by its largest entry, so that features of any scale neither over- nor
    underflow; torch's own float32 sums are not exact enough to tell a small distance."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        wide = wide_dtype(a.device)
        a_peak, b_peak = _peak(a), _peak(b)
        a, b = a / a_peak, b / b_peak
        ctx.save_for_backward(a, b, a_peak, b_peak)
        return (a * b).sum(dtype=wide) * a_peak.to(wide) * b_peak.to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, a_peak, b_peak = ctx.saved_tensors
        a_gradient = b * (gradient * b_peak).to(b.dtype) if ctx.needs_input_grad[0] else None
        b_gradient = a * (gradient * a_peak).to(a.dtype) if ctx.needs_input_grad[1] else None
        return a_gradient, b_gradient


def frobenius_inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨A, B⟩ = Σ a_ij b_ij as a float64 scalar, safe at any scale, differentiable once."""
    return _FrobeniusInner.apply(a, b)


def frobenius_square(matrix: Tensor) -> Tensor:
    """‖A‖_F² as a float64 scalar, safe at any scale, differentiable once."""
    return frobenius_inner(matrix, matrix)


def square_sum(values: Tensor) -> Tensor:
    """Σ x² in float64."""
    return values.square().sum(dtype=wide_dtype(values.device))


def _peak(matrix: Tensor) -> Tensor:
    peak = matrix.abs().amax()
    return torch.where(peak == 0, 1, peak)


def _counts(rows: PairedRows) -> tuple[Tensor, Tensor]:
    """The number of rows of non-zero weight and the sum of the weights."""
    wide = wide_dtype(rows.student.device)
    if rows.weights is None:
        n = torch.tensor(len(rows.student), dtype=wide, device=rows.student.device)
        return n, n.clone()
    return (rows.weights != 0).sum().to(wide), rows.weights.sum(dtype=wide)


def _mean(values: Tensor, rows: PairedRows, count: Tensor) -> Tensor:
    """The weighted mean row (d,), summed in float64 from block to block; zero when no row counts."""
    total = values.new_zeros(values.shape[1], dtype=count.dtype)
    for part in blocks(rows):
        total += weigh(values[part].to(rows.dtype), part_of(rows.weights, part)).sum(0)
    return (total / torch.where(count == 0, 1, count)).to(rows.dtype)


def _outer(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return weight.to(a.dtype) * torch.outer(a, b)


def _plus(gram: Tensor | None, weight: Tensor, step: Tensor) -> Tensor | None:
    return None if gram is None else gram + _outer(weight, step, step)
