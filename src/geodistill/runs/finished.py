"""A finished run as `evaluate` and `predict` use it: its recipe, its student, and the overrides that mean something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodistill.data.labels import Problem
from geodistill.distillation.students.head_labels import output_names
from geodistill.errors import GeodistillError
from geodistill.recipe import TASK_STAGE, DataRecipe, GenerationRecipe, Recipe
from geodistill.runs.folder import RECIPE, RESULTS, read_json
from geodistill.runs.recipe_file import check_recipe, read_yaml, set_dotted, split_override
from geodistill.tasks.loading import ModelSource

USED = {"data": DataRecipe, "generation": GenerationRecipe}


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


def open_run(folder: Path, overrides: Sequence[str] = ()) -> FinishedRun:
    """Read a finished run, and lay overrides of its sections `data` and `generation` over its recipe.

    Raises GeodistillError for a folder that holds no finished run of a single student, and for an override of a section
    that only training reads.
    """
    if not (folder / RESULTS).is_file() or not (folder / "student").is_dir():
        raise GeodistillError(
            f"'{folder}' is not the folder of a finished run.",
            f"Give a folder with {RESULTS} and student/, as 'geodistill train' writes it; a comparison has one for "
            "each run under runs/.",
        )
    given: dict[str, Any] = {}
    for override in overrides:
        dotted, value = split_override(override)
        section = dotted.partition(".")[0]
        if section in Recipe.model_fields and section not in USED:
            raise GeodistillError(
                f"'{dotted}' has no effect here: it says how a student is trained, and this run is finished.",
                "Leave it out, or train another run with it.",
            )
        # A section as a whole stands for its keys: what it does not name stays as the run has it.
        whole = dotted in USED and isinstance(value, Mapping)
        given |= {f"{dotted}.{key}": each for key, each in value.items()} if whole else {dotted: value}
    content = read_yaml(folder / RECIPE)
    for dotted, value in given.items():
        content = set_dotted(content, dotted, value)
    return FinishedRun(folder, check_recipe(content, str(folder / RECIPE)), given, read_json(folder / RESULTS))


def refuse_others(run: FinishedRun, useful: Sequence[str], why: Mapping[str, str] | None = None) -> None:
    """Raise GeodistillError for an override that is not of these paths; `section.*` stands for all keys of a section.

    `why` has the reason for some of the others.
    """
    for dotted in run.given:
        section = dotted.partition(".")[0]
        if dotted in useful or f"{section}.*" in useful:
            continue
        reason = (why or {}).get(dotted) or f"a run of the task '{run.recipe.task}' does not read it here"
        raise GeodistillError(f"'{dotted}' cannot be overridden here: {reason}.", f"Valid: {', '.join(useful)}.")


def trained_sessions(run: FinishedRun) -> list[str]:
    """Return the names of the recording sessions that a student was trained on."""
    return [name for name in run.student.config.sessions or {} if name not in run.recipe.data.sessions.unseen]


def student_head(run: FinishedRun) -> tuple[Problem, list[str]]:
    """Return the problem that the student's head solves, and the names of its labels by their numbers.

    A regression has names for its outputs if it has several.
    """
    config = run.student.config
    if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
        return "regression", output_names(config) if config.num_labels > 1 else []
    several = config.problem_type == "multi_label_classification"
    return "multi_label" if several else "classification", output_names(config)
