"""Linear centred kernel alignment as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from geodistill.geometry.distances import or_zero, similarity
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class CKALoss(FeatureLoss):
    """1 − CKA = 1 − ‖SᵀT‖_F² / (‖SᵀS‖_F ‖TᵀT‖_F): it does not depend on scale.

    It is half the squared distance of the two kernels, each scaled to unit Frobenius norm.

    Args:
        center: subtract the mean row of each side, as CKA is defined.
        normalize: "rows" scales each row to unit length, before centring. True and False are the same here, because CKA
            does not depend on the scale of a whole cloud.
        squared: 1 − CKA, which is smooth at zero. False: √(1 − CKA).
        global_batch: with several ranks, the loss of the whole batch over all of them.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…), the rows that count. d_s and d_t may differ.

    Returns:
        A scalar between 0 and 1. `FeatureLoss` says what dtype it has, and what it is if no rows count.

    Raises:
        GeodistillError: shapes do not fit, or a weight of the mask is negative on the CPU.

    Reference: Kornblith et al. (2019), Similarity of neural network representations revisited.

    Example:
        loss = CKALoss()(student_hidden, teacher_hidden, mask=attention_mask)
    """

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        value = similarity(moments, self.center)
        return or_zero((1 - value).clamp(min=0), moments), torch.ones_like(value)
