"""How long a model takes for one example."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

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
