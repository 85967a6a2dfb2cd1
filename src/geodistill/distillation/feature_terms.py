"""The feature terms of an objective: which rows of student and teacher each of them compares, and with what loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.signals import FeatureRequest, TeacherSignals
from geodistill.distillation.students.adapters import Student, adapted_model
from geodistill.features import (
    Capture,
    Point,
    counted_rows,
    last_layer,
    map_layers,
    match_rows,
    row_widths,
    select_rows,
)
from geodistill.losses import CKALoss, FeatureLoss, GramLoss, ProcrustesLoss, ProjectionLoss
from geodistill.recipe import FeatureTerm, ObjectiveRecipe

Probe = Mapping[str, Tensor] | None
"""A tiny batch that a model reads; None where the model tells how to make one up."""


class FeaturePair(NamedTuple):
    """Two points of one batch that a term compares: rows of both sides (b, …, d), and which of them count."""

    key: str
    weight: float
    loss: FeatureLoss
    student: Tensor
    teacher: Tensor
    mask: Tensor | None

    def rows(self) -> tuple[Tensor, Tensor]:
        """The rows that count, (n, d_s) and (n, d_t)."""
        return counted_rows(self.student, self.teacher, self.mask)


class FeatureMatch(nn.Module):
    """One feature term: a loss for each of its pairs of points (a learned projection differs from pair to pair)."""

    def __init__(
        self,
        term: FeatureTerm,
        student: PreTrainedModel,
        teacher: nn.Module,
        widths: Mapping[FeatureRequest, int],
        student_probe: Probe = None,
        teacher_probe: Probe = None,
    ) -> None:
        super().__init__()
        self.weight, self.rows, self.special_tokens = term.weight, term.rows, term.special_tokens
        self.pairs = resolve_pairs(term, student, teacher, student_probe, teacher_probe)
        student_points, teacher_points = ([pair[side] for pair in self.pairs] for side in (0, 1))
        known = {t: widths[self.request(t)] for t in teacher_points if self.request(t) in widths}
        # A model is run only where a width is needed.
        if term.loss == "projection":
            student_widths = row_widths(student, student_points, student_probe, kind=term.rows)
            others = [t for t in teacher_points if t not in known]
            known |= row_widths(teacher, others, teacher_probe, kind=term.rows) if others else {}
        else:
            Capture(student, student_points), Capture(teacher, teacher_points)  # refuse points that are not there
            student_widths = {}
        self.losses = nn.ModuleList(make_loss(term, student_widths.get(s), known.get(t)) for s, t in self.pairs)
        self.names = [f"{term.loss}_{s}_{t}" for s, t in self.pairs]

    def request(self, teacher_point: Point) -> FeatureRequest:
        return FeatureRequest(teacher_point, self.rows, self.special_tokens)

    def match(
        self, features: Mapping[Point, Tensor], signals: TeacherSignals, inputs: Mapping[str, Tensor]
    ) -> Iterator[FeaturePair]:
        """Yield what is compared of one batch, pair by pair."""
        for name, (s, t), loss in zip(self.names, self.pairs, self.losses, strict=True):
            rows = select_rows(features[s], inputs, kind=self.rows, special_tokens=self.special_tokens)
            student, teacher, mask = match_rows(rows, signals.features[self.request(t)])
            yield FeaturePair(name, self.weight / len(self.pairs), loss, student, teacher, mask)  # type: ignore[arg-type]


def unique_names(matches: list[FeatureMatch]) -> list[str]:
    """Return a name for each pair of each term; one that is taken gets the term's number."""
    keys: list[str] = []
    for number, match in enumerate(matches):
        for name in match.names:
            keys.append(name if name not in keys else f"{name}_{number}")
    return keys


def feature_requests(
    recipe: ObjectiveRecipe,
    student: Student,
    teacher: nn.Module,
    student_probe: Probe = None,
    teacher_probe: Probe = None,
) -> list[FeatureRequest]:
    """Return the teacher rows that the objective compares, each once."""
    requests = [
        FeatureRequest(point, term.rows, term.special_tokens)
        for term in recipe.features
        for _, point in resolve_pairs(
            term, adapted_model(student), adapted_model(teacher), student_probe, teacher_probe
        )
    ]
    return list(dict.fromkeys(requests))


def resolve_pairs(
    term: FeatureTerm,
    student: nn.Module,
    teacher: nn.Module,
    student_probe: Probe = None,
    teacher_probe: Probe = None,
) -> list[tuple[Point, Point]]:
    """Return the term's (student point, teacher point) pairs: layers of a map, or module paths as they are."""
    if not isinstance(term.layers, str) and term.layers and isinstance(term.layers[0][0], str):
        return list(term.layers)
    counts = last_layer(student, student_probe), last_layer(teacher, teacher_probe)
    layers = map_layers(term.layers, *counts)  # type: ignore[arg-type]
    return [(s, t) for s, t in layers]


def make_loss(term: FeatureTerm, student_width: int | None = None, teacher_width: int | None = None) -> nn.Module:
    """Make the loss that a term names; `projection` needs the widths of both sides."""
    shared: dict[str, Any] = {
        "center": term.center,
        "normalize": term.normalize,
        "squared": term.squared,
    }
    match term.loss:
        case "procrustes":
            return ProcrustesLoss(**shared)
        case "gram":
            return GramLoss(**shared)
        case "cka":
            return CKALoss(**shared)
        case "projection":
            assert student_width is not None and teacher_width is not None
            return ProjectionLoss(student_width, teacher_width, orthogonal=term.orthogonal, **shared)


@torch.no_grad()
def chance_loss(loss: nn.Module, student: Tensor, teacher: Tensor, seed: int) -> Tensor:
    """Return what the loss gives for rows (n, d_s) and (n, d_t) that are not paired: the teacher's are shuffled."""
    # An own generator: asking for the chance level must not change the course of the training.
    order = torch.randperm(len(teacher), generator=torch.Generator().manual_seed(seed)).to(teacher.device)
    return loss(student, teacher[order])
