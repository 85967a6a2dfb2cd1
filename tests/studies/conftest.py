from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from geodistill.runs.run_results import TeacherResult
from geodistill.studies.table import ComparedRun

MakeRun = Callable[..., ComparedRun]


def layer_pair(student: Any, teacher: Any, distance: float) -> dict[str, Any]:
    return {
        "student_layer": student,
        "teacher_layer": teacher,
        "rows": "tokens",
        "procrustes": {"value": distance, "floor": 0.2, "chance": 1.7},
        "gram": {"value": distance / 4, "floor": 0.02, "chance": 0.34},
        "cka": {"value": 1 - distance / 2, "floor": 0.98, "chance": 0.08},
    }


@pytest.fixture
def make_run() -> MakeRun:
    def make(variant: str, seed: int, accuracy: float, distance: float = 0.9, **changes: Any) -> ComparedRun:
        values: dict[str, Any] = {
            "variant": variant,
            "seed": seed,
            "sweep": {},
            "metrics": {"accuracy": accuracy, "macro_f1": accuracy - 0.1},
            "geometry": [layer_pair(1, 3, 1.6), layer_pair(2, 6, distance)],
            "training_seconds": 70.0 + seed,
            "parameters": 4_386_178,
            "megabytes": 17.6,
            "latency_ms": 1.0 + seed / 10,
            "skipped_steps": 0,
        }
        return ComparedRun(**{**values, **changes})

    return make


@pytest.fixture
def teacher() -> TeacherResult:
    return TeacherResult({"accuracy": 0.955, "macro_f1": 0.94}, 22_713_216, 90.9, 6.4)


@pytest.fixture
def runs(make_run: MakeRun) -> list[ComparedRun]:
    """Three variants × three seeds: KD + Procrustes clearly over KD, labels only unclearly under it."""
    scores = {
        "labels only": (0.870, 0.895, 0.860),
        "KD": (0.880, 0.890, 0.870),
        "KD + Procrustes": (0.901, 0.910, 0.8905),
    }
    distances = {"labels only": 1.4, "KD": 1.2, "KD + Procrustes": 0.5}
    return [
        make_run(name, seed, accuracy, distances[name])
        for name, values in scores.items()
        for seed, accuracy in enumerate(values, start=1)
    ]
