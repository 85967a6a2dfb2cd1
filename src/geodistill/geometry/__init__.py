"""Pure tensor mathematics on paired features; imports torch only."""

from geodistill.geometry.distances import cka, gram_distance, procrustes_distance
from geodistill.geometry.features import FeatureRows, prepare_features
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.nuclear import nuclear_norm
from geodistill.geometry.reference import (
    Geometry,
    chance_level,
    effective_rank,
    floor,
    measure,
    participation_ratio,
    variance_spectrum,
)

__all__ = [
    "FeatureRows",
    "Geometry",
    "Kernels",
    "Moments",
    "chance_level",
    "cka",
    "effective_rank",
    "floor",
    "gram_distance",
    "measure",
    "nuclear_norm",
    "participation_ratio",
    "prepare_features",
    "procrustes_distance",
    "variance_spectrum",
]
