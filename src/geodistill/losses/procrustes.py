"""The Procrustes distance as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import procrustes_moments, procrustes_square
from geodistill.geometry.features import PairedRows
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class ProcrustesLoss(FeatureLoss):
    """D_P² = min_Q ‖T − SQ‖_F² = ‖S‖_F² + ‖T‖_F² − 2‖SᵀT‖∗ over orthogonal Q, the narrower side padded with zeros.

    What remains of the difference between two clouds after the best rotation. The gradient is 2(S − TWᵀ), with W the
    polar factor of SᵀT; the rotation may be held fixed.

    Args:
        center: subtract the mean row of each side.
        normalize: True divides each side by its Frobenius norm, after centring. "rows" scales each row to unit length,
            before centring, and divides the whole by the root of the number of rows. False leaves the scale alone.
        squared: D_P², which is smooth at zero. False: D_P.
        global_batch: with several ranks, the loss of the whole batch over all of them.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…), the rows that count. d_s and d_t may differ.

    Returns:
        A scalar, between 0 and 2 by default. `FeatureLoss` says what dtype it has, and what it is if no rows count.

    Raises:
        GeodistillError: shapes do not fit, or a weight of the mask is negative on the CPU.

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
