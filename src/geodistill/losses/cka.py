"""Linear centred kernel alignment as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import or_zero, similarity
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class CKALoss(FeatureLoss):
    def square(self, moments: Moments | Kernels) -> Tensor:
        return or_zero((1 - similarity(moments, self.center)).clamp(min=0), moments)
