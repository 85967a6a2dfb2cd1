"""The distance of feature Gram matrices as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import gram_square
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class GramLoss(FeatureLoss):
    """D_FG² = ‖SSᵀ − TTᵀ‖_F² = ‖SᵀS‖_F² + ‖TᵀT‖_F² − 2‖SᵀT‖_F²: by how much the inner products between rows differ.

    It is zero exactly when the Procrustes distance is. The gradient is 4(S·SᵀS − T·TᵀS).

    Args: see `FeatureLoss`.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…). Returns a scalar, between 0 and 2 by default.

    Reference: arXiv 2509.25253.

    Example:
        loss = GramLoss()(student_hidden, teacher_hidden, mask=attention_mask)
    """

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        return gram_square(moments, self.center, self.normalize)
