"""The distance of feature Gram matrices as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import gram_square
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import FeatureLoss


class GramLoss(FeatureLoss):
    def square(self, moments: Moments | Kernels) -> Tensor:
        return gram_square(moments, self.center, self.normalize)
