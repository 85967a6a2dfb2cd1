"""The job that `peers.py` gives to everyone."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from geodistill.data.examples import load_examples
from geodistill.distillation.students.build import build_student
from geodistill.recipe import DataRecipe, StudentRecipe, TeacherRecipe, TrainingRecipe
from geodistill.runs.teacher import PreparedTeacher, prepare_teacher
from geodistill.tasks.classification import Classification


@dataclass
class Job:
    """A fine-tuned teacher, a student's start, encoded sentences and how to train on them."""

    taught: PreparedTeacher
    start: PreTrainedModel
    folder: Path
    training: TrainingRecipe
    temperature: float = 2.0
    once: float = 0.0
    """Seconds that geodistill spent on its cache."""

    @classmethod
    def make(cls, folder: Path, epochs: int, limit: int | None) -> Job:
        """As in the demo's recipe."""
        fine_tuning = TrainingRecipe(epochs=3, batch_size=32, learning_rate=5e-5, bf16="auto")
        task = Classification(load_examples(DataRecipe(limit=limit)))
        taught = prepare_teacher(TeacherRecipe(training=fine_tuning), task, folder / "teacher", progress=False)
        start = build_student(StudentRecipe(width=128, layers=2), taught.model, seed=0)
        return cls(taught, start, folder, TrainingRecipe(epochs=epochs, batch_size=32, learning_rate=1e-3, seed=1))

    @property
    def train(self) -> list[dict[str, Any]]:
        return self.taught.encoded["train"]

    @property
    def epochs(self) -> int:
        return int(self.training.epochs)

    @property
    def seed(self) -> int:
        return self.training.seed

    @property
    def steps(self) -> int:
        return self.epochs * -(-len(self.train) // self.training.batch_size)

    def student(self) -> PreTrainedModel:
        return copy.deepcopy(self.start)

    def columns(self) -> list[dict[str, Any]]:
        """The training sentences with what a model takes, as other trainers want them."""
        kept = ("input_ids", "token_type_ids", "attention_mask", "labels")
        return [{name: example[name] for name in kept} for example in self.train]

    @property
    def teacher_accuracy(self) -> float:
        return self.taught.scores.metrics["accuracy"]

    def accuracy(self, student: PreTrainedModel) -> float:
        """Of the test sentences, on the scale of the teacher's."""
        found = self.taught.task.score(student.eval(), self.taught.reader, self.taught.encoded, "test")
        return found.metrics["accuracy"]
