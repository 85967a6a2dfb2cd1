"""Linear centred kernel alignment as a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from geodistill.geometry.distances import or_zero, similarity
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class CKALoss(FeatureLoss):
    """1 − CKA = 1 − ‖SᵀT‖_F² / (‖SᵀS‖_F ‖TᵀT‖_F): it does not depend on scale.

    Half the squared distance of the two kernels once each has unit Frobenius norm.

    Args: see `FeatureLoss`. `squared=False` gives √(1 − CKA); `normalize` only tells "rows" from the rest.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…). Returns a scalar between 0 and 1.

    Reference: Kornblith et al. (2019), Similarity of neural network representations revisited.

    Example:
        loss = CKALoss()(student_hidden, teacher_hidden, mask=attention_mask)
    """

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        value = similarity(moments, self.center)
        return or_zero((1 - value).clamp(min=0), moments), torch.ones_like(value)
