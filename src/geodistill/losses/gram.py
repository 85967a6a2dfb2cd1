"""The distance of feature Gram matrices as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import gram_square
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class GramLoss(FeatureLoss):
    """D_FG² = ‖SSᵀ − TTᵀ‖_F² = ‖SᵀS‖_F² + ‖TᵀT‖_F² − 2‖SᵀT‖_F²: by how much the inner products between rows differ.

    It is zero exactly when the Procrustes distance is. The gradient is 4(S·SᵀS − T·TᵀS).

    Args:
        center: subtract the mean row of each side.
        normalize: True divides each side by its Frobenius norm, after centring. "rows" scales each row to unit length,
            before centring, and divides the whole by the root of the number of rows. False leaves the scale alone.
        squared: D_FG², which is smooth at zero. False: D_FG.
        global_batch: with several ranks, the loss of the whole batch over all of them.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…), the rows that count. d_s and d_t may differ.

    Returns:
        A scalar, between 0 and 2 by default. `FeatureLoss` says what dtype it has, and what it is if no rows count.

    Raises:
        GeodistillError: shapes do not fit, or a weight of the mask is negative on the CPU.

    Reference: arXiv 2509.25253.

    Example:
        loss = GramLoss()(student_hidden, teacher_hidden, mask=attention_mask)
    """

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        return gram_square(moments, self.center, self.normalize)
