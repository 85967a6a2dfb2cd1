"""What a training costs: seconds, tokens a second, peak memory."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Cost(TrainerCallback):
    """Adds up the seconds and the tokens (those that are no padding) of the trainings that it sees in this process.

    Of a training that was resumed it counts what was done since. The Trainer counts tokens when
    `include_num_input_tokens_seen="non_padding"`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0
        self._started = (0.0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._started = (time.perf_counter(), state.num_input_tokens_seen)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        started, tokens = self._started
        self.seconds += time.perf_counter() - started
        self.tokens += state.num_input_tokens_seen - tokens

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.tokens and self.seconds else None


def reset_peak_memory() -> None:
    """Let the peak begin anew, if the system can: on an accelerator, and on Linux."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        with suppress(OSError):  # then it is the peak of the process
            CLEAR.write_text("5")


def peak_megabytes() -> float | None:
    """Return the peak since the reset, in megabytes of 10⁶ bytes: of the accelerator's memory, else of this process.

    None if the system does not tell, as on Windows.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
