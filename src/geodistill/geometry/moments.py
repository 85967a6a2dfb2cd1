"""Second moments of paired features: all that any distance here needs to know about them.

There are two sides to compute on. `Moments` is the feature side: matrices of (d, d), which add up over batches and
ranks. `Kernels` is the sample side: matrices of (n, n), cheaper when rows are fewer than columns. Both answer the same
questions, and on either side one hand-written backward pass of a few matrix products reaches the student's rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geodistill.geometry.features import FeatureRows, PairedRows, pair_rows, part_of, weigh
from geodistill.geometry.numerics import (
    add_lower_gram,
    frobenius_inner,
    frobenius_square,
    full_precision,
    gram,
    mirror,
    or_one,
    square_sum,
)


@dataclass(frozen=True)
class Moments:
    """Weighted second moments of n paired rows S (n, d_s), T (n, d_t) about their means: the feature side.

    With weights w_i (a mask; 1 without), count Σ w_i, means μ = Σ w_i s_i / Σ w_i and ν = Σ w_i t_i / Σ w_i. Make them
    by `Moments.from_rows(student, teacher, mask)`.

    `a + b` are the moments of the rows of both (Chan, Golub, LeVeque 1983), so the moments of batches or ranks add up
    to the moments of the whole. Being kept about the mean, they lose no digits to a large mean.
    Differentiable once in the student; the teacher never receives a gradient.

    Args:
        rows: how many rows have a non-zero weight. A scalar, float64, as are the next one and the squares.
        count: Σ w_i.
        student_mean: μ (d_s,).
        teacher_mean: ν (d_t,).
        student_square: Σ w_i ‖s_i − μ‖².
        teacher_square: Σ w_i ‖t_i − ν‖².
        cross: Σ w_i (s_i − μ)(t_i − ν)ᵀ, (d_s, d_t): centred SᵀT.
        student_gram: Σ w_i (s_i − μ)(s_i − μ)ᵀ, (d_s, d_s): centred SᵀS; None if left out, because not every distance
            needs it.
        teacher_gram: the same of the teacher, (d_t, d_t).

    Example:
        whole = Moments.from_rows(first_student, first_teacher) + Moments.from_rows(second_student, second_teacher)
        distance = ProcrustesLoss().from_moments(whole)
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
    def from_rows(
        cls,
        student: Tensor,
        teacher: Tensor | FeatureRows,
        mask: Tensor | None = None,
        *,
        student_gram: bool = True,
        teacher_gram: bool = True,
    ) -> Moments:
        """The moments of features (…, d_s) and (…, d_t) with a mask (…) of weights, boolean or not negative.

        Rows of weight zero may hold anything. Raises GeodistillError when the leading dimensions differ.
        """
        return cls.of(pair_rows(student, teacher, mask), student_gram=student_gram, teacher_gram=teacher_gram)

    @classmethod
    def of(cls, rows: PairedRows, *, student_gram: bool = True, teacher_gram: bool = True) -> Moments:
        teacher = rows.teacher
        with full_precision(rows.student.device):
            mean, square, cross, gram = _StudentMoments.apply(rows.student, teacher, student_gram)
            return cls(
                *teacher.counts,
                mean,
                teacher.mean,
                square,
                teacher.square,
                cross,
                gram,
                teacher.gram if teacher_gram else None,
            )

    @property
    def product_dtype(self) -> torch.dtype:
        return self.cross.dtype

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = (other.count / or_one(count)).to(self.cross.dtype)
        student_mean = torch.lerp(self.student_mean, other.student_mean, share)
        teacher_mean = torch.lerp(self.teacher_mean, other.teacher_mean, share)
        one, two = self.about(student_mean, teacher_mean), other.about(student_mean, teacher_mean)
        return Moments(
            self.rows + other.rows,
            count,
            student_mean,
            teacher_mean,
            one.student_square + two.student_square,
            one.teacher_square + two.teacher_square,
            one.cross + two.cross,
            _sum(one.student_gram, two.student_gram),
            _sum(one.teacher_gram, two.teacher_gram),
        )

    def about(self, student_point: Tensor, teacher_point: Tensor) -> Moments:
        """The second moments about other points than the means, such as the means of a larger whole.

        Those points become the origin, so the second moments of all parts about the same points simply add up.
        """
        student, teacher = self.student_mean - student_point, self.teacher_mean - teacher_point
        return replace(
            self.centered(),
            student_square=self.student_square + self.count * square_sum(student),
            teacher_square=self.teacher_square + self.count * square_sum(teacher),
            cross=self.cross + _outer(self.count, student, teacher),
            student_gram=None
            if self.student_gram is None
            else self.student_gram + _outer(self.count, student, student),
            teacher_gram=None
            if self.teacher_gram is None
            else self.teacher_gram + _outer(self.count, teacher, teacher),
        )

    def about_origin(self) -> Moments:
        """The raw second moments Σ w s sᵀ, Σ w s tᵀ, Σ w t tᵀ, with the means folded in."""
        return self.about(torch.zeros_like(self.student_mean), torch.zeros_like(self.teacher_mean))

    def centered(self) -> Moments:
        """The moments of the centred rows: the means are zero, the second moments are unchanged."""
        return replace(
            self, student_mean=torch.zeros_like(self.student_mean), teacher_mean=torch.zeros_like(self.teacher_mean)
        )

    def normalized(self) -> Moments:
        """The moments of S / ‖S‖_F and T / ‖T‖_F: both squares are one. A cloud of a single point stays unchanged."""
        student = or_one(self.student_square).sqrt().to(self.product_dtype)
        teacher = or_one(self.teacher_square).sqrt().to(self.product_dtype)
        return replace(
            self,
            student_mean=self.student_mean / student,
            teacher_mean=self.teacher_mean / teacher,
            student_square=self.student_square / or_one(self.student_square),
            teacher_square=self.teacher_square / or_one(self.teacher_square),
            cross=self.cross / student / teacher,
            student_gram=None if self.student_gram is None else self.student_gram / student / student,
            teacher_gram=None if self.teacher_gram is None else self.teacher_gram / teacher / teacher,
        )

    def gram_squares(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖SᵀS‖_F², ‖TᵀT‖_F² and ‖SᵀT‖_F², float64 scalars."""
        assert self.student_gram is not None and self.teacher_gram is not None, "these moments were made without Grams"
        return frobenius_square(self.student_gram), frobenius_square(self.teacher_gram), frobenius_square(self.cross)


@dataclass(frozen=True)
class Kernels:
    """The sample side: K_S = SSᵀ and K_T = TTᵀ, (n, n), of rows scaled by the roots of their weights.

    ‖SᵀS‖_F = ‖K_S‖_F and ‖SᵀT‖_F² = ⟨K_S, K_T⟩. Kernels of batches do not add up. Make them by `Kernels.of(rows)`.

    Args:
        rows: how many rows have a non-zero weight. A scalar, float64, as are the next three.
        count: the sum of the weights.
        student_square: ‖S‖_F².
        teacher_square: ‖T‖_F².
        student_kernel: K_S.
        teacher_kernel: K_T.

    Example:
        loss.from_moments(Kernels.of(pair_rows(student_hidden, teacher_hidden)))
    """

    rows: Tensor
    count: Tensor
    student_square: Tensor
    teacher_square: Tensor
    student_kernel: Tensor
    teacher_kernel: Tensor

    @classmethod
    def of(cls, rows: PairedRows, *, center: bool = True) -> Kernels:
        """The kernels of centred or of unchanged rows."""
        with full_precision(rows.student.device):
            student = _StudentKernel.apply(rows.student, rows.teacher, center)
            teacher = rows.teacher.kernel(center)
        wide = rows.teacher.counts[1].dtype
        student_square, teacher_square = student.diagonal().sum(dtype=wide), teacher.diagonal().sum(dtype=wide)
        return cls(*rows.teacher.counts, student_square, teacher_square, student, teacher)

    @property
    def product_dtype(self) -> torch.dtype:
        return self.student_kernel.dtype

    def gram_squares(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖SᵀS‖_F², ‖TᵀT‖_F² and ‖SᵀT‖_F², float64 scalars."""
        student, teacher = self.student_kernel, self.teacher_kernel
        return frobenius_square(student), frobenius_square(teacher), frobenius_inner(student, teacher)


class _StudentMoments(torch.autograd.Function):
    """Student rows to mean, square, SᵀT and SᵀS, and back: ∂L/∂S = S_c (G + Gᵀ) + T_c Hᵀ, with G and H the gradients of
    SᵀS and SᵀT. The mean inside them may be held fixed: its gradient vanishes, since centred rows sum to zero.

    The rows are kept for the backward pass as they came, and centred again, block by block.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, teacher: FeatureRows, with_gram: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        student = teacher.beside(values.detach())
        cross = values.new_zeros(student.width, teacher.width, dtype=student.dtype)
        own = values.new_zeros(student.width, student.width, dtype=student.dtype) if with_gram else None
        square = torch.zeros_like(student.counts[1])
        for part in student.parts(teacher.width):
            block = student.block(part)
            square += square_sum(block)
            cross.addmm_(block.mT, teacher.block(part))
            if own is not None:
                add_lower_gram(own, block)
        ctx.save_for_backward(values)
        ctx.student, ctx.teacher = student, teacher
        ctx.set_materialize_grads(False)
        return student.mean.clone(), square, cross, None if own is None else mirror(own)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        mean_gradient: Tensor | None,
        square_gradient: Tensor | None,
        cross_gradient: Tensor | None,
        gram_gradient: Tensor | None,
    ) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        student, teacher = ctx.student, ctx.teacher
        factor = None if gram_gradient is None else gram_gradient + gram_gradient.mT
        result = torch.empty_like(values)
        with full_precision(values.device):
            for part in student.parts(teacher.width):
                block = student.block(part)
                gradient = block * (0 if square_gradient is None else (2 * square_gradient).to(student.dtype))
                if factor is not None:
                    gradient.addmm_(block, factor)
                if cross_gradient is not None:
                    gradient.addmm_(teacher.block(part), cross_gradient.mT)
                gradient = weigh(gradient, part_of(student.root_weights, part))
                if mean_gradient is not None:
                    share = (mean_gradient / student.divisor).expand_as(gradient)
                    gradient += weigh(share, part_of(student.weights, part))
                result[part] = gradient
        return result, None, None


class _StudentKernel(torch.autograd.Function):
    """Student rows to K_S, and back: ∂L/∂S = (G + Gᵀ) S_c, centred again, with G the gradient of K_S."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, teacher: FeatureRows, center: bool) -> Tensor:
        student = teacher.beside(values.detach())
        ctx.save_for_backward(values)
        ctx.student, ctx.center = student, center
        return gram(student.block(slice(None), center).mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, kernel_gradient: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        student = ctx.student
        block = student.block(slice(None), ctx.center)
        with full_precision(values.device):
            gradient = weigh((kernel_gradient + kernel_gradient.mT) @ block, student.root_weights)
        if ctx.center:
            shift = (gradient.sum(0) / student.divisor).expand_as(gradient)
            gradient = gradient - weigh(shift, student.weights)
        return gradient.to(values.dtype), None, None


def _outer(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return weight.to(a.dtype) * torch.outer(a, b)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b
