"""Reading and writing what a training leaves behind, and knowing when it is whole."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import TrainingArguments

from geodistill.distillation.devices import is_out_of_memory
from geodistill.errors import GeodistillError

OBJECTIVE_FILE = "objective.safetensors"


class StepCounts(TrainerCallback, ExportableState):
    """Counts over a whole training, kept in its checkpoints: `skipped_steps`, whose gradient was not finite, and
    `starved_terms`, feature terms of a batch with fewer than two rows."""

    def __init__(self) -> None:
        self.skipped_steps = 0
        self.starved_terms = 0

    def state(self) -> dict[str, dict[str, int]]:
        return {"args": {}, "attributes": {"skipped_steps": self.skipped_steps, "starved_terms": self.starved_terms}}

    def restore(self, state: TrainerState) -> None:
        """Take the counts that a checkpoint holds; a checkpoint without counts changes nothing."""
        saved: Any = state.stateful_callbacks  # a list for the constructor, a dictionary afterwards
        vars(self).update(saved.get(type(self).__name__, self.state())["attributes"])

    # Restored here: the Trainer does so only with restore_callback_states_from_checkpoint.
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restore(state)


@contextmanager
def reading_checkpoint(folder: Path | str | None) -> Iterator[None]:
    """Turn whatever a damaged file, or one of another model, raises into one clear error.

    Memory that ran out says nothing of the files, so that error passes unchanged.
    """
    try:
        yield
    except (OSError, EOFError, KeyError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        if is_another_model(error):
            raise GeodistillError(
                f"The checkpoint {folder} is of another model: {shorten(str(error), 300)}.",
                "Give the run another --output, or start again with --fresh.",
            ) from error
        raise GeodistillError(
            f"The checkpoint {folder} cannot be read: {error or type(error).__name__}.",
            "Delete that folder to resume from the one before it, or start again with --fresh.",
        ) from error


def is_another_model(error: Exception) -> bool:
    """Tell whether a state dict was refused since it has other weights or other shapes than the model."""
    said = str(error)
    return any(sign in said for sign in ("loading state_dict", "size mismatch", "ignore_mismatched_sizes"))


def take_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of a state dict under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def save_objective(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write what an objective learns, if it learns anything."""
    if state:
        # Clones, because safetensors refuses tensors that share memory.
        safetensors.torch.save_file({name: value.clone() for name, value in state.items()}, folder / OBJECTIVE_FILE)


def load_objective(objective: nn.Module, folder: Path) -> None:
    """Give an objective what `save_objective` wrote."""
    if objective.state_dict():
        objective.load_state_dict(safetensors.torch.load_file(folder / OBJECTIVE_FILE))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, if any.

    The Trainer writes its state last: if that is absent or cut short, writing was interrupted.
    """
    complete = {
        int(step): path.parent
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
        if (step := path.parent.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")).isdecimal() and is_json(path)
    }
    return complete[max(complete)] if complete else None


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True
