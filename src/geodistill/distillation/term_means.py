"""The terms of a loss as means over a step: what its micro-batches are weighed by, and what is logged of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from geodistill.distillation.model import DistillationOutput
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import teacher_view
from geodistill.features import count_scored


def mean_scored(
    objectives: Sequence[Objective], batches: Sequence[Mapping[str, Any]], accelerator: Accelerator, ranks: int
) -> list[Tensor]:
    """Return how many tokens or examples a micro-batch of this rank would score if all of the step were alike, for each
    objective. From it the gradient of the mean over ranks, and over each rank's micro-batches, is that of the mean over
    the step. Empty if the one batch is the step.
    """
    alone = len(batches) == 1 and ranks == 1
    if not batches or alone or not any(objective.reads_logits for objective in objectives):
        return []
    counts = [torch.stack(scored(objectives, batch)).to(accelerator.device) for batch in batches]
    totals: Any = accelerator.reduce(torch.stack(counts).sum(dim=0), reduction="sum")
    return list(totals.float().clamp(min=1) / (ranks * len(batches)))


def scored(objectives: Sequence[Objective], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return how many tokens or examples of a batch each objective scores."""
    views = inputs, teacher_view(inputs)
    return [count_scored(view, causal=objective.causal) for objective, view in zip(objectives, views, strict=False)]


class TermMeans:
    """Adds up what the terms of micro-batches were since the last entry of the log."""

    def __init__(self) -> None:
        self.micro_batches = 0
        self._totals: dict[str, Tensor] = {}
        self._chance: dict[str, Tensor] = {}

    def add(self, output: DistillationOutput) -> None:
        """Add the terms of a micro-batch. Of chance levels the newest count."""
        self.micro_batches += 1
        for name, value in (output.terms or {}).items():
            self._totals[name] = self._totals[name] + value if name in self._totals else value
        self._chance = output.chance or self._chance

    def over_ranks(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over micro-batches and ranks."""
        # One transfer for all terms, and only when something is logged: no step waits for the device.
        names = [*self._totals, *(f"chance/{name}" for name in self._chance)]
        values = [value.double() / self.micro_batches for value in self._totals.values()]
        packed = torch.stack([*values, *(value.double() for value in self._chance.values())])
        means: Any = accelerator.reduce(packed, reduction="mean")
        return dict(zip(names, means.tolist(), strict=True))
