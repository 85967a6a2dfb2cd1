"""Feature terms in a LightningModule that knows nothing of them: a callback.

trainer = lightning.Trainer(callbacks=[GeometryCallback(teacher, [FeatureTerm(loss="procrustes")], model="model")])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import Teacher
from geodistill.distillation.students.adapters import adapted_model
from geodistill.errors import GeodistillError, require_package
from geodistill.features import Capture, find_module
from geodistill.integrations.learned import bind_terms, refuse_sharding, train_along
from geodistill.recipe import FeatureTerm

require_package("lightning", "lightning", "GeometryCallback is a callback of Lightning's")

from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402  # after the check that it is there
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy  # noqa: E402


class GeometryCallback(Callback):
    """Adds Σ weight · feature loss to what `training_step` returns, and logs each term under its name.

    The student's hidden states are taken from the pass that `training_step` makes. The teacher is run on what the
    student was given there, and on what else the batch says of the same tokens (`token_type_ids`, which a DistilBERT
    does not take): in eval mode, without gradient, and on the module's device. The teacher is no part of the module, so
    no checkpoint holds it. Learned projections are in the module's first optimiser and in the callback's part of a
    checkpoint.

    Args:
        teacher_model: a transformers model, a PeftModel or any module that takes the student's inputs, changed as
            `Teacher` says. A module of another kind has no layers with numbers: name module paths in the terms.
        terms: the feature terms. The rows `response` need `labels` among the student's inputs or in the batch.
        model: the path of the student, a transformers model, within the LightningModule, such as "model".
        seed: decides the first weights of learned projections.
        global_batch: with DDP, take the terms of the whole batch over all ranks.

    Raises:
        GeodistillError: the path leads to no transformers model, optimisation is manual, `training_step` does not run
            the student, or projections are used under a strategy that shards.

    Example:
        geometry = GeometryCallback(teacher, [FeatureTerm(loss="procrustes", layers="uniform")], model="model")
        lightning.Trainer(callbacks=[geometry]).fit(module, loader)
    """

    def __init__(
        self,
        teacher_model: nn.Module,
        terms: Sequence[FeatureTerm],
        *,
        model: str = "model",
        seed: int = 0,
        global_batch: bool = True,
    ) -> None:
        self.teacher_model, self.terms, self.model = teacher_model, terms, model
        self.seed, self.global_batch = seed, global_batch
        self.objective: Objective | None = None
        self._restored: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in setup: only now is the module complete, in its place, and in possession of optimisers.
        if not pl_module.automatic_optimization:
            raise GeodistillError(
                "GeometryCallback adds to the loss that training_step returns, and this module optimises by hand.",
                "Use automatic optimisation, or add an Objective's loss in training_step yourself.",
            )
        outer = find_module(pl_module, self.model)
        student = adapted_model(outer)
        if not isinstance(student, PreTrainedModel):
            raise GeodistillError(
                f"The student '{self.model}' is a {type(student).__name__}, which is no transformers model.",
                "Give model= the path of one within the LightningModule, such as 'model'.",
            )
        objective = bind_terms(
            self.terms, student, self.teacher_model, seed=self.seed, global_batch=self.global_batch
        ).to(pl_module.device)
        refuse_sharding(objective, not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy))
        if state := self.state_dict():
            objective.load_state_dict(state)
        if any(True for _ in objective.parameters()):
            train_along(objective, trainer.optimizers[0])
        self.objective = objective
        teacher = Teacher(self.teacher_model, objective.requests).to(pl_module.device)
        step = with_terms(pl_module, outer, Capture(student, objective.student_points), teacher, objective)
        pl_module.training_step = step  # type: ignore[method-assign]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        vars(pl_module).pop("training_step", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        vars(pl_module).pop("training_step", None)

    def state_dict(self) -> dict[str, Any]:
        return self._restored if self.objective is None else self.objective.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.objective, self._restored = None, state_dict


def with_terms(
    module: LightningModule, outer: nn.Module, capture: Capture, teacher: Teacher, objective: Objective
) -> Callable[..., Any]:
    """Return the module's training step with the terms added to its loss."""
    original = module.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        with capture.listen(with_gradient=True) as found, inputs_of(outer) as inputs:
            result = original(*args, **kwargs)
        if result is None:  # the step is skipped
            return None
        batch = {**others_of(args, inputs), **inputs}
        output = objective(None, capture.complete(found), teacher(batch), batch)
        module.log_dict(dict(output.terms))
        if isinstance(result, Mapping):
            return {**result, "loss": result["loss"] + output.loss}
        return result + output.loss

    return training_step


def others_of(args: Sequence[Any], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a training step's batch, if it is a mapping, says of the tokens (b, t) that the student was given."""
    batch, tokens = args[0] if args else None, inputs.get("input_ids")
    if not isinstance(batch, Mapping) or tokens is None:
        return {}
    return {
        name: value
        for name, value in batch.items()
        if isinstance(value, Tensor) and value.shape == tokens.shape and value.device == tokens.device
    }


@contextmanager
def inputs_of(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Take the tensors that a model is called with meanwhile, by name; of several calls the last one counts."""
    found: dict[str, Tensor] = {}
    signature = inspect.signature(adapted_model(model).forward)

    def keep(called: nn.Module, args: Any, kwargs: Any) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        found.clear()
        for name, value in given.items():
            further = value if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
            found.update((key, tensor) for key, tensor in further.items() if isinstance(tensor, Tensor))

    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
