"""The mean squared error between each student row and its teacher row."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import or_one, or_zero
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import RowLoss


class MSELoss(RowLoss):
    """‖S − T‖_F² / (n d_t): the student has to give the teacher's rows themselves, in the teacher's coordinates.

    It is the objective by which a student of another language is made from a sentence encoder.

    Args: see `RowLoss`.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…). Returns a scalar.

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
