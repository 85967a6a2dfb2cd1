"""The objective: label, logit and feature terms, each with its weight, over one batch.

    loss = w_label · label loss + w_logits · T² D(teacher, student) + Σ w_i · feature loss i

A feature term over several layer pairs is the mean over the pairs, so that its weight does not depend on how many
there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.accumulate import AccumulatedStep, PairSummary
from geodistill.distillation.feature_terms import (
    FeatureMatch,
    FeaturePair,
    Probe,
    chance_loss,
    feature_requests,
    unique_names,
)
from geodistill.distillation.outputs import logits_of, loss_of, no_label_loss, no_logits
from geodistill.distillation.signals import FeatureRequest, TeacherSignals
from geodistill.distillation.students.adapters import Student, adapted_model
from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL, Point, is_causal, next_tokens_scored, scored_logits
from geodistill.losses.logits import PROBLEM_TYPES, ProblemType
from geodistill.losses.terms import make_logit_loss, resolve_objective
from geodistill.recipe import ObjectiveRecipe, Term


@dataclass(frozen=True)
class ObjectiveOutput:
    """The loss; each term before its weight, detached; each feature term's chance level, when it was asked for; and
    how many feature terms had fewer than two rows to compare."""

    loss: Tensor
    terms: dict[str, Tensor]
    chance: dict[str, Tensor]
    starved: Tensor


class Objective(nn.Module):
    """All terms of a loss, bound to a student and a teacher.

    `student_points` and `requests` say what has to be captured of the one and asked of the other. The models are read
    for their layers and widths, and are not kept. The teacher may be any module, whose layers then go by module path:
    only layers of transformers models have numbers.

    Args:
        terms: the terms of the loss, each a LabelTerm, a LogitTerm or a FeatureTerm; of the first two at most one.
        student: the model that is trained.
        teacher: the model that it is compared with. A label term alone needs no teacher.
        widths: of teacher rows that are narrower than the teacher is, from a rotated cache (`TeacherCache.widths`).
        vocabulary: how many logits of a language model stand for a token. The logit term leaves out those beyond, with
            which families pad their vocabularies to different sizes.
        global_batch: with several ranks, take feature terms of the whole batch over all of them.
        student_probe: a tiny batch that the student reads, for a model of which none can be made up.
        teacher_probe: the same for the teacher.
        prefix: what the names of the terms begin with.

    Returns:
        Called with the student's outputs and features, the teacher's signals and the batch, the loss and its terms.

    Raises:
        GeodistillError: terms that do not go together, a layer out of range, a module path that does not exist, or,
            with a logit term, models of different problem types.

    Example:
        objective = Objective([FeatureTerm(loss="procrustes")], student=student, teacher=teacher)
        result = objective(outputs, features, Teacher(teacher, objective.requests)(batch), batch)
    """

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        student: Student,
        teacher: nn.Module | None,
        widths: Mapping[FeatureRequest, int] | None = None,
        vocabulary: int | None = None,
        global_batch: bool = True,
        student_probe: Probe = None,
        teacher_probe: Probe = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        recipe = resolve_objective(ObjectiveRecipe.of(terms))
        inner: PreTrainedModel = adapted_model(student)
        teacher = adapted_model(teacher)
        if teacher is None and (recipe.logits or recipe.features):
            raise GeodistillError(
                "There is no teacher model, and a term compares the student with one.",
                "Give teacher_model=, or a teacher cache that was opened with model=teacher.",
            )
        self.label_weight = recipe.label.weight if recipe.label else None
        self.logit_weight = recipe.logits.weight if recipe.logits else None
        self.problem_type = problem_type(inner, teacher) if recipe.logits else None
        self.logit_loss = make_logit_loss(recipe.logits, self.problem_type) if recipe.logits else None
        self.causal = is_causal(inner)
        self.vocabulary = vocabulary
        self.features = nn.ModuleList(
            FeatureMatch(term, inner, teacher, widths or {}, student_probe, teacher_probe) for term in recipe.features
        )
        for match in self._matches():
            for loss in match.losses:
                loss.global_batch = global_batch  # type: ignore[assignment]  # an nn.ModuleList forgets what it holds
        compares_logits = any(match.reads_logits for match in self._matches())
        self.reads_logits = recipe.label is not None or recipe.logits is not None or compares_logits
        self.asks_for_logits = recipe.logits is not None or compares_logits
        if compares_logits and self.causal:
            raise GeodistillError(
                "The student is a language model, whose logits are of tokens, and a term compares logits of examples.",
                "Use rcka with classifiers, or choose cka.",
            )
        self.prefix = prefix
        self.keys = [prefix + name for name in unique_names(self._matches())]
        self.student_points = list(dict.fromkeys(s for match in self._matches() for s, _ in match.pairs))
        self.requests = feature_requests(recipe, student, teacher, student_probe, teacher_probe)

    def forward(
        self,
        outputs: Any,
        student_features: Mapping[Point, Tensor],
        signals: TeacherSignals,
        inputs: Mapping[str, Tensor],
        *,
        chance_seed: int | None = None,
        accumulated: AccumulatedStep | None = None,
        share: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Add up the terms of one batch; with `chance_seed`, also tell what unpaired rows would have given.

        A causal model's `outputs` hold all logits (b, t, V), or the logits of its scored tokens alone (r, V).
        Feature terms alone need no `outputs` and no logits of the teacher's; a label term needs the student's loss.
        With `accumulated`, the batch is one micro-batch of a step: its feature terms are its share of those of the
        whole, times the number of micro-batches, which the mean over them takes out again. `share` does the same for
        labels and logits: how many tokens or examples of a step this batch has, over the mean of all that make up the
        step (`count_scored`).
        """
        label_loss, student_logits = loss_of(outputs), logits_of(outputs)
        known = (*student_features.values(), student_logits, label_loss, *inputs.values())
        somewhere = next(each for each in known if isinstance(each, Tensor))
        loss = somewhere.new_zeros((), dtype=torch.float32)
        terms: dict[str, Tensor] = {}
        chance: dict[str, Tensor] = {}
        starved = torch.zeros((), dtype=torch.long, device=loss.device)
        if self.label_weight is not None:
            if label_loss is None:
                raise no_label_loss(inputs)
            value = terms[f"{self.prefix}label"] = label_loss if share is None else share * label_loss
            loss = loss + self.label_weight * value
        if self.logit_loss is not None and self.logit_weight is not None:
            if signals.logits is None:
                raise no_logits("teacher")
            if student_logits is None:
                raise no_logits("student")
            if self.problem_type is None:
                refuse_values(inputs.get("labels"))
            scored = next_tokens_scored(inputs) if self.causal else None
            logits, targets = scored_logits(student_logits, scored), signals.logits
            if isinstance(targets, Tensor):
                targets = scored_logits(targets, scored)  # of all tokens if the teacher is a module of another kind
            if self.vocabulary is not None:
                logits = logits[..., : self.vocabulary]
                targets = targets[..., : self.vocabulary] if isinstance(targets, Tensor) else targets
            value = self.logit_loss(logits, targets, labelled_tokens(logits, inputs))
            value = terms[f"{self.prefix}logits"] = value if share is None else share * value
            loss = loss + self.logit_weight * value
        for pair in self._pairs(student_features, signals, inputs):
            if accumulated is None:
                value = terms[pair.key] = pair.value(student_logits, signals.logits)
                rows = pair.row_count()
            else:
                whole = accumulated.whole(pair.key, pair.loss)
                value = accumulated.micro_batches * whole(pair.student, pair.teacher, pair.mask)
                terms[pair.key], rows = whole.value.float(), whole.total.rows
            loss = loss + pair.weight * value
            starved = starved + (rows < 2)
            if chance_seed is not None:
                if accumulated is None:
                    chance[pair.key] = pair.chance(chance_seed, student_logits, signals.logits)
                else:
                    chance[pair.key] = chance_loss(pair.loss, *accumulated.rows(pair.key), seed=chance_seed)
        return ObjectiveOutput(loss, {name: value.detach() for name, value in terms.items()}, chance, starved)

    def check_accumulation(self) -> None:
        """Refuse terms whose micro-batches do not add up (`LossKind.adds_up`)."""
        for match in self._matches():
            if not match.adds_up:
                raise GeodistillError(
                    f"Exact accumulation cannot add up the rows '{match.rows}' of the term '{match.names[0]}'.",
                    "Set training.exact_accumulation=false, or choose other rows, such as positions or pooled.",
                )

    def summarize(
        self,
        student_features: Mapping[Point, Tensor],
        signals: TeacherSignals,
        inputs: Mapping[str, Tensor],
        *,
        rows: bool,
    ) -> dict[str, PairSummary]:
        """Return what one micro-batch adds to an `AccumulatedStep`; its rows are for the chance level."""
        return {
            pair.key: PairSummary(
                pair.loss.moments(pair.student, pair.teacher, pair.mask), pair.rows() if rows else None
            )
            for pair in self._pairs(student_features, signals, inputs)
        }

    def _pairs(
        self, student_features: Mapping[Point, Tensor], signals: TeacherSignals, inputs: Mapping[str, Tensor]
    ) -> Iterator[FeaturePair]:
        pairs = (pair for match in self._matches() for pair in match.match(student_features, signals, inputs))
        for key, pair in zip(self.keys, pairs, strict=True):
            yield pair._replace(key=key)

    def _matches(self) -> list[FeatureMatch]:
        return list(self.features)  # type: ignore[arg-type]  # an nn.ModuleList forgets what it holds


