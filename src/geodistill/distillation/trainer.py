"""DistillationTrainer: a transformers.Trainer whose model is the student together with its objective.

Student and objective are one module, so that learned projections are trained, synchronised over ranks, checkpointed
and resumed with the student. A checkpoint holds the student as `save_pretrained` writes it, and the objective's own
weights in a file beside it, so they never reach an exported student.
"""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.training_args import TrainingArguments
from transformers.utils import ModelOutput
from transformers.utils.generic import find_labels

from geodistill.distillation.objective import Objective
from geodistill.distillation.sampler import EpochOrder, LengthGroupedSampler
from geodistill.distillation.teacher import SignalSource, Teacher, TeacherSignals, model_inputs
from geodistill.errors import GeodistillError
from geodistill.features import Capture

STUDENT_PREFIX, OBJECTIVE_PREFIX = "student.", "objective."
OBJECTIVE_FILE = "objective.safetensors"


@dataclass
class DistillationOutput(ModelOutput):
    """The loss of a batch with the student's logits, and the terms that the loss was added up from."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    terms: dict[str, Tensor] | None = None
    chance: dict[str, Tensor] | None = None
    starved: Tensor | None = None


class DistillationModel(nn.Module):
    """The student and its objective as one module; without teacher signals it is the student alone."""

    # The loss is a mean over the batch, so the Trainer has to divide it by the number of micro-batches.
    accepts_loss_kwargs = False

    def __init__(self, student: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.config = student.config

    def forward(
        self, teacher_signals: TeacherSignals | None = None, chance_seed: int | None = None, **inputs: Tensor
    ) -> Any:
        if teacher_signals is None:
            return self.student(**model_inputs(self.student, inputs, labels=True))
        capture = Capture(self.student, self.objective.student_points)
        labels = self.objective.label_weight is not None
        outputs, features = capture(**model_inputs(self.student, inputs, labels=labels))
        result = self.objective(outputs, features, teacher_signals, inputs, chance_seed=chance_seed)
        return DistillationOutput(
            loss=result.loss, logits=outputs.logits, terms=result.terms, chance=result.chance, starved=result.starved
        )

    # The same under the name that newer releases of transformers give it, and under the older one.
    def activation_checkpointing_enable(self, **kwargs: Any) -> None:
        self.student.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        self.student.gradient_checkpointing_enable(**kwargs)


class DistillationTrainer(Trainer):
    """A `transformers.Trainer` that trains a student against a teacher.

    Everything the Trainer can do still works: mixed precision, accumulation, clipping, checkpoints and resuming,
    distributed training, callbacks, `report_to`. Evaluation is of the student alone, with its own label loss.

    Args: `model` the student; `teacher` a model with the same kind of head, or a `SignalSource` such as a
    `TeacherCache`; `objective` the terms, bound to both; the rest as for `Trainer`. `max_skipped_steps`: a step whose
    gradient is not finite is skipped and counted, and after so many in a row training stops with GeodistillError.

    Each log entry carries the mean of every term since the last one, and under `chance/` what the feature terms would
    give for rows that are not paired, on the batch that was logged.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        teacher: PreTrainedModel | SignalSource,
        objective: Objective,
        args: TrainingArguments,
        max_skipped_steps: int = 20,
        **kwargs: Any,
    ) -> None:
        if args.label_smoothing_factor or kwargs.get("compute_loss_func"):
            raise GeodistillError(
                "The loss is the objective's, so label_smoothing_factor and compute_loss_func have no part in it.",
                "Leave both out, and say in the objective which terms there are.",
            )
        # Denormal numbers make CPU training up to eight times slower and change nothing else.
        torch.set_flush_denormal(True)
        super().__init__(model=DistillationModel(model, objective), args=args, **kwargs)
        source: SignalSource = Teacher(teacher, objective.requests) if isinstance(teacher, PreTrainedModel) else teacher
        check_requests(source, objective)
        self.student = model
        self.objective: Objective = objective
        self.teacher: SignalSource = source.to(self.args.device)
        self.label_names = self.args.label_names or find_labels(type(model))
        self.max_skipped_steps = max_skipped_steps
        self.skipped_steps = 0
        self.starved_terms = 0
        self._skipped_in_a_row = 0
        self._totals: dict[str, Tensor] = {}
        self._chance: dict[str, Tensor] = {}
        self._micro_batches = 0

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        output = model(teacher_signals=self.teacher(inputs), chance_seed=self._chance_seed(), **inputs)
        self._micro_batches += 1
        for name, value in {**output.terms, "starved_terms": output.starved}.items():
            self._totals[name] = self._totals[name] + value if name in self._totals else value
        self._chance = output.chance or self._chance
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._micro_batches:
            logs.update(self._take_terms())
        super().log(logs, start_time)

    def _chance_seed(self) -> int | None:
        # The chance level doubles the price of a feature term, so it is taken on the steps that are logged.
        step = self.state.global_step + 1
        return step if step % max(1, int(self.state.logging_steps)) == 0 else None

    def _take_terms(self) -> dict[str, float]:
        # One transfer for all terms, and only when something is logged: no step waits for the device.
        names = [*self._totals, *(f"chance/{name}" for name in self._chance)]
        values = [value.double() / self._micro_batches for value in self._totals.values()]
        packed = torch.stack([*values, *(value.double() for value in self._chance.values())])
        numbers = self.accelerator.reduce(packed, reduction="mean").tolist()
        logs = dict(zip(names, numbers, strict=True))
        self.starved_terms += round(logs.pop("starved_terms") * self._micro_batches * self.args.world_size)
        logs["starved_terms"] = float(self.starved_terms)
        logs["skipped_steps"] = float(self.skipped_steps)
        self._totals, self._chance, self._micro_batches = {}, {}, 0
        return logs

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Drop a gradient that is not finite: an optimiser leaves parameters without a gradient as they are."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._skipped_in_a_row = 0
            return grad_norm
        # The norm is the same on every rank, so all ranks skip together.
        model.zero_grad(set_to_none=True)
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.max_skipped_steps:
            raise GeodistillError(
                f"The gradient was not finite for {self._skipped_in_a_row} steps in a row; training stopped "
                f"at step {self.state.global_step}.",
                "Lower training.learning_rate, turn mixed precision off, or look for NaN in the teacher's features.",
            )
        return grad_norm

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Group by length in an order that survives resuming; the Trainer's own sampler draws on global state."""
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        lengths = [len(example["input_ids"]) for example in dataset]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = LengthGroupedSampler(lengths, self.args.train_batch_size, seed)
        self.remove_callback(EpochOrder)
        self.add_callback(EpochOrder(sampler))
        return sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        """Evaluate in the order of the data, where the Trainer would group by length: metrics go by a row's place."""

    def _set_signature_columns_if_needed(self) -> None:
        columns: Any = self._signature_columns
        if columns is None:
            needed = {"labels", "label", "label_ids", "example_id", "special_tokens_mask"}
            self._signature_columns: Any = sorted(needed | set(inspect.signature(self.student.forward).parameters))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: nn.Module = self.model  # type: ignore[assignment]  # there is one once the Trainer is made
        state = model.state_dict() if state_dict is None else state_dict
        self.student.save_pretrained(folder, state_dict=take_prefix(state, STUDENT_PREFIX))
        # Clones, because safetensors refuses tensors that share memory.
        objective = {name: value.clone() for name, value in take_prefix(state, OBJECTIVE_PREFIX).items()}
        if objective:
            safetensors.torch.save_file(objective, folder / OBJECTIVE_FILE)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self._load_checkpoint_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        self._load_checkpoint_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_checkpoint_weights(self, folder: Path) -> None:
        with reading_checkpoint(folder):
            saved = type(self.student).from_pretrained(folder, local_files_only=True)
            self.student.load_state_dict(saved.state_dict())
            if self.objective.state_dict():
                self.objective.load_state_dict(safetensors.torch.load_file(folder / OBJECTIVE_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)


@contextmanager
def reading_checkpoint(folder: Path | str | None) -> Iterator[None]:
    """Turn whatever a damaged file raises into one clear error."""
    try:
        yield
    except (OSError, EOFError, KeyError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError) as error:
        raise GeodistillError(
            f"The checkpoint {folder} cannot be read: {error or type(error).__name__}.",
            "Delete that folder to resume from the one before it, or start again with --fresh.",
        ) from error


def take_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries of a state dict under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def check_requests(source: SignalSource, objective: Objective) -> None:
    """Refuse a source that was made for other layers or rows than the objective compares."""
    missing = [request for request in objective.requests if request not in source.requests]
    if missing:
        raise GeodistillError(
            f"The teacher signals lack the rows that the objective compares: {missing[0]}.",
            "Make the teacher or its cache with requests=objective.requests.",
        )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, if any.

    The Trainer writes its state last: where that is absent or cut short, writing was interrupted.
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
