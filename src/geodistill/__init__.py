"""geodistill: distil a large transformer into a small one that keeps the shape of the teacher's feature space.

from geodistill import ProcrustesLoss

loss = cross_entropy + 0.5 * ProcrustesLoss()(student_hidden, teacher_hidden, mask=attention_mask)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geodistill.api import compare, train
    from geodistill.distillation.config import DistillationConfig
    from geodistill.distillation.objective import Objective
    from geodistill.distillation.signals import Teacher
    from geodistill.distillation.trainer import DistillationTrainer
    from geodistill.errors import GeodistillError
    from geodistill.geometry import (
        Moments,
        chance_level,
        cka,
        effective_rank,
        floor,
        gram_distance,
        procrustes_distance,
    )
    from geodistill.losses import (
        CKALoss,
        CosineLoss,
        GramLoss,
        MSELoss,
        PCKALoss,
        ProcrustesLoss,
        ProjectionLoss,
        RCKALoss,
    )
    from geodistill.losses.logits import LogitLoss
    from geodistill.losses.top_k import TopKLogits
    from geodistill.recipe import FeatureTerm, LabelTerm, LogitTerm
    from geodistill.studies.theory.check import theory
    from geodistill.tasks.loading import load_student

# Where each public name lives. They are imported when first asked for, so that `geodistill --help` does not wait for
# torch, and whoever wants a loss alone does not wait for transformers.
_HOMES = {
    "procrustes_distance": "geometry",
    "gram_distance": "geometry",
    "cka": "geometry",
    "Moments": "geometry",
    "chance_level": "geometry",
    "floor": "geometry",
    "effective_rank": "geometry",
    "ProcrustesLoss": "losses",
    "GramLoss": "losses",
    "CKALoss": "losses",
    "ProjectionLoss": "losses",
    "CosineLoss": "losses",
    "MSELoss": "losses",
    "RCKALoss": "losses",
    "PCKALoss": "losses",
    "LogitLoss": "losses.logits",
    "TopKLogits": "losses.top_k",
    "Objective": "distillation.objective",
    "Teacher": "distillation.signals",
    "DistillationConfig": "distillation.config",
    "DistillationTrainer": "distillation.trainer",
    "FeatureTerm": "recipe",
    "LabelTerm": "recipe",
    "LogitTerm": "recipe",
    "GeodistillError": "errors",
    "train": "api",
    "compare": "api",
    "load_student": "tasks.loading",
    "theory": "studies.theory.check",
}

__all__ = [
    "CKALoss",
    "CosineLoss",
    "DistillationConfig",
    "DistillationTrainer",
    "FeatureTerm",
    "GeodistillError",
    "GramLoss",
    "LabelTerm",
    "LogitLoss",
    "LogitTerm",
    "MSELoss",
    "Moments",
    "Objective",
    "PCKALoss",
    "ProcrustesLoss",
    "ProjectionLoss",
    "RCKALoss",
    "Teacher",
    "TopKLogits",
    "chance_level",
    "cka",
    "compare",
    "effective_rank",
    "floor",
    "gram_distance",
    "load_student",
    "procrustes_distance",
    "theory",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'geodistill' has no attribute '{name}'")
    return getattr(import_module(f"geodistill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
