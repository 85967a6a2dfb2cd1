"""DistillationTrainer: a transformers.Trainer whose model is the student together with its objective.

A checkpoint holds the student as `save_pretrained` writes it, what the objective learns in a file beside it, and a
teacher that learns in a separate folder. `save_model` writes the student alone.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.training_args import TrainingArguments
from transformers.utils.generic import find_labels

from geodistill.distillation.accumulate import ExactAccumulation, describe_geometry
from geodistill.distillation.binding import bind
from geodistill.distillation.checkpoint import (
    StepCounts,
    load_objective,
    reading_checkpoint,
    save_objective,
    take_prefix,
)
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.devices import denormals_flushed
from geodistill.distillation.learning_teacher import LearningTeacher, check_learns
from geodistill.distillation.model import (
    LEARNING_TEACHER_PREFIX,
    OBJECTIVE_PREFIX,
    STUDENT_PREFIX,
    TEACHER_OBJECTIVE_PREFIX,
    DistillationModel,
)
from geodistill.distillation.overrides import overrides
from geodistill.distillation.rates import set_rates
from geodistill.distillation.sampler import LengthGroupedTrainer
from geodistill.distillation.sharding import check_sharding
from geodistill.distillation.signals import (
    TEACHER_PREFIX,
    SignalSource,
    teacher_or_source,
)
from geodistill.distillation.students.adapters import (
    Student,
    load_student,
    merge_adapters,
    save_student,
)
from geodistill.distillation.term_means import TermMeans, mean_scored, scored
from geodistill.errors import GeodistillError
from geodistill.features import input_names
from geodistill.quantization import Quantizer, check_intervals, is_quantized, save_quantized
from geodistill.recipe import ObjectiveRecipe, Term

TEACHER_FOLDER = "teacher"
logger = logging.getLogger(__name__)


class DistillationTrainer(LengthGroupedTrainer):
    """A `transformers.Trainer` that trains a student against a teacher.

        loss = w_label · label loss + w_logits · T² D(teacher, student) + Σ w_i · feature loss i

    Everything the Trainer can do still works: mixed precision, accumulation, clipping, checkpoints and resuming,
    distributed training, callbacks, `report_to`, `model_init`. Evaluation is of the student alone, with the student's
    label loss. `save_model` writes the student alone, its adapters merged, for plain transformers. A checkpoint has
    more: the adapters unmerged, and what the objective learns.

    Args:
        model: the student, or a PeftModel around it, whose checkpoints then hold its adapters alone.
        args: a `DistillationConfig`. A plain `TrainingArguments` gets the defaults of one.
        teacher_model: a model, a PeftModel, or any module that is called with the batch's tensors by name. It is
            changed as `Teacher` says. Or a `SignalSource` such as a `TeacherCache`. A label term alone needs none.
        terms: the terms of the loss, each a LabelTerm, a LogitTerm or a FeatureTerm; of the first two at most one.
        teacher_terms: the terms of a second loss, by which all weights of the teacher are trained in the same steps.
            There the roles are swapped: the teacher learns, and is compared with the student's answers. The teacher is
            then a transformers model in float32. Terms are logged under `teacher/`, the gradients of both models are
            clipped separately, and checkpoints hold the teacher in the folder `teacher`.
        probe: a tiny batch that both models read, to measure the widths of features. It is needed if no batch can be
            made up from a model's config, as for a module of the user's own.
        model_init: makes a student. Each `train()` begins with a new one, and new projections.
        processing_class: a tokenizer or an image processor. It is saved with the student, and pads the batches unless
            there is a data_collator. The logit term of language models leaves out logits that stand for no token of it;
            families pad their vocabularies to different sizes with such logits.

    All other arguments, and their order, are the arguments of `Trainer`. Columns of the data that only the teacher's
    forward names are kept for it.

    The first weights of learned projections depend on `args.seed` alone. Label and logit terms are the mean over all
    scored tokens of a step (examples, for a classifier), over all ranks and micro-batches, however many each has.

    Each log entry carries the mean of every term since the last entry, and under `chance/` what the feature terms would
    give for rows that are not paired, on the batch that was logged.

    Raises:
        GeodistillError: terms do not go together or do not fit the models, teacher signals lack what the terms compare,
            or an argument belongs to another loss (`compute_loss_func`, `label_smoothing_factor`).

    Example:
        DistillationTrainer(
            student,
            DistillationConfig("out"),
            teacher_model=teacher,
            terms=[LabelTerm(weight=0.5), FeatureTerm(loss="procrustes", layers="uniform")],
            train_dataset=train_dataset,
            processing_class=tokenizer,
        ).train()
    """

    def __init__(
        self,
        model: Student | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., Student] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[[Any], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        teacher_model: nn.Module | SignalSource | None = None,
        terms: Sequence[Term] | None = None,
        teacher_terms: Sequence[Term] | None = None,
        probe: Mapping[str, Tensor] | None = None,
    ) -> None:
        config = DistillationConfig("tmp_trainer") if args is None else DistillationConfig.of(args)
        if config.label_smoothing_factor or compute_loss_func:
            raise GeodistillError(
                "The loss is the sum of the terms, so label_smoothing_factor and compute_loss_func have no part in it.",
                "Leave both out, and say in terms= what the loss is.",
            )
        if config.rates and optimizers[0] is not None:
            raise GeodistillError(
                "An optimizer is given, which has rates already, and 'rates' sets others.",
                "Leave 'rates' out, or let the trainer make the optimizer.",
            )
        check_sharding(config)
        self.args: DistillationConfig = config
        self.terms = ObjectiveRecipe.of(terms or ()).terms
        self.teacher_terms = ObjectiveRecipe.of(teacher_terms).terms if teacher_terms else []
        self._teacher_model: nn.Module | SignalSource = teacher_or_source(teacher_model)
        if self.teacher_terms:
            check_learns(teacher_model)
            if model_init is not None:
                raise GeodistillError(
                    "Each train() with model_init begins with a new student, and a teacher that learns would go on.",
                    "Leave model_init out, and make a trainer with a student and a teacher for each training.",
                )
        self._tokenizer = processing_class if isinstance(processing_class, PreTrainedTokenizerBase) else None
        self._probe = probe
        super().__init__(
            None if model is None else self._bind(model),
            config,
            data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            model_init,  # type: ignore[arg-type]  # what it makes is bound by call_model_init
            None,
            compute_metrics,
            callbacks,
            optimizers,
            optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics,
        )
        if self._use_cache is not None:
            # The Trainer turns it off, and a student that was saved so would read its whole text for each new token.
            self.inner.config.use_cache = self._use_cache
        alone = {
            "A student with adapters": model is not None and self.inner is not self.student,
            "A student with quantisers": model is not None and is_quantized(self.inner),
            "A teacher that learns": bool(self.teacher_terms),
        }
        for what, given in alone.items():
            if given and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
                raise GeodistillError(
                    f"{what} is not trained under FSDP or DeepSpeed here.", "Train it on one device or with DDP."
                )
        self.label_names = self.args.label_names or find_labels(type(self.inner))
        self.add_callback(StepCounts)
        self._mean_scored: list[Tensor] = []
        self._writing_checkpoint = False
        self._forget_steps()

    def _bind(self, student: Student) -> DistillationModel:
        """Make the objective of a student and its teacher, and return the module that is trained."""
        self.distillation, source = bind(
            student,
            self._teacher_model,
            self.terms,
            self.teacher_terms,
            tokenizer=self._tokenizer,
            probe=self._probe,
            seed=self.args.seed,
            global_batch=self.args.global_batch,
        )
        self.student: Student = student
        self.inner: PreTrainedModel = self.distillation.student
        if getattr(self.inner, "main_input_name", "input_ids") != "input_ids":
            self.args.include_num_input_tokens_seen = "no"  # there are no tokens to count
        self._use_cache = getattr(self.inner.config, "use_cache", None)
        self.teacher: SignalSource = source.to(self.args.device)
        if self.accumulates_exactly:
            for each in self.distillation.objectives:
                each.check_accumulation()
        self._accumulation = ExactAccumulation(self.teacher, self._prepare_inputs) if self.accumulates_exactly else None
        return self.distillation

    @overrides(Trainer)
    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._bind(super().call_model_init(trial))  # type: ignore[arg-type]  # model_init makes a student

    def _forget_steps(self) -> None:
        """Begin to count and to add up anew."""
        self.counts.skipped_steps = self.counts.starved_terms = 0
        self._skipped_in_a_row = 0
        self._starved: Tensor | int = 0
        self._means = TermMeans()

    @property
    def accumulates_exactly(self) -> bool:
        """Whether feature terms are of all micro-batches of a step together, if there are several."""
        return self.args.exact_accumulation and self.args.gradient_accumulation_steps > 1

    @property
    def geometry(self) -> str:
        """In words, which rows the feature terms compare at once."""
        if not any(len(objective.features) for objective in self.distillation.objectives):
            return "no feature term"
        return describe_geometry(
            global_batch=self.args.global_batch,
            ranks=self.args.world_size,
            micro_batches=self.args.gradient_accumulation_steps,
            exact=self.accumulates_exactly,
        )

    @property
    def counts(self) -> StepCounts:
        # Looked up, since the Trainer may put another in its place when it resumes.
        return next(each for each in self.callback_handler.callbacks if isinstance(each, StepCounts))

    @property
    def skipped_steps(self) -> int:
        return self.counts.skipped_steps

    @property
    def starved_terms(self) -> int:
        return self.counts.starved_terms

    @overrides(Trainer)
    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.model_init is not None:
            self._forget_steps()
        if self.is_world_process_zero():
            logger.info("Feature terms compare: %s.", self.geometry)
        with denormals_flushed():
            result = super().train(*args, **kwargs)
        self._count_starved()
        return result

    @overrides(Trainer)
    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.args.rates:
            named = self.distillation.named_parameters()
            parameters = {name.removeprefix(STUDENT_PREFIX): parameter for name, parameter in named}
            set_rates(optimizer, parameters, self.args.rates)  # type: ignore[arg-type]  # read from JSON by now
        return optimizer

    @overrides(Trainer)
    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Without the intervals of quantisers, which weight decay would narrow whatever the values are."""
        modules = dict(model.named_modules())
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not isinstance(modules.get(name.rpartition(".")[0]), Quantizer)]

    @overrides(Trainer)
    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._accumulation is not None:
            self._accumulation.expect(batches)
        objectives = self.distillation.objectives
        self._mean_scored = mean_scored(objectives, batches, self.accelerator, self.args.world_size)
        return batches, items

    @overrides(Trainer)
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs=return_outputs)
        seed, shares = self._chance_seed(), self._shares(inputs)
        if self._accumulation is None:
            output = model(teacher_signals=self.teacher(inputs), chance_seed=seed, shares=shares, **inputs)
        else:
            output = model(**self._accumulation.next(model, inputs, seed), shares=shares, **inputs)
        self._means.add(output)
        self._starved = self._starved + output.starved
        return (output.loss, output) if return_outputs else output.loss

    @overrides(Trainer)
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._means.micro_batches:
            logs.update(self._take_terms())
        super().log(logs, start_time)

    def _shares(self, inputs: dict[str, Any]) -> list[Tensor] | None:
        if not self._mean_scored:
            return None
        counts = scored(self.distillation.objectives, inputs)
        return [own / mean for own, mean in zip(counts, self._mean_scored, strict=True)]

    def _chance_seed(self) -> int | None:
        # The chance level doubles the price of a feature term, so it is taken on the steps that are logged.
        step = self.state.global_step + 1
        return step if step % max(1, int(self.state.logging_steps)) == 0 else None

    def _take_terms(self) -> dict[str, float]:
        check_intervals(self.inner)
        logs, self._means = self._means.over_ranks(self.accelerator), TermMeans()
        self._count_starved()
        logs["starved_terms"] = float(self.starved_terms)
        logs["skipped_steps"] = float(self.skipped_steps)
        return logs

    def _count_starved(self) -> None:
        starved = torch.as_tensor(self._starved, device=self.args.device)
        self.counts.starved_terms += int(self.accelerator.reduce(starved, reduction="sum"))
        self._starved = 0

    @overrides(Trainer)
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._count_starved()
        self._writing_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing_checkpoint = False

    @overrides(Trainer)
    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip the gradients, those of a student and of a teacher that learns each by its own norm, so that neither
        training depends on the size of the other. Return the norm of all of them."""
        if not isinstance(self.teacher, LearningTeacher):
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        most = self.args.max_grad_norm
        return torch.stack([nn.utils.clip_grad_norm_(side, most) for side in self.distillation.sides]).norm()

    @overrides(Trainer)
    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Drop a gradient that is not finite: an optimiser does not change parameters without a gradient."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._skipped_in_a_row = 0
            return grad_norm
        # The norm is the same on every rank, so all ranks skip together.
        model.zero_grad(set_to_none=True)
        self.counts.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.args.max_skipped_steps:
            check_intervals(self.inner)
            raise GeodistillError(
                f"The gradient was not finite for {self._skipped_in_a_row} steps in a row; training stopped "
                f"at step {self.state.global_step}.",
                "Lower training.learning_rate, turn mixed precision off, or look for NaN in the teacher's features.",
            )
        return grad_norm

    @overrides(Trainer)
    def _set_signature_columns_if_needed(self) -> None:
        columns: Any = self._signature_columns
        if columns is None:
            needed = {"labels", "label", "label_ids", "example_id", "special_tokens_mask", "word_ids"}
            needed |= input_names(self.inner) or set()
            if self.teacher.model is not None:
                needed |= input_names(self.teacher.model) or set()
            # Tokenizers make it, and what a cache without its model or a module of any inputs reads is not known here.
            needed.add("token_type_ids")
            self._signature_columns: Any = sorted(needed | {TEACHER_PREFIX + name for name in needed})

    @overrides(Trainer)
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        check_intervals(self.inner)
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: nn.Module = self.model  # type: ignore[assignment]  # there is one once the Trainer is made
        state = model.state_dict() if state_dict is None else state_dict
        student = take_prefix(state, STUDENT_PREFIX)
        reader = self.processing_class
        if self._writing_checkpoint:
            save_student(self.student, folder, student)
            save_objective(folder, take_prefix(state, OBJECTIVE_PREFIX))
            if isinstance(self.teacher, LearningTeacher):
                save_student(self.teacher.model, folder / TEACHER_FOLDER, take_prefix(state, LEARNING_TEACHER_PREFIX))
                save_objective(folder / TEACHER_FOLDER, take_prefix(state, TEACHER_OBJECTIVE_PREFIX))
            torch.save(self.args, folder / TRAINING_ARGS_NAME)
        else:
            if is_quantized(self.inner):
                save_quantized(self.inner, folder)
            elif isinstance(self.student, PreTrainedModel):
                self.student.save_pretrained(folder, state_dict=student)
            else:
                # A copy: a student that was merged and parted again would not be quite what it was.
                merge_adapters(copy.deepcopy(self.student)).save_pretrained(folder)
            reader = reader or getattr(self.data_collator, "tokenizer", None)
        if reader is not None:
            reader.save_pretrained(folder)

    @overrides(Trainer)
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self._load_checkpoint_weights(Path(resume_from_checkpoint))

    @overrides(Trainer)
    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        self._load_checkpoint_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_checkpoint_weights(self, folder: Path) -> None:
        with reading_checkpoint(folder):
            load_student(self.student, folder)
            load_objective(self.distillation.objective, folder)
            if isinstance(self.teacher, LearningTeacher) and self.distillation.teacher_objective is not None:
                load_student(self.teacher.model, folder / TEACHER_FOLDER)
                load_objective(self.distillation.teacher_objective, folder / TEACHER_FOLDER)

    @overrides(Trainer)
    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with reading_checkpoint(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    @overrides(Trainer)
    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_checkpoint(checkpoint):
            super()._load_rng_state(checkpoint)
