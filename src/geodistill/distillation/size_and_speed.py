"""What a model takes: its parameters, its bytes, and the time for one example."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from geodistill.quantization import Quantizer

TIMED = 30
"""How many examples a latency is the median of."""
WARM_UP = 5
Inputs = TypeVar("Inputs")


def median_milliseconds(run: Callable[[Inputs], Any], inputs: Sequence[Inputs]) -> float:
    """Return the median milliseconds of a call of `run`, one call for each of `inputs`, after the first few warmed up.

    Args:
        run: what is timed.
        inputs: at least one, each what one call gets.

    Example:
        median_milliseconds(lambda batch: model(**batch), batches)
    """
    times = []
    for each in [*inputs[:WARM_UP], *inputs]:
        started = time.perf_counter()
        run(each)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[WARM_UP:] or times)


def count_parameters(model: nn.Module) -> int:
    """Count a model's parameters, those that share memory once, and of weights in 4 bits each one; quantisers have none
    in this count."""
    of_quantizers = sum(parameter.numel() for parameter in _quantizer_parameters(model))
    if isinstance(model, PreTrainedModel):
        return model.num_parameters() - of_quantizers
    return sum(parameter.numel() for parameter in model.parameters()) - of_quantizers


def size_in_megabytes(model: nn.Module) -> float:
    """Return the size of a model's parameters, quantisers aside, as they are held in memory, in megabytes of 10⁶
    bytes."""
    apart = {id(parameter) for parameter in _quantizer_parameters(model)}
    kept = (parameter for parameter in model.parameters() if id(parameter) not in apart)
    return sum(parameter.numel() * parameter.element_size() for parameter in kept) / 1e6


def _quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [each for module in model.modules() if isinstance(module, Quantizer) for each in module.parameters()]
