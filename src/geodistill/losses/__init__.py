"""Losses that pull a student's features into the shape of its teacher's: one module each."""

from geodistill.losses.accumulation import AccumulatedLoss
from geodistill.losses.base import FeatureLoss
from geodistill.losses.cka import CKALoss
from geodistill.losses.gram import GramLoss
from geodistill.losses.pcka import PCKALoss
from geodistill.losses.procrustes import ProcrustesLoss
from geodistill.losses.projection import ProjectionLoss
from geodistill.losses.rcka import RCKALoss

__all__ = [
    "AccumulatedLoss",
    "CKALoss",
    "FeatureLoss",
    "GramLoss",
    "PCKALoss",
    "ProcrustesLoss",
    "ProjectionLoss",
    "RCKALoss",
]