def problem_type(student: nn.Module, teacher: nn.Module | None) -> ProblemType | None:
    """Return what the outputs of both models mean, by the `problem_type` of their configs; None if neither says it.

    A config that does not say it agrees with one that does.
    Raises GeodistillError if the two say different things: their logits are not comparable then.
    """
    sides = {"student": student, "teacher": teacher}
    said = {side: getattr(getattr(model, "config", None), "problem_type", None) for side, model in sides.items()}
    known = {side: kind for side, kind in said.items() if kind in PROBLEM_TYPES}
    if len(set(known.values())) > 1:
        raise GeodistillError(
            f"The student's config has the problem type {known['student']}, and the teacher's {known['teacher']}.",
            "Give both models the same problem_type, or leave objective.logits out.",
        )
    return next(iter(known.values()), None)


def refuse_values(labels: Tensor | None) -> None:
    """Refuse labels (b, L) of several floats for models that do not say their problem type.

    The label loss takes such a head for a multi-label one, and the logit loss would take it for a softmax head.
    """
    if labels is not None and labels.ndim == 2 and labels.shape[1] > 1 and labels.is_floating_point():
        raise GeodistillError(
            f"The labels are {labels.shape[1]} floats for each example, and neither model's config has a problem_type.",
            "Set config.problem_type of the student to 'multi_label_classification' or 'regression'.",
        )


def labelled_tokens(logits: Tensor, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Return which of a token classifier's logits (b, t, classes) count: the attended ones with a label, where the
    batch has labels. Other logits, those of examples or of a language model's scored tokens, all do."""
    if logits.ndim != 3:
        return None
    attended = inputs.get("attention_mask")
    if "labels" not in inputs:
        return attended
    labelled = inputs["labels"] != IGNORED_LABEL
    return labelled if attended is None else labelled & (attended != 0)
