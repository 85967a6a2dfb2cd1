"""How the benchmarks take time: candidates in turn, so that a busy machine troubles all of them alike."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]


def clock() -> float:
    """The processor's time with one thread, which waiting for other programs does not enter; with more, the clock's."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(run: Run, repeats: int = 1) -> float:
    """Mean seconds of one run."""
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def interleaved(candidates: Mapping[str, Run], rounds: int, shortest: float = 0.0) -> dict[str, list[float]]:
    """Seconds of each candidate in each round; a round before warms up.

    Within a round a candidate is repeated to fill `shortest` seconds.
    """
    for run in candidates.values():
        run()
    repeats = {name: max(1, round(shortest / seconds(run))) if shortest else 1 for name, run in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(seconds(run, repeats[name]))
    return times


def prepared(description: str | None, settings: int) -> argparse.Namespace:
    """Read the rounds, settings and threads of a benchmark of so many settings, and set torch up for them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each candidate is timed")
    parser.add_argument("--settings", type=int, default=settings, help="only the first so many settings")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, median of {arguments.rounds} rounds")
    return arguments
