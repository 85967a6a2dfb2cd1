"""How near every layer of a student is to every layer of its teacher: over batches, and while a student trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from geodistill.distillation.feature_terms import Probe
from geodistill.distillation.signals import model_inputs, teacher_view
from geodistill.distillation.students.adapters import adapted_model
from geodistill.errors import GeodistillError
from geodistill.features import (
    Capture,
    counted_rows,
    evaluation_mode,
    last_layer,
    map_layers,
    match_rows,
    only_scored,
    scored_tokens,
    select_rows,
)
from geodistill.geometry.layer_moments import LayerMoments

Batch = Mapping[str, Any]


class LayerBatch(NamedTuple):
    """What both sides made of a batch: the hidden states of each layer, and what each side read."""

    student: list[Tensor]
    teacher: list[Tensor]
    inputs: Mapping[str, Tensor]
    teacher_inputs: Mapping[str, Tensor]

    def rows(self, kind: str, special_tokens: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        """The paired rows (n, d) of each layer."""
        own = [select_rows(each, self.inputs, kind=kind, special_tokens=special_tokens) for each in self.student]
        others = [
            select_rows(each, self.teacher_inputs, kind=kind, special_tokens=special_tokens) for each in self.teacher
        ]
        student = [counted_rows(*match_rows(each, others[0]))[0] for each in own]
        teacher = [counted_rows(*match_rows(own[0], each))[1] for each in others]
        return student, teacher


@torch.no_grad()
def run_layers(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch],
    layers: tuple[Sequence[int], Sequence[int]],
) -> Iterator[LayerBatch]:
    """Run both models over batches, in evaluation mode, and yield the hidden states of the layers of each.

    A model beside itself runs once. A side reads alone what is under its prefix.
    """
    alone = teacher is student
    captures = Capture(student, layers[0]), Capture(teacher, layers[1])
    device = next(student.parameters()).device
    with evaluation_mode(student), evaluation_mode(teacher):
        for batch in batches:
            inputs = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
            theirs = teacher_view(inputs)
            own = _hidden(captures[0], inputs, layers[0])
            others = own if alone else _hidden(captures[1], theirs, layers[1])
            yield LayerBatch(own, others, inputs, theirs)


def _hidden(capture: Capture, inputs: Mapping[str, Tensor], layers: Sequence[int]) -> list[Tensor]:
    model = capture.model
    with only_scored(model, scored_tokens(model, inputs, wanted=False)):
        _, hidden = capture(**model_inputs(model, inputs))
    return [hidden[layer] for layer in layers]


def sum_layers(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch],
    *,
    layers: tuple[Sequence[int], Sequence[int]],
    rows: str = "tokens",
    special_tokens: bool = True,
) -> LayerMoments:
    """Sum the second moments of all layers of two models over batches of what both read.

    Raises GeodistillError if the batches hold fewer than two rows.
    """
    moments = LayerMoments()
    for batch in run_layers(student, teacher, batches, layers):
        moments.add(*batch.rows(rows, special_tokens))
    if moments.rows < 2:
        raise GeodistillError(f"There are {moments.rows} rows, and geometry needs two.", "Give more data.")
    return moments


def all_layers(
    student: nn.Module, teacher: nn.Module, probes: tuple[Probe, Probe] = (None, None)
) -> tuple[list[int], list[int]]:
    """The numbers of all hidden states of both models."""
    return list(range(last_layer(student, probes[0]) + 1)), list(range(last_layer(teacher, probes[1]) + 1))


class LayerGeometry(TrainerCallback):
    """Logs how near layers of the student are to the teacher's on held-out batches, while the student trains.

    Whenever the training loss is logged, `geometry/S_T/procrustes`, `…/gram` and `…/cka` (D_P², D_FG² and CKA of each
    pair of layers) are added to the same entry, for every later callback and `state.log_history`. Give it before
    callbacks that write entries down.

    Args:
        teacher: the teacher; it runs on the student's device.
        batches: held-out batches, a list; what the teacher alone reads carries its prefix.
        pairs: [student, teacher] layers; by default the uniform map.
        rows: a kind of rows.
        every: measure at every so many entries.

    Example:
        trainer.add_callback(LayerGeometry(teacher, held_out_batches))
    """

    def __init__(
        self,
        teacher: nn.Module,
        batches: Sequence[Batch],
        *,
        pairs: Sequence[tuple[int, int]] | None = None,
        rows: str = "tokens",
        every: int = 1,
    ) -> None:
        self.teacher, self.batches, self.pairs = teacher, batches, pairs
        self.rows, self.every = rows, every
        self._entries = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self._entries += 1
        if state.is_world_process_zero and (self._entries - 1) % self.every == 0:
            model = kwargs["model"]
            found = self.measure(adapted_model(getattr(model, "student", model)))
            logs.update(found)
            state.log_history[-1].update(found)

    def measure(self, student: nn.Module) -> dict[str, float]:
        """Return what is logged of a student."""
        # The course of the training must not depend on whether somebody watches.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            teacher = self.teacher.to(next(student.parameters()).device)
            pairs = self.pairs or map_layers("uniform", last_layer(student), last_layer(teacher))
            layers = list(dict.fromkeys(s for s, _ in pairs)), list(dict.fromkeys(t for _, t in pairs))
            moments = sum_layers(student, teacher, self.batches, layers=layers, rows=self.rows)
        found: dict[str, float] = {}
        for s, t in pairs:
            each = moments.compare(layers[0].index(s), layers[1].index(t))
            values = {"procrustes": each.procrustes, "gram": each.gram, "cka": each.cka}
            found |= {f"geometry/{s}_{t}/{name}": value for name, value in values.items()}
        return found
