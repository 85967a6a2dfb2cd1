"""Opening a finished run for `evaluate` and `predict`, and refusing overrides that would change nothing there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, GenerationRecipe, Recipe
from geodistill.runs.folder import RECIPE, RESULTS, read_json
from geodistill.runs.recipe_file import check_recipe, read_yaml, set_dotted, split_override
from geodistill.tasks.finished_run import FinishedRun

USED = {"data": DataRecipe, "generation": GenerationRecipe}


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
