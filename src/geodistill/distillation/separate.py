"""That a student, its teacher and what the objective learns are apart from each other."""

from __future__ import annotations

from torch import nn

from geodistill.errors import GeodistillError


def check_separate(student: nn.Module, teacher: nn.Module, objective: nn.Module | None = None) -> None:
    """Refuse a student or an objective that holds parameters of the teacher, and an objective that holds the student's.

    A teacher is frozen, and would else move with its student: as the same object, a shallow copy, an adapter over the
    teacher itself, or a module that is in both. Views of the same memory count as well.
    """
    pairs = [("student", student, "teacher", teacher)]
    if objective is not None:
        pairs += [("objective", objective, "teacher", teacher), ("objective", objective, "student", student)]
    for one, first, other, second in pairs:
        theirs = _memory(second)
        for name, parameter in first.named_parameters():
            if _places(parameter) & theirs:
                raise GeodistillError(
                    f"The {one} shares the parameter '{name}' with the {other}.",
                    f"Give the {one} weights of its own: copy.deepcopy(model), or load the model twice.",
                )


def _memory(module: nn.Module) -> set[tuple[str, int]]:
    return {place for parameter in module.parameters() for place in _places(parameter)}


def _places(parameter: nn.Parameter) -> set[tuple[str, int]]:
    places = {("object", id(parameter))}
    if parameter.numel() and parameter.device.type != "meta":  # what is sharded or not yet there has no memory
        places.add((str(parameter.device), parameter.untyped_storage().data_ptr()))
    return places
