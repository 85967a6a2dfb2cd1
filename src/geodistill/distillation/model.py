"""The student and its objective as one module, which is what the trainer trains.

One module, so that learned projections are trained, synchronised over ranks, checkpointed and resumed with the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from geodistill.distillation.accumulate import AccumulatedStep
from geodistill.distillation.objective import Objective
from geodistill.distillation.outputs import logits_of, loss_of
from geodistill.distillation.sharding import blocks_to_shard
from geodistill.distillation.signals import TeacherSignals, model_inputs
from geodistill.errors import GeodistillError
from geodistill.features import Capture, next_token_loss, only_scored, scored_logits, scored_tokens

STUDENT_PREFIX, OBJECTIVE_PREFIX = "student.", "objective."


@dataclass
class DistillationOutput(ModelOutput):
    """The loss of a batch with the student's logits, and the terms that the loss was added up from."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    chance: dict[str, Tensor] | None = None
    starved: Tensor | None = None


class DistillationModel(nn.Module):
    """The student and its objective as one module; without teacher signals it is the student alone.

    `accumulated` makes the feature terms those of a whole step's micro-batches, `share` the label and logit terms (see
    `Objective`); `only_summary` returns what this micro-batch adds to the feature terms, in place of a loss.
    """

    # The loss is a mean over the batch, so the Trainer has to divide it by the number of micro-batches.
    accepts_loss_kwargs = False

    def __init__(self, student: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.config = student.config
        self._no_split_modules = blocks_to_shard(student)  # the blocks that FSDP shards one by one

    def forward(
        self,
        teacher_signals: TeacherSignals | None = None,
        chance_seed: int | None = None,
        accumulated: AccumulatedStep | None = None,
        share: Tensor | None = None,
        only_summary: bool = False,
        **inputs: Tensor,
    ) -> Any:
        if teacher_signals is None:
            return self.student(**model_inputs(self.student, inputs, labels=True))
        capture = Capture(self.student, self.objective.student_points)
        labels = self.objective.label_weight is not None and not only_summary
        scored = scored_tokens(self.student, inputs, wanted=self.objective.reads_logits and not only_summary)
        with only_scored(self.student, scored):
            outputs, features = capture(**model_inputs(self.student, inputs, labels=labels and scored is None))
        if only_summary:
            return self.objective.summarize(features, teacher_signals, inputs, rows=chance_seed is not None)
        loss, logits = loss_of(outputs), logits_of(outputs)
        if logits is not None:
            logits = scored_logits(logits, scored)
            if labels and scored is not None and "labels" in inputs:
                loss = next_token_loss(logits, inputs["labels"], scored)
        result = self.objective(
            DistillationOutput(loss=loss, logits=logits),
            features,
            teacher_signals,
            inputs,
            chance_seed=chance_seed,
            accumulated=accumulated,
            share=share,
        )
        return DistillationOutput(
            loss=result.loss, logits=logits, terms=result.terms, chance=result.chance, starved=result.starved
        )

    def get_input_embeddings(self) -> nn.Module:
        """The student's, to which the Trainer adds the noise of NEFTune."""
        return self.student.get_input_embeddings()

    # The same under the name that newer releases of transformers give it, and under the older one.
    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        self.student.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.student.gradient_checkpointing_enable(**kwargs)


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
