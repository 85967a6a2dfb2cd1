from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers.trainer_callback import TrainerCallback

from geodistill.runs import train as train_module


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Let the next training of a stage be interrupted at a step, as by Ctrl-C."""

    def arm(stage: str, step: int) -> None:
        class Interruption(TrainerCallback):
            def __init__(self, title: str) -> None:
                self.title = title

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if (self.title, state.global_step) == (stage, step):
                    raise KeyboardInterrupt

        monkeypatch.setattr(train_module, "StepBar", Interruption)

    return arm
