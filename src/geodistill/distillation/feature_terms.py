"""The feature terms of an objective: which rows of student and teacher each of them compares, and with what loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.outputs import no_logits
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
from geodistill.losses import LOSSES, MapLoss
from geodistill.losses.terms import make_loss
from geodistill.recipe import FeatureTerm, ObjectiveRecipe

Probe = Mapping[str, Tensor] | None
"""A tiny batch that a model reads; None if the model tells how to make one up."""


class FeaturePair(NamedTuple):
    """Two points of one batch that a term compares: rows of both sides (b, …, d), and which of them count."""

    key: str
    weight: float
    loss: Any
    student: Tensor
    teacher: Tensor
    mask: Tensor | None
    reads_logits: bool = False

    def value(self, student_logits: Tensor | None, teacher_logits: Any) -> Tensor:
        """The loss of the pair; a loss that compares logits too gets the logits of both sides."""
        if not self.reads_logits:
            return self.loss(self.student, self.teacher, mask=self.mask)
        for side, logits in (("student", student_logits), ("teacher", teacher_logits)):
            if not isinstance(logits, Tensor):
                raise no_logits(side)
        return self.loss(self.student, self.teacher, student_logits, teacher_logits, mask=self.mask)

    def chance(self, seed: int, student_logits: Tensor | None, teacher_logits: Any) -> Tensor:
        """The loss for rows, or samples, that are not paired."""
        if not self.reads_logits and not isinstance(self.loss, MapLoss):
            return chance_loss(self.loss, *self.rows(), seed=seed)
        order = shuffled_order(self.teacher, seed)
        shuffled = self._replace(teacher=self.teacher[order])
        with torch.no_grad():
            return shuffled.value(student_logits, teacher_logits[order] if self.reads_logits else None)

    def row_count(self) -> Tensor | int:
        """How many rows are compared; of maps, their positions."""
        if self.mask is not None:
            return self.mask.sum()
        shape = self.student.shape
        return shape[2:].numel() if isinstance(self.loss, MapLoss) else shape[:-1].numel()

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
        kind = LOSSES[term.loss]
        self.weight, self.rows, self.special_tokens = term.weight, term.rows or kind.rows, term.special_tokens
        self.reads_logits, self.adds_up = kind.reads_logits, kind.adds_up(self.rows)
        self.pairs = resolve_pairs(term, student, teacher, student_probe, teacher_probe)
        student_points, teacher_points = ([pair[side] for pair in self.pairs] for side in (0, 1))
        # A model is run only if a width is needed.
        if kind.reads_widths:
            known = {t: widths[self.request(t)] for t in teacher_points if self.request(t) in widths}
            own = row_widths(student, student_points, student_probe, kind=self.rows)
            others = [t for t in teacher_points if t not in known]
            known |= row_widths(teacher, others, teacher_probe, kind=self.rows) if others else {}
            losses = [make_loss(term, own[s], known[t]) for s, t in self.pairs]
        else:
            Capture(student, student_points), Capture(teacher, teacher_points)  # refuse points that are not there
            losses = [make_loss(term) for _ in self.pairs]
        self.losses = nn.ModuleList(losses)
        self.names = [f"{term.loss}_{s}_{t}" for s, t in self.pairs]

    def request(self, teacher_point: Point) -> FeatureRequest:
        return FeatureRequest(teacher_point, self.rows, self.special_tokens)

    def match(
        self, features: Mapping[Point, Tensor], signals: TeacherSignals, inputs: Mapping[str, Tensor]
    ) -> Iterator[FeaturePair]:
        """Yield what is compared of one batch, pair by pair."""
        for name, (s, t), loss in zip(self.names, self.pairs, self.losses, strict=True):
            rows = select_rows(features[s], inputs, kind=self.rows, special_tokens=self.special_tokens)
            theirs = signals.features[self.request(t)]
            if isinstance(loss, MapLoss):  # it brings the maps of both sides to one grid itself
                student, teacher, mask = rows.values, theirs.values, None
            else:
                student, teacher, mask = match_rows(rows, theirs)
            yield FeaturePair(name, self.weight / len(self.pairs), loss, student, teacher, mask, self.reads_logits)


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
        FeatureRequest(point, term.rows or LOSSES[term.loss].rows, term.special_tokens)
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
    """Return the term's (student point, teacher point) pairs: layers of a map, or module paths unchanged."""
    if not isinstance(term.layers, str) and term.layers and isinstance(term.layers[0][0], str):
        return list(term.layers)
    counts = last_layer(student, student_probe), last_layer(teacher, teacher_probe)
    layers = map_layers(term.layers, *counts)  # type: ignore[arg-type]
    return [(s, t) for s, t in layers]


@torch.no_grad()
def chance_loss(loss: nn.Module, student: Tensor, teacher: Tensor, seed: int) -> Tensor:
    """Return what the loss gives for rows (n, d_s) and (n, d_t) that are not paired: the teacher's are shuffled."""
    return loss(student, teacher[shuffled_order(teacher, seed)])


def shuffled_order(rows: Tensor, seed: int) -> Tensor:
    """Return the places of rows (n, …) in an order that the seed decides."""
    # An own generator: asking for the chance level must not change the course of the training.
    return torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
