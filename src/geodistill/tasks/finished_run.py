"""A finished run, as a task reads other data for its student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodistill.data.labels import Problem
from geodistill.distillation.students.head_labels import output_names
from geodistill.recipe import TASK_STAGE, Recipe
from geodistill.tasks.loading import ModelSource


@dataclass(frozen=True)
class FinishedRun:
    """A run that `geodistill train` finished.

    recipe: the run's, with the overrides laid over it
    given: the overrides by their dotted paths
    results: what the run measured
    """

    folder: Path
    recipe: Recipe
    given: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def student(self) -> ModelSource:
        """Where the student is."""
        return ModelSource(str(self.folder / "student"), trust_remote_code=self.recipe.trusts_student)

    @property
    def positions(self) -> int | None:
        """The number of tokens that student and teacher both have positions for; None if that is not known."""
        return self.results.get("positions")

    @property
    def named(self) -> list[str]:
        """The keys of `data` that an override gives."""
        return [dotted.removeprefix("data.") for dotted in self.given if dotted.startswith("data.")]

    @property
    def reads_pairs(self) -> bool | None:
        """Whether the student reads pairs of texts; None if that is not known."""
        read = self.results.get("read", {}).get(TASK_STAGE)
        return None if read is None else "text_pair" in read["columns"]

    @property
    def sessions(self) -> list[str]:
        """The names of the recording sessions that the student was trained on."""
        return [name for name in self.student.config.sessions or {} if name not in self.recipe.data.sessions.unseen]

    @property
    def head(self) -> tuple[Problem, list[str]]:
        """The problem that the student's head solves, and the names of its labels by their numbers.

        A regression has names for its outputs if it has several.
        """
        config = self.student.config
        if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
            return "regression", output_names(config) if config.num_labels > 1 else []
        several = config.problem_type == "multi_label_classification"
        return "multi_label" if several else "classification", output_names(config)
