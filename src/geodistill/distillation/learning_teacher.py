"""A teacher that learns beside its student: two objectives in one step, with the roles swapped.

Each loss cuts its second argument from the graph, so the sum of both objectives gives either model the gradient of its
own objective alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.signals import FeatureRequest, Teacher, TeacherSignals
from geodistill.errors import GeodistillError

TEACHER_TERM = "teacher/"
"""What the names of the terms begin with that train the teacher."""
TRAINED_DTYPES = (torch.float32, torch.float64)


class LearningTeacher:
    """The source of signals if the teacher is trained: it says nothing, since the teacher runs within the module
    that is trained, once a step for both objectives."""

    widths: Mapping[FeatureRequest, int] = {}

    def __init__(self, model: PreTrainedModel, requests: Sequence[FeatureRequest], vocabulary: int | None) -> None:
        self.model: Any = model
        self.requests = list(requests)
        self.vocabulary = vocabulary

    def to(self, device: torch.device) -> LearningTeacher:
        return self  # it moves with the student

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        return TeacherSignals(logits=None)


def check_learns(given: Any) -> None:
    """Refuse what a trainer is given as its teacher if that cannot be trained beside the student.

    Raises GeodistillError for signals from a cache and no teacher, for what is no transformers model, and for weights
    below float32, which lose small updates.
    """
    teacher = given.model if isinstance(given, Teacher) else given
    if not isinstance(teacher, nn.Module):
        said = "there is none" if given is None else f"its signals come from a {type(given).__name__}"
        raise GeodistillError(
            f"teacher_terms train the teacher, and {said}.",
            "Give the model as teacher_model; a cache serves a teacher whose weights stay unchanged.",
        )
    if not isinstance(teacher, PreTrainedModel):
        raise GeodistillError(
            f"teacher_terms train the teacher, and a {type(teacher).__name__} is no transformers model.",
            "Give a transformers model; merge adapters into it first.",
        )
    held = {parameter.dtype for parameter in teacher.parameters()} - set(TRAINED_DTYPES)
    if held:
        said = str(min(held, key=str)).removeprefix("torch.")
        raise GeodistillError(
            f"teacher_terms train the teacher, and it has weights in {said}, which lose small updates.",
            "Load the teacher in float32.",
        )


@contextmanager
def roles_swapped() -> Iterator[None]:
    """Within it an error says that the teacher is the one that learns."""
    try:
        yield
    except GeodistillError as error:
        problem = f"In the objective of the teacher, which takes the role of the student: {error.problem}"
        raise GeodistillError(problem, error.remedy) from error
