"""The micro-batches of one optimiser step as one batch: a first pass sums their moments, the second trains on the sum.

The first pass runs the student without gradients over all micro-batches of the step. The second gives each micro-batch
its own share of the gradient of the whole (`AccumulatedLoss`), so that micro-batches of four are trained as the batch
that they make up. Both passes draw the same random numbers, and so the same dropout.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geodistill.distillation.signals import SignalSource, TeacherSignals
from geodistill.geometry.moments import Moments
from geodistill.losses import AccumulatedLoss, FeatureLoss

Inputs = dict[str, Any]


class PairSummary(NamedTuple):
    """What one micro-batch adds to the whole of one feature pair: its moments and, when asked for, its rows."""

    moments: Moments
    rows: tuple[Tensor, Tensor] | None


class AccumulatedStep:
    """The whole that the micro-batches of one step make up, pair by pair.

    Ranks meet in it once for each loss and chance level, however many micro-batches each of them has.
    """

    def __init__(self, summaries: Sequence[Mapping[str, PairSummary]]) -> None:
        self.micro_batches = len(summaries)
        self._parts = {key: [summary[key] for summary in summaries] for key in summaries[0]}
        self._losses: dict[str, AccumulatedLoss] = {}

    def whole(self, key: str, loss: FeatureLoss) -> AccumulatedLoss:
        """The loss of the whole as a function of a micro-batch; made within the forward pass of the first one, where
        a sharded loss has its parameters."""
        if key not in self._losses:
            first, *others = (part.moments for part in self._parts[key])
            self._losses[key] = AccumulatedLoss(loss, sum(others, first))
        return self._losses[key]

    def rows(self, key: str) -> tuple[Tensor, Tensor]:
        """All rows of a pair, the student's and the teacher's."""
        students, teachers = zip(*(part.rows for part in self._parts[key] if part.rows is not None), strict=True)
        return torch.cat(students), torch.cat(teachers)


@dataclass(frozen=True)
class _Part:
    signals: TeacherSignals
    random_state: list[Tensor]


class ExactAccumulation:
    """Runs the first pass of a step, and hands each micro-batch of the second what it needs.

    Costs a forward pass of the student more for each micro-batch, and the memory for the teacher's signals of all
    micro-batches of the step; the teacher itself runs once. See docs/scale.md for what was measured.
    """

    def __init__(self, teacher: SignalSource, prepare: Callable[[Inputs], Inputs]) -> None:
        self.teacher, self.prepare = teacher, prepare
        self._expected: list[Inputs] = []
        self._parts: deque[_Part] = deque()
        self._step: AccumulatedStep | None = None

    def expect(self, batches: Sequence[Inputs]) -> None:
        """Say which micro-batches make up the step that begins."""
        self._expected = list(batches)
        self._parts.clear()

    def next(self, model: nn.Module, inputs: Inputs, chance_seed: int | None) -> dict[str, Any]:
        """Return what `DistillationModel` needs beside the next micro-batch's inputs, and set the random state that
        the first pass had for it."""
        first = not self._parts
        if first:
            # A batch that was not announced is a whole step.
            self._look_ahead(model, self._expected or [inputs], chance_seed)
            self._expected = []
        part = self._parts.popleft()
        set_random_state(part.random_state)
        return {
            "teacher_signals": part.signals,
            "chance_seed": chance_seed if first else None,
            "accumulated": self._step,
        }

    @torch.no_grad()
    def _look_ahead(self, model: nn.Module, batches: Sequence[Inputs], chance_seed: int | None) -> None:
        summaries = []
        for batch in batches:
            inputs = self.prepare(batch)
            part = _Part(self.teacher(inputs), random_state())
            summaries.append(model(teacher_signals=part.signals, chance_seed=chance_seed, only_summary=True, **inputs))
            self._parts.append(part)
        self._step = AccumulatedStep(summaries)


def random_state() -> list[Tensor]:
    """The states of torch's generators that a forward pass may draw on: the CPU's and the accelerator's."""
    states = [torch.get_rng_state()]
    if torch.accelerator.is_available():
        states.append(torch.get_device_module().get_rng_state())
    return states


def set_random_state(states: Sequence[Tensor]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.get_device_module().set_rng_state(state)


def describe_geometry(*, global_batch: bool, ranks: int, micro_batches: int, exact: bool) -> str:
    """Say in words which rows a feature term compares at once."""
    over = f"{ranks} ranks"
    if micro_batches > 1 and not exact:
        return "each micro-batch on its own" + (f", over {over}" if global_batch and ranks > 1 else "")
    batch = f"accumulated batch of {micro_batches} micro-batches" if micro_batches > 1 else "batch"
    if ranks == 1:
        return f"the {batch}"
    return f"the global {batch} over {over}" if global_batch else f"the local {batch} of each of {over}"
