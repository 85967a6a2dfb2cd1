"""A learned linear map from student to teacher, and the squared error that it leaves."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from geodistill.geometry.distances import Normalize, or_zero
from geodistill.geometry.features import PairedRows
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.numerics import frobenius_inner, or_one, projected_square, square_sum
from geodistill.losses.base import FeatureLoss


class ProjectionLoss(FeatureLoss):
    """Squared error between the teacher's rows T and the student's rows mapped by a learned matrix, SW + b.

    - `normalize=True`: ‖SW/‖SW‖_F − T/‖T‖_F‖_F² of the centred rows, between 0 and 4, comparable with the other losses.
    - `normalize=False`: the mean squared error ‖SW + b − T‖_F² / (n d_t).
    - `normalize="rows"`: ‖SW + b − T‖_F² / n of rows of S and T scaled to unit length.

    There is a bias b only without centring, which would cancel it. Zero loss does not mean that the student has the
    teacher's geometry, since W may stretch it. `orthogonal=True` forbids that: W is then the orthonormal factor of the
    QR decomposition of the learned matrix (WWᵀ = I when d_s ≤ d_t, WᵀW = I otherwise).

    Args:
        student_width: d_s, by position.
        teacher_width: d_t, by position.
        orthogonal: keep the map orthogonal.
        center: subtract the mean row of each side. False: the map has a bias.
        normalize: what the squared error is divided by, as above.
        squared: the squared error, which is smooth at zero. False: its root.
        global_batch: with several ranks, the loss of the whole batch over all of them.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…), the rows that count. The matrix is a parameter of the loss,
    not of the student: optimise `loss.parameters()` too.

    Returns:
        A scalar ≥ 0. `FeatureLoss` says what dtype it has, and what it is if no rows count.

    Raises:
        GeodistillError: shapes do not fit, or a weight of the mask is negative on the CPU.

    Reference: Romero et al. (2015), FitNets: Hints for thin deep nets, equation 3.

    Example:
        loss = ProjectionLoss(128, 384)(student_hidden, teacher_hidden, mask=attention_mask)
    """

    teacher_gram = False

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        orthogonal: bool = False,
        center: bool = True,
        normalize: Normalize = True,
        squared: bool = True,
        global_batch: bool = False,
    ) -> None:
        super().__init__(center=center, normalize=normalize, squared=squared, global_batch=global_batch)
        self.orthogonal = orthogonal
        self.weight = nn.Parameter(torch.empty(student_width, teacher_width))
        self.bias = None if center else nn.Parameter(torch.zeros(teacher_width))
        nn.init.normal_(self.weight, std=1 / math.sqrt(student_width))

    def cheaper_moments(self, rows: PairedRows) -> Moments:
        return self.local_moments(rows)

    def projection(self) -> Tensor:
        """The map W, (d_s, d_t), in float32 at least."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        return orthonormal(weight) if self.orthogonal else weight

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        assert isinstance(moments, Moments) and moments.student_gram is not None
        weight = self.projection().to(moments.cross.dtype)
        mapped = projected_square(moments.student_gram, weight)  # ‖SW‖²
        shared = frobenius_inner(moments.cross, weight)  # ⟨SW, T⟩
        teacher = moments.teacher_square
        if self.bias is not None:
            mean = (moments.student_mean.unsqueeze(1) * weight).sum(0) + self.bias.to(weight.dtype)
            mapped = mapped + moments.count * square_sum(mean)
            shared = shared + moments.count * (mean * moments.teacher_mean).sum()
            teacher = teacher + moments.count * square_sum(moments.teacher_mean)
        if self.normalize is True:
            student_scale, teacher_scale = or_one(mapped), or_one(teacher)
        else:
            student_scale = or_one(moments.count * (1 if self.normalize == "rows" else weight.shape[1]))
            teacher_scale = student_scale
        whole = mapped / student_scale + teacher / teacher_scale
        shared = shared / (student_scale.sqrt() * teacher_scale.sqrt())
        return or_zero((whole - 2 * shared).clamp(min=0), moments), whole

    def extra_repr(self) -> str:
        student_width, teacher_width = self.weight.shape
        return f"{student_width}, {teacher_width}, orthogonal={self.orthogonal}, {super().extra_repr()}"


def orthonormal(matrix: Tensor) -> Tensor:
    """The orthonormal factor Q of the QR decomposition of a matrix or, if it is wide, of its transpose; differentiable.

    With R's diagonal made positive, Q depends smoothly on a matrix of full rank.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return orthonormal(matrix.mT).mT
    q, r = torch.linalg.qr(matrix)
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
