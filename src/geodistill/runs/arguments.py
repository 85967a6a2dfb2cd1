"""From the training section of a recipe to the arguments of a trainer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from geodistill.distillation.checkpoint import StepCounts, last_checkpoint
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.sharding import check_sharding
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import TrainingRecipe
from geodistill.runs.precision import training_precision


def processes() -> PartialState:
    """The processes that a launcher started for this run, one if there was none.

    Without an accelerator, PartialState has to be told so: it otherwise takes each process for the only one until the
    TrainingArguments are made, and all of them would claim the folder and write the cache at once. The others may have
    to wait as long as the main one runs the teacher over the data.
    """
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(hours=12))


def run_device() -> torch.device:
    """Return where this process runs its models: its accelerator, else the CPU. Only a latency is taken on the CPU."""
    return processes().device


def send(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model to a device, and return it."""
    module: nn.Module = model
    module.to(device)
    return model


@contextmanager
def placed(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """Hold a model on a device for a while, then move it back to where it was."""
    origin = model.device
    send(model, device)
    try:
        yield
    finally:
        send(model, origin)


def part_processes() -> None:
    """Leave the other processes when all is done; a group that is left to the interpreter's end may abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # a wrapped model holds on to the group
        torch.distributed.destroy_process_group()


def training_arguments(training: TrainingRecipe, folder: Path) -> DistillationConfig:
    """Translate a training section; its `arguments` are passed through and win.

    Batches hold examples of like length, so that little of a batch is padding.
    Raises GeodistillError for an entry of `arguments` that DistillationConfig does not have or refuses.
    """
    known = [field.name for field in fields(DistillationConfig) if field.init]
    for name in training.arguments:
        if name not in known:
            nearest, _, _ = suggest(name, known).partition("Valid:")  # all hundred of them would bury it
            remedy = nearest.strip() or "Look its fields up in the documentation of transformers."
            raise GeodistillError(f"transformers.TrainingArguments has no field '{name}'.", remedy)
    precision = training_precision(training, run_device())
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.evaluation_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "exact_accumulation": training.exact_accumulation,
        "global_batch": training.global_batch,
        "learning_rate": training.learning_rate,
        "rates": training.rates or None,
        "weight_decay": training.weight_decay,
        "warmup_steps": training.warmup,  # below 1 it is the share of all steps
        "lr_scheduler_type": training.schedule,
        "max_grad_norm": training.max_gradient_norm,
        "bf16": precision == "bfloat16",
        "fp16": precision == "float16",
        "seed": training.seed,
        "logging_steps": training.logging_steps,
        "eval_strategy": "epoch" if training.evaluate_each_epoch else "no",
        "save_strategy": "steps" if training.save_steps else "no",
        "save_steps": training.save_steps or 500,
        "save_total_limit": 2,
        "train_sampling_strategy": "group_by_length",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not torch.accelerator.is_available(),
        "include_num_input_tokens_seen": "non_padding",  # for tokens a second
        "report_to": "none",
        "disable_tqdm": True,  # StepBar below shows the progress
    }
    with refusing_settings():
        arguments = DistillationConfig(**{**settings, **training.arguments})
    check_sharding(arguments)
    return arguments


@contextmanager
def refusing_settings() -> Iterator[None]:
    """Within it an error is taken for one of the training settings, and said so: for where a trainer is made."""
    try:
        yield
    except GeodistillError:
        raise
    except (ValueError, TypeError, ImportError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        said = shorten(str(error) or type(error).__name__, 300, placeholder=" …").rstrip(".")
        remedy = "Install what it asks for, or change" if isinstance(error, ImportError) else "Change"
        raise GeodistillError(
            f"The training settings are refused: {said}.", f"{remedy} the 'training' section of the recipe."
        ) from error


def quiet(trainer: Trainer) -> Trainer:
    """Take away the callback that prints every log entry as a dictionary; metrics.jsonl has them."""
    trainer.remove_callback(PrinterCallback)
    return trainer


def train_to_the_end(trainer: Trainer, checkpoints: Path) -> None:
    """Train, going on from the newest checkpoint if there is one; what was trained to its end before is only loaded."""
    checkpoint = last_checkpoint(checkpoints)
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.global_step >= state.max_steps:
            # Resuming here would take one step too many: the Trainer looks at the limit after a step.
            trainer._load_from_checkpoint(str(checkpoint))
            for callback in trainer.callback_handler.callbacks:
                if isinstance(callback, StepCounts):
                    callback.restore(state)
            return
    quiet(trainer).train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


class StepBar(TrainerCallback):
    """One progress bar over the steps of a training, with the time left and the latest loss."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: tqdm[Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()
