"""How close a student's feature space is to its teacher's, on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from geodistill.distillation.signals import FeatureRequest, SignalSource, model_inputs
from geodistill.features import (
    Capture,
    counted_rows,
    match_rows,
    only_scored,
    scored_tokens,
    select_rows,
)
from geodistill.geometry import chance_level, cka, floor, gram_distance, procrustes_distance
from geodistill.tasks.task import Collator

BATCH_SIZE = 16


@torch.no_grad()
def measure_geometry(
    student: PreTrainedModel,
    teacher: SignalSource,
    pairs: Sequence[tuple[int, int]],
    examples: list[Any],
    collate: Collator,
    *,
    rows: str = "tokens",
) -> list[dict[str, Any]]:
    """Return D_P², D_FG² and CKA of pairs of layers, each beside its floor and its chance level.

    All rows of this kind of the examples, centred, of unit Frobenius norm, in float32.
    Floor: the best that a student of this width can reach on these rows (for CKA the highest); chance is what unpaired
    rows give.

    Args:
        student: runs where it is.
        teacher: a `Teacher` in float32 on the same device, or a cache of what it said of the examples.
        pairs: the layers that are compared, student first.
        examples, collate: what both sides read.
        rows: a key of `KINDS`.
    """
    if not pairs:
        return []
    student.eval()
    capture = Capture(student, [s for s, _ in pairs])
    student_rows: list[list[Tensor]] = [[] for _ in pairs]
    teacher_rows: list[list[Tensor]] = [[] for _ in pairs]
    for start in range(0, len(examples), BATCH_SIZE):
        batch = collate(examples[start : start + BATCH_SIZE])
        inputs = {name: value.to(student.device) for name, value in batch.items()}
        signals = teacher(inputs)
        with only_scored(student, scored_tokens(student, inputs, wanted=False)):
            _, hidden = capture(**model_inputs(student, inputs))
        for place, (s, t) in enumerate(pairs):
            pair = match_rows(select_rows(hidden[s], inputs, kind=rows), signals.features[FeatureRequest(t, rows)])
            for side, kept in zip((student_rows, teacher_rows), counted_rows(*pair), strict=True):
                side[place].append(kept.cpu())
    # The rows of all layers together may be too many for an accelerator, so there is one pair of layers at a time.
    compared = [
        compare_rows(torch.cat(s_rows).to(student.device), torch.cat(t_rows).to(student.device))
        for s_rows, t_rows in zip(student_rows, teacher_rows, strict=True)
    ]
    return [
        {"student_layer": s, "teacher_layer": t, "rows": rows, **values}
        for (s, t), values in zip(pairs, compared, strict=True)
    ]


def compare_rows(student: Tensor, teacher: Tensor) -> dict[str, Any]:
    """Return each measure of paired rows (n, d_s) and (n, d_t) beside its floor and chance level."""
    best, chance = floor(teacher, student.shape[-1]), chance_level(student, teacher)
    values = {
        "procrustes": procrustes_distance(student, teacher, squared=True),
        "gram": gram_distance(student, teacher, squared=True),
        "cka": cka(student, teacher),
    }
    return {
        name: {"value": float(value), "floor": float(getattr(best, name)), "chance": float(getattr(chance, name))}
        for name, value in values.items()
    }
