"""The Procrustes distance as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import procrustes_moments, procrustes_square
from geodistill.geometry.features import PairedRows
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class ProcrustesLoss(FeatureLoss):
    """D_P² = min_Q ‖T − SQ‖_F² = ‖S‖_F² + ‖T‖_F² − 2‖SᵀT‖∗ over orthogonal Q, the narrower side padded with zeros.

    What stays of the difference between two clouds after the best rotation. The gradient is 2(S − TWᵀ), with W the
    polar factor of SᵀT; the rotation may be held fixed.

    Args: see `FeatureLoss`.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…). Returns a scalar, between 0 and 2 by default.

    Reference: arXiv 2509.25253; Schönemann (1966), A generalized solution of the orthogonal Procrustes problem.

    Example:
        loss = ProcrustesLoss()(student_hidden, teacher_hidden, mask=attention_mask)
    """

    student_gram = teacher_gram = False

    def cheaper_moments(self, rows: PairedRows) -> Moments:
        return procrustes_moments(rows, self.center)

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        assert isinstance(moments, Moments)
        return procrustes_square(moments, self.center, self.normalize)
