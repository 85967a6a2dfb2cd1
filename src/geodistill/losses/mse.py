"""The mean squared error between each student row and its teacher row."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import or_zero
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.numerics import or_one
from geodistill.losses.base import RowLoss


class MSELoss(RowLoss):
    """‖S − T‖_F² / (n d_t): the student has to give the teacher's rows themselves, in the teacher's coordinates.

    By this objective a sentence encoder teaches a student another language.

    Args:
        student_width: d_s.
        teacher_width: d_t. If both widths are given and differ, a learned matrix without bias brings student rows to
            d_t numbers. It is a parameter of the loss, not of the student. Otherwise nothing is learned.
        global_batch: with several ranks, the loss of the whole batch over all of them. By keyword.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…), the rows that count.

    Returns:
        A scalar ≥ 0. `FeatureLoss` says what dtype it has, and what it is if no rows count.

    Raises:
        GeodistillError: the widths differ and nothing is learned, or shapes do not fit.

    Reference: Reimers & Gurevych (2020), Making monolingual sentence embeddings multilingual using knowledge
    distillation, equation 1.

    Example:
        loss = MSELoss()(student_embeddings, teacher_embeddings)
    """

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        assert isinstance(moments, Moments)
        raw = moments.about_origin()
        whole = raw.student_square + raw.teacher_square
        square = (whole - 2 * raw.cross.diagonal().sum(dtype=whole.dtype)).clamp(min=0)
        numbers = or_one(raw.count) * raw.cross.shape[1]
        return or_zero(square / numbers, moments), whole / numbers
