"""Feature terms in TRL's distillation trainers.

    from trl.experimental.gkd import GKDConfig, GKDTrainer

    trainer = with_geometry(GKDTrainer)(
        model=student,
        teacher_model=teacher,
        terms=[FeatureTerm(loss="procrustes", rows="response", layers="uniform")],
        args=GKDConfig("out"), …
    )

Hidden states are taken from the very passes that the trainer makes, on whatever batch it makes them: given responses or
the student's own. No model runs twice.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from geodistill.distillation.objective import Objective, ObjectiveOutput
from geodistill.distillation.overrides import overrides
from geodistill.distillation.signals import Teacher, TeacherSignals, teacher_rows
from geodistill.distillation.students.adapters import adapted_model
from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL, Capture
from geodistill.integrations.learned import bind_terms, refuse_sharding, train_along
from geodistill.recipe import FeatureTerm

GEOMETRY_FILE = "geometry.safetensors"


@functools.cache
def with_geometry(trainer_class: type[Trainer]) -> type[Any]:
    """Return a subclass of one of TRL's trainers that adds feature terms to its loss; see `GeometryMixin`.

    Args:
        trainer_class: `trl.DistillationTrainer`, `trl.experimental.gkd.GKDTrainer`, or `trl.SFTTrainer` with a teacher
            that it then runs itself.

    Returns:
        A class with the arguments of the trainer and `teacher_model`, `terms` and `global_batch`.

    Raises:
        GeodistillError: the class is no trainer.

    Example:
        trainer = with_geometry(GKDTrainer)(
            model=student,
            teacher_model=teacher,
            terms=[FeatureTerm(loss="procrustes", rows="response")],
            args=GKDConfig("out"),
            train_dataset=conversations,
            processing_class=tokenizer,
        )
    """
    if not (isinstance(trainer_class, type) and issubclass(trainer_class, Trainer)):
        raise GeodistillError(
            f"{trainer_class!r} is no trainer class.",
            "Give one of TRL's, such as trl.DistillationTrainer; it comes with pip install 'geodistill[trl]'.",
        )
    return type(f"Geometry{trainer_class.__name__}", (GeometryMixin, trainer_class), {})


class GeometryMixin(Trainer):
    """Adds Σ weight · feature loss to the loss of a trainer that runs a student and a teacher on the same tokens.

    `terms`: the feature terms. `teacher_model`: as the trainer takes it; if the trainer takes none, the teacher is
    run here, in eval mode and without gradient. `global_batch`: with several ranks, take the terms of the whole batch
    over all of them. Everything else goes to the trainer. With the rows `response`, only tokens that the trainer scores
    count: those whose label is not −100, or the completion in `DistillationTrainer`.

    The terms are logged under their names beside the trainer's own metrics, as means since the last entry, with
    `starved_terms` for how many of a batch had fewer than two rows. Evaluation logs them with `eval_` and leaves
    `eval_loss` the trainer's own. Learned projections are in the trainer's optimiser, though not in its gradient norm,
    and in a separate file beside each checkpoint; they never reach the saved model.

    Raises GeodistillError for a missing teacher, a batch whose models the trainer does not run, and for projections
    under FSDP or DeepSpeed.
    """

    def __init__(self, *args: Any, terms: Sequence[FeatureTerm], global_batch: bool = True, **kwargs: Any) -> None:
        takes_teacher = "teacher_model" in inspect.signature(super().__init__).parameters
        own_teacher = None if takes_teacher else kwargs.pop("teacher_model", None)
        super().__init__(*args, **kwargs)
        teacher = own_teacher if own_teacher is not None else getattr(self, "teacher_model", None)
        if not isinstance(teacher, nn.Module):
            raise GeodistillError(
                f"{type(self).__name__} has no teacher model whose features it could compare.",
                "Give teacher_model=, a model that was loaded.",
            )
        student = adapted_model(self.accelerator.unwrap_model(self.model))
        teacher = adapted_model(self.accelerator.unwrap_model(teacher))
        self.geometry = bind_terms(terms, student, teacher, seed=self.args.seed, global_batch=global_batch)
        self.geometry.to(self.args.device)
        refuse_sharding(self.geometry, self.is_deepspeed_enabled or self.is_fsdp_enabled)
        self._own_teacher = None
        if own_teacher is not None:
            self._own_teacher = Teacher(teacher, self.geometry.requests).to(self.args.device)
        self._student_capture = Capture(student, self.geometry.student_points)
        self._teacher_capture = Capture(teacher, [request.point for request in self.geometry.requests])
        self._totals: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        self.add_callback(ClearGradients(self.geometry))

    @overrides(Trainer)
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        with (
            self._student_capture.listen(with_gradient=torch.is_grad_enabled()) as student,
            self._teacher_capture.listen(with_gradient=False) as teacher,
        ):
            result = super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        batch = token_inputs(inputs)
        if self._own_teacher is None:
            rows = teacher_rows(self._teacher_capture.complete(teacher), self.geometry.requests, batch)
        else:
            rows = self._own_teacher(batch).features
        output = self.geometry(None, self._student_capture.complete(student), TeacherSignals(None, rows), batch)
        self._add_up(output, "train" if model.training else "eval")
        if not model.training:
            return result
        term = output.loss / self._accumulated_by_us(num_items_in_batch)
        return (result[0] + term, *result[1:]) if return_outputs else result + term

    def _accumulated_by_us(self, num_items_in_batch: Tensor | int | None) -> int:
        """By how much a mean over the micro-batch is divided here, where the Trainer takes the loss for divided."""
        divided = getattr(self, "loss_is_scaled_for_ga", None)
        if divided is None:
            divided = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            divided = divided or self.compute_loss_func is not None
        return self.current_gradient_accumulation_steps if divided else 1

    def _add_up(self, output: ObjectiveOutput, mode: str) -> None:
        totals = self._totals[mode]
        found = {**output.terms, "starved_terms": output.starved, "batches": torch.ones_like(output.loss.detach())}
        for name, value in found.items():
            totals[name] = totals[name] + value if name in totals else value

    @overrides(Trainer)
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model is not None and self.model.training else "eval"
        if totals := self._totals[mode]:
            # One transfer for all terms, and only when something is logged: no step waits for the device.
            packed = torch.stack([value.double() for value in totals.values()])
            sums = dict(zip(totals, self.accelerator.reduce(packed, reduction="sum").tolist(), strict=True))
            batches = sums.pop("batches")
            prefix = "eval_" if mode == "eval" else ""
            logs.update({f"{prefix}{name}": value / batches for name, value in sums.items()})
            self._totals[mode] = {}
        super().log(logs, start_time)

    @overrides(Trainer)
    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        train_along(self.geometry, optimizer)
        return optimizer

    @overrides(Trainer)
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if state := self.geometry.state_dict():
            safetensors.torch.save_file(state, Path(output_dir or str(self.args.output_dir)) / GEOMETRY_FILE)

    @overrides(Trainer)
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_geometry(self.geometry, Path(resume_from_checkpoint))

    @overrides(Trainer)
    def _load_best_model(self) -> None:
        super()._load_best_model()
        load_geometry(self.geometry, Path(str(self.state.best_model_checkpoint)))


class ClearGradients(TrainerCallback):
    """Clears the gradients that the Trainer's `model.zero_grad()` does not reach."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.module.zero_grad()


def load_geometry(geometry: Objective, folder: Path) -> None:
    """Take learned projections back from a checkpoint."""
    if not geometry.state_dict():
        return
    file = folder / GEOMETRY_FILE
    if not file.is_file():
        raise GeodistillError(
            f"The checkpoint {folder} has no {GEOMETRY_FILE}, so its projections are not there.",
            "Resume from a checkpoint that was written with the same feature terms.",
        )
    geometry.load_state_dict(safetensors.torch.load_file(file))


def token_inputs(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the token ids (b, t) of a batch as the models saw them, its attention mask, and its labels.

    `DistillationTrainer` keeps prompts and completions apart and has no labels; the tokens that it scores get theirs.
    """
    if "completion_ids" not in inputs:
        return inputs
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    scored = inputs["completion_mask"] * inputs.get("tool_mask", 1)
    scored = torch.cat([torch.zeros_like(inputs["prompt_mask"]), scored], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
        "labels": torch.where(scored != 0, ids, IGNORED_LABEL),
    }
