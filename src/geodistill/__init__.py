"""geodistill: distil a large transformer into a small one that keeps the shape of the teacher's feature space.

from geodistill import ProcrustesLoss

loss = cross_entropy + 0.5 * ProcrustesLoss()(student_hidden, teacher_hidden, mask=attention_mask)
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geodistill.api import compare, train
    from geodistill.distillation.config import DistillationConfig
    from geodistill.distillation.layer_choice import choose_layers
    from geodistill.distillation.layer_geometry import LayerGeometry
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
    from geodistill.studies.inspect.inspect_layers import inspect
    from geodistill.studies.report.join import report
    from geodistill.studies.theory.check import theory
    from geodistill.tasks.loading import load_student

# Where each public name lives. They are imported when first asked for, so that `geodistill --help` does not wait for
# torch, and a program that wants a loss alone does not wait for transformers.
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
    "inspect": "studies.inspect.inspect_layers",
    "report": "studies.report.join",
    "LayerGeometry": "distillation.layer_geometry",
    "choose_layers": "distillation.layer_choice",
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
    "LayerGeometry",
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
    "choose_layers",
    "cka",
    "compare",
    "effective_rank",
    "floor",
    "gram_distance",
    "inspect",
    "load_student",
    "procrustes_distance",
    "report",
    "theory",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'geodistill' has no attribute '{name}'")
    return getattr(import_module(f"geodistill.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


_AUTO_CLASSES = "transformers.models.auto.modeling_auto"


class _Registration:
    """Makes transformers know the models of this package as soon as it has its auto classes, and not before: to import
    this package must not import torch.

    `AutoModel.from_pretrained` asks a table for the class that config.json names. So a program that imported this
    package can load a saved student, in whatever order the imports were.
    """

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _AUTO_CLASSES:
            return None
        sys.meta_path.remove(cls)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: Any) -> None:
                load(module)
                import_module("geodistill.models")

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if _AUTO_CLASSES in sys.modules:
    import_module("geodistill.models")
else:
    sys.meta_path.insert(0, _Registration)
