"""How close a student's feature space is to its teacher's, on rows that neither was trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from geodistill.distillation.signals import FeatureRequest, Teacher, model_inputs
from geodistill.features import (
    Capture,
    counted_rows,
    last_layer,
    map_layers,
    match_rows,
    only_scored,
    scored_tokens,
    select_rows,
)
from geodistill.geometry import chance_level, cka, floor, gram_distance, procrustes_distance
from geodistill.runs.arguments import send
from geodistill.tasks.task import Collator, EncodedExamples, batches, spread

# Their token rows are many times any width, so more would cost time and move no digit that is shown.
MOST_EXAMPLES = 512


@torch.no_grad()
def measure_geometry(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoded: EncodedExamples,
    collate: Collator,
    *,
    rows: str = "tokens",
    most: int = MOST_EXAMPLES,
) -> list[dict[str, Any]]:
    """Return D_P², D_FG² and CKA of the uniformly paired layers, each beside its floor and its chance level.

    All rows of this kind of `most` examples at most, spread over all, centred, of unit Frobenius norm, in float32.
    Both models run where the student is; a teacher that is elsewhere is moved there.
    Floor: the best that a student of this width can reach on these rows (for CKA the highest); chance is what unpaired
    rows give.
    """
    student.eval()
    pairs = map_layers("uniform", last_layer(student), last_layer(teacher))
    requests = [FeatureRequest(t, rows) for _, t in pairs]
    ask = Teacher(teacher, requests, precision="float32")
    capture = Capture(student, [s for s, _ in pairs])
    device = student.device
    if teacher.device != device:
        send(teacher, device)
    student_rows: list[list[Tensor]] = [[] for _ in pairs]
    teacher_rows: list[list[Tensor]] = [[] for _ in pairs]
    for batch in batches(spread(encoded, most), collate, 16):
        inputs = {name: value.to(device) for name, value in batch.items()}
        signals = ask(inputs)
        with only_scored(student, scored_tokens(student, inputs, wanted=False)):
            _, hidden = capture(**model_inputs(student, inputs))
        for place, ((s, _), request) in enumerate(zip(pairs, requests, strict=True)):
            pair = match_rows(select_rows(hidden[s], inputs, kind=rows), signals.features[request])
            for side, kept in zip((student_rows, teacher_rows), counted_rows(*pair), strict=True):
                side[place].append(kept.cpu())
    # The rows of all layers together may be too many for an accelerator, so there is one pair of layers at a time.
    compared = [
        compare_rows(torch.cat(s_rows).to(device), torch.cat(t_rows).to(device))
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
