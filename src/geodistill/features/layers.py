"""Which student layer is compared with which teacher layer.

A layer is an index into a model's `hidden_states`: 0 is the embedding layer, 1 to L are the blocks, and negative
indices count from the end, so that -1 is the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from geodistill.errors import GeodistillError, suggest

AUTO = "auto"
"""The name of the layer map that is chosen from the features of both models, before the training."""
LayerSpec = Literal["last", "uniform", "skip"] | Sequence[tuple[int, int]]


def map_layers(spec: LayerSpec | str, student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Return (student layer, teacher layer) pairs, all non-negative, for models of L_s and L_t blocks.

    - `"last"`: the last layers, L_s ↔ L_t.
    - `"uniform"`: m ↔ m · L_t / L_s for m = 1 … L_s (TinyBERT, Jiao et al. 2020, section 3.1). If L_t / L_s is no
      whole number the teacher layer is rounded to the nearest, halves upwards, and is never below 1, so no block is
      ever paired with the embedding layer; a student deeper than its teacher meets some teacher layers twice.
    - `"skip"`: `"uniform"` without the last pair (PKD-skip, Sun et al. 2019), so a student needs two blocks or more.
    - a list of pairs: as given, negative indices resolved.

    Args:
        spec: one of the three names, or a list of [student, teacher] pairs.
        student_layers: L_s.
        teacher_layers: L_t.

    Returns:
        The pairs, in order.

    Raises:
        GeodistillError: an unknown name, `"auto"`, which needs features and not numbers alone, an empty list, a layer
            out of range, or `"skip"` with one block.

    Example:
        map_layers("uniform", 2, 6)  # [(1, 3), (2, 6)]
    """
    if not isinstance(spec, str):
        if not spec:
            raise GeodistillError("The list of layer pairs is empty.", "Give at least one [student, teacher] pair.")
        return [_resolve_pair(student, teacher, student_layers, teacher_layers) for student, teacher in spec]
    if spec == "last":
        return [(student_layers, teacher_layers)]
    uniform = [
        (m, max(1, (2 * m * teacher_layers + student_layers) // (2 * student_layers)))
        for m in range(1, student_layers + 1)
    ]
    if spec == "uniform":
        return uniform
    if spec == "skip":
        if student_layers < 2:
            raise GeodistillError(
                "The layer map 'skip' leaves out the last layer, and a student of one layer has no other.",
                "Use 'last', or a student of two layers or more.",
            )
        return uniform[:-1]
    if spec == AUTO:
        raise GeodistillError(
            "The layer map 'auto' is chosen from the features of both models, and it was not chosen yet.",
            "Replace the terms by those of geodistill.choose_layers(terms, student, teacher, batches); "
            "geodistill.train and geodistill.compare do that for a recipe.",
        )
    raise GeodistillError(f"Unknown layer map '{spec}'.", suggest(spec, ["last", "uniform", "skip", AUTO]))


def resolve_layer(layer: int, layers: int) -> int | None:
    """Return a layer as a non-negative index into the hidden states of a model.

    Args:
        layer: 0 is the embedding layer, −1 the last.
        layers: the number of blocks; there is one hidden state more.

    Returns:
        The index, or None if it is out of range.

    Example:
        resolve_layer(-1, 6)  # 6
    """
    resolved = layer + layers + 1 if layer < 0 else layer
    return resolved if 0 <= resolved <= layers else None


def describe_range(layers: int) -> str:
    """Say which layer indices a model of so many blocks has."""
    return f"0 to {layers}, or {-layers - 1} to -1"


def _resolve_pair(student: int, teacher: int, student_layers: int, teacher_layers: int) -> tuple[int, int]:
    student_layer = resolve_layer(student, student_layers)
    teacher_layer = resolve_layer(teacher, teacher_layers)
    if student_layer is None or teacher_layer is None:
        wrong, whose = (student, "student") if student_layer is None else (teacher, "teacher")
        raise GeodistillError(
            f"Layer {wrong} of the {whose} in the pair [{student}, {teacher}] is out of range.",
            f"0 is the embedding layer and -1 the last: the student has {describe_range(student_layers)}; "
            f"the teacher has {describe_range(teacher_layers)}.",
        )
    return student_layer, teacher_layer
