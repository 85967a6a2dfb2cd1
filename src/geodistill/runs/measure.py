"""What is measured of a student and of its teacher: scores, speed, and how close their feature spaces are on rows that
neither was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from geodistill.distillation.sides import Reader
from geodistill.distillation.signals import FeatureRequest, SignalSource, Teacher, model_inputs
from geodistill.distillation.size_and_speed import TIMED, count_parameters, median_milliseconds, size_in_megabytes
from geodistill.features import Capture, counted_rows, match_rows, only_scored, scored_tokens, select_rows
from geodistill.geometry import chance_level, cka, floor, gram_distance, procrustes_distance
from geodistill.runs.arguments import placed, run_device
from geodistill.runs.prepare import (
    PreparedRun,
    geometry_pairs,
    held_out_examples,
)
from geodistill.runs.teacher import PreparedTeacher
from geodistill.tasks.task import Collator, Encoded, Scores, measured_split

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


def measure_student(
    student: PreTrainedModel, prepared: PreparedRun, progress: bool, *, timed: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the student's metrics and geometry on the test split, its size and, if it is timed, its speed; and a line
    for each example of what it answered."""
    reading, reader = prepared.reading, prepared.reader
    task = reading.task
    split = measured_split(task)
    found = task.score(student, reader, reading.encoded, split, progress=progress) if task.metrics else Scores()
    validation = task.validate(student, reader, reading.encoded)
    constant = task.constant(split)
    pairs = geometry_pairs(student, prepared.teacher, reader)
    measured = {
        "metrics": found.metrics,
        "constant": None if constant is None else asdict(constant),
        "validation_metrics": validation.metrics,
        "details": found.details,
        "notes": [f"The student {note}." for note in found.notes],
        "geometry": measure_geometry(
            student,
            held_out_source(prepared, [t for _, t in pairs]),
            pairs,
            held_out_examples(reading),
            reading.collate,
            rows=reading.rows,
        ),
        "parameters": count_parameters(student),
        "megabytes": size_in_megabytes(student),
        "latency_ms": measure_latency(student, reader, reading.encoded) if timed else None,
    }
    return measured, found.lines


def held_out_source(prepared: PreparedRun, layers: Sequence[int]) -> SignalSource:
    """Return where the teacher's rows of the held-out examples come from: the disk, or the teacher itself."""
    requests = [FeatureRequest(layer, prepared.reading.rows) for layer in layers]
    if prepared.held_out is not None:
        return prepared.held_out.open(list(dict.fromkeys(requests)))
    return Teacher(prepared.teacher.model, requests, precision="float32", logits=False).to(run_device())


def describe_teacher(teacher: PreparedTeacher, *, timed: bool) -> dict[str, Any]:
    """Return the teacher's metrics on the test split, its size and, if it is timed, its speed."""
    return {
        "name": f"teacher: {Path(teacher.name).name}",
        "metrics": teacher.scores.metrics,
        "notes": [f"The teacher {note}." for note in teacher.scores.notes],
        "parameters": teacher.parameters,
        "megabytes": teacher.megabytes,
        "latency_ms": measure_latency(teacher.model, teacher.reader, teacher.encoded) if timed else None,
        "training_seconds": teacher.training_seconds,
    }


@torch.no_grad()
def measure_latency(model: PreTrainedModel, reader: Reader, encoded: Encoded, repeats: int = TIMED) -> float:
    """Return the median milliseconds for one example on the CPU, one at a time, over the first of validation."""
    model.eval()
    inputs = [model_inputs(model, reader.collate([example])) for example in encoded["validation"][:repeats]]
    with placed(model, torch.device("cpu")):
        return median_milliseconds(lambda each: model(**each), inputs)


def validate_teacher(teacher: PreparedTeacher) -> Mapping[str, float]:
    """Return the metrics on the validation split of a teacher in its present state."""
    with placed(teacher.model, run_device()):
        return teacher.task.validate(teacher.model.eval(), teacher.reader, teacher.encoded).metrics
