"""The student and its objective as one module, which is what the trainer trains; with them a teacher that learns.

One module, so that learned projections are trained, synchronised over ranks, checkpointed and resumed with the student.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from geodistill.distillation.accumulate import AccumulatedStep
from geodistill.distillation.learning_teacher import roles_swapped
from geodistill.distillation.objective import Objective
from geodistill.distillation.outputs import logits_of, loss_of
from geodistill.distillation.sharding import blocks_to_shard
from geodistill.distillation.signals import TeacherSignals, model_inputs, teacher_rows, teacher_view
from geodistill.errors import GeodistillError
from geodistill.features import Capture, Point, next_token_loss, only_scored, scored_logits, scored_tokens

STUDENT_PREFIX, OBJECTIVE_PREFIX = "student.", "objective."
LEARNING_TEACHER_PREFIX, TEACHER_OBJECTIVE_PREFIX = "teacher.", "teacher_objective."


@dataclass
class DistillationOutput(ModelOutput):
    """The loss of a batch with the student's logits, and the terms that the loss was added up from."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    chance: dict[str, Tensor] | None = None
    starved: Tensor | None = None


class Pass(NamedTuple):
    """What one model made of a batch: its label loss, the logits that are scored, and its features."""

    loss: Tensor | None
    logits: Tensor | None
    features: dict[Point, Tensor]
    inputs: Mapping[str, Tensor]

    def signals(self, objective: Objective) -> TeacherSignals:
        """What this model says as the teacher of an objective, without a gradient."""
        features = {point: feature.detach() for point, feature in self.features.items()}
        rows = teacher_rows(features, objective.requests, self.inputs)
        asked = self.logits is not None and objective.asks_for_logits
        return TeacherSignals(self.logits.detach() if asked else None, rows)  # type: ignore[union-attr]  # asked


class DistillationModel(nn.Module):
    """The student and its objective as one module; without teacher signals it is the student alone.

    `accumulated` makes the feature terms those of a whole step's micro-batches, `shares` the label and logit terms of
    each objective (see `Objective`); `only_summary` returns what this micro-batch adds to the feature terms, in place
    of a loss.

    A teacher that learns is in the module as well, with another objective. The signals are then what each of the
    two models says to the other in this pass, and those that are given are not read.
    """

    # The loss is a mean over the batch, so the Trainer has to divide it by the number of micro-batches.
    accepts_loss_kwargs = False

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        teacher: PreTrainedModel | None = None,
        teacher_objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.teacher = teacher
        self.teacher_objective = teacher_objective
        self.config = student.config
        self._no_split_modules = blocks_to_shard(student)  # the blocks that FSDP shards one by one

    def forward(
        self,
        teacher_signals: TeacherSignals | None = None,
        chance_seed: int | None = None,
        accumulated: AccumulatedStep | None = None,
        shares: Sequence[Tensor | None] | None = None,
        only_summary: bool = False,
        **inputs: Tensor,
    ) -> Any:
        if teacher_signals is None:
            return self.student(**model_inputs(self.student, inputs, labels=True))
        ours, theirs = self.objective, self.teacher_objective
        student = _run(self.student, ours, theirs, inputs, only_summary=only_summary)
        learners = [(ours, student, teacher_signals)]
        if self.teacher is not None and theirs is not None:
            teacher = _run(self.teacher, theirs, ours, teacher_view(inputs), only_summary=only_summary)
            learners = [(ours, student, teacher.signals(ours)), (theirs, teacher, student.signals(theirs))]
        if only_summary:
            rows = chance_seed is not None
            summaries = [each.summarize(own.features, said, own.inputs, rows=rows) for each, own, said in learners]
            return {key: summary for each in summaries for key, summary in each.items()}
        results = []
        for (objective, own, said), share in zip(learners, shares or [None] * len(learners), strict=True):
            with nullcontext() if objective is ours else roles_swapped():
                result = objective(
                    DistillationOutput(loss=own.loss, logits=own.logits),
                    own.features,
                    said,
                    own.inputs,
                    chance_seed=chance_seed,
                    accumulated=accumulated,
                    share=share,
                )
            results.append(result)
        first, *others = results
        return DistillationOutput(
            loss=sum((each.loss for each in others), first.loss),
            logits=student.logits,
            terms={name: value for each in results for name, value in each.terms.items()},
            chance={name: value for each in results for name, value in each.chance.items()},
            starved=sum((each.starved for each in others), first.starved),
        )

    def get_input_embeddings(self) -> nn.Module:
        """The student's, to which the Trainer adds the noise of NEFTune."""
        return self.student.get_input_embeddings()

    # The same under the name that newer releases of transformers give it, and under the older one.
    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        for model in self._trained():
            model.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        for model in self._trained():
            model.gradient_checkpointing_enable(**kwargs)

    @property
    def objectives(self) -> list[Objective]:
        """The student's objective and, of a teacher that learns, the teacher's."""
        return [self.objective, *([] if self.teacher_objective is None else [self.teacher_objective])]

    @property
    def sides(self) -> list[list[nn.Parameter]]:
        """The parameters of the student with its objective and, of a teacher that learns, of the teacher with its."""
        parts = [(self.student, self.objective), (self.teacher, self.teacher_objective)]
        found = [[each for part in side if part is not None for each in part.parameters()] for side in parts]
        return [side for side in found if side]

    def _trained(self) -> list[Any]:
        return [model for model in (self.student, self.teacher) if model is not None]


def _run(
    model: PreTrainedModel,
    own: Objective,
    other: Objective | None,
    inputs: Mapping[str, Tensor],
    *,
    only_summary: bool,
) -> Pass:
    """Run one of the models once, for its objective and, if the other model learns too, for the other objective."""
    points = [*own.student_points, *(request.point for request in (other.requests if other is not None else ()))]
    labels = own.label_weight is not None and not only_summary
    logits_read = own.reads_logits or (other is not None and other.asks_for_logits)
    scored = scored_tokens(model, inputs, wanted=logits_read and not only_summary)
    with only_scored(model, scored):
        outputs, features = Capture(model, points)(**model_inputs(model, inputs, labels=labels and scored is None))
    loss, logits = loss_of(outputs), logits_of(outputs)
    if logits is not None:
        logits = scored_logits(logits, scored)
        if labels and scored is not None and "labels" in inputs:
            loss = next_token_loss(logits, inputs["labels"], scored)
    return Pass(loss, logits, features, inputs)


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
                    f"Give the {one} separate weights: copy.deepcopy(model), or load the model twice.",
                )


def _memory(module: nn.Module) -> set[tuple[str, int]]:
    return {place for parameter in module.parameters() for place in _places(parameter)}


def _places(parameter: nn.Parameter) -> set[tuple[str, int]]:
    places = {("object", id(parameter))}
    if parameter.numel() and parameter.device.type != "meta":  # what is sharded or not yet there has no memory
        places.add((str(parameter.device), parameter.untyped_storage().data_ptr()))
    return places
