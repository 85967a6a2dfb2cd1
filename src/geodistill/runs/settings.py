"""Whether a trainer takes the settings of a recipe, asked before anything is trained."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.training_args import OptimizerNames

from geodistill.recipe import Recipe, TrainingRecipe
from geodistill.runs.arguments import refusing_settings, training_arguments

OF_THE_REAL_MODEL = (OptimizerNames.LOMO, OptimizerNames.ADALOMO)
ROWS = [{"input_ids": [1, 2], "labels": 0.0}] * 4


class OneWeight(nn.Module):
    """The smallest model that a Trainer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(1, 1)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": self.weight(input_ids.float()[:, :1]).mean()}


def check_settings(recipe: Recipe) -> None:
    """Refuse training settings that a trainer of the run would refuse, of the teacher, the student and each stage."""
    for training in {each.model_dump_json(): each for each in recipe.trainings.values()}.values():
        check_training(training)


def check_training(training: TrainingRecipe) -> None:
    """Make a trainer of these settings around a model of one weight, with its optimiser, its schedule and a batch.

    The Trainer refuses later than TrainingArguments: what reports to a package that is not installed, an optimiser
    whose package is missing, a schedule that lacks an argument. The random state does not change.
    Raises GeodistillError.
    """
    with _random_state_kept(), tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(training, Path(folder))
        if arguments.deepspeed or arguments.fsdp or arguments.push_to_hub:
            return  # these begin with more than a look at the settings
        with refusing_settings():
            data: Any = ROWS
            trainer = Trainer(model=OneWeight(), args=arguments, train_dataset=data, eval_dataset=data)
            # Some optimisers look for modules by name, or change the model: these have to see the real one.
            if not arguments.optim_target_modules and arguments.optim not in OF_THE_REAL_MODEL:
                trainer.create_optimizer_and_scheduler(num_training_steps=10)
            loader = trainer.get_train_dataloader()
            if not arguments.dataloader_num_workers:
                next(iter(loader))


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
