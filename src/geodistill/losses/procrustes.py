"""The Procrustes distance as a loss."""

from __future__ import annotations

from torch import Tensor

from geodistill.geometry.distances import procrustes_square
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.rows import PairedRows
from geodistill.losses.base import FeatureLoss


class ProcrustesLoss(FeatureLoss):
    grams = False

    def local(self, rows: PairedRows) -> Moments:
        return Moments.of(rows, grams=False)

    def square(self, moments: Moments | Kernels) -> Tensor:
        assert isinstance(moments, Moments)
        return procrustes_square(moments, self.center, self.normalize)
