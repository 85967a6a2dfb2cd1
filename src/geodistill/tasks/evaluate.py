"""`geodistill evaluate`: a finished run's student on a split of its data, or on other data of the same task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geodistill.distillation.memory import telling_of_memory
from geodistill.errors import GeodistillError, suggest
from geodistill.files import json_text, write_text
from geodistill.recipe_file import load_recipe
from geodistill.tasks.arguments import run_device, send
from geodistill.tasks.choose import task_of
from geodistill.tasks.loading import load_tokenizer
from geodistill.tasks.run_folder import RECIPE, RESULTS
from geodistill.tasks.task import ALL

PREDICTIONS = "predictions.jsonl"


@telling_of_memory()
def evaluate(
    folder: Path, overrides: Sequence[str] = (), *, split: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Score the student on a split, write a line for each example to predictions.jsonl, and return the scores.

    `split` is `train`, `validation`, `test` or `all`; by default `test`, and `all` of another file
    (`data.source=FILE`). What a line holds is the task's: see its `score`. The labels of other data are matched to
    the student's by name.

    Raises GeodistillError when the folder is no finished run of a single student, or there is no such split.
    """
    if not (folder / RESULTS).is_file() or not (folder / "student").is_dir():
        raise GeodistillError(
            f"'{folder}' is not the folder of a finished run.",
            f"Give a folder with {RESULTS} and student/, as 'geodistill train' writes it; a comparison has one for "
            "each run under runs/.",
        )
    recipe = load_recipe(folder / RECIPE, overrides)
    task = task_of(recipe)
    trust = recipe.trusts_student
    student = send(task.load_model(str(folder / "student"), new_head=False, trust=trust), run_device())
    tokenizer = load_tokenizer(str(folder / "student"), trust=trust)
    encoded = task.encode(student, tokenizer)
    if split is None:
        other = any(override.startswith("data.source=") for override in overrides)
        split = ALL if other and Path(recipe.data.source).expanduser().is_file() else "test"
    if split not in (*encoded, ALL):
        raise GeodistillError(f"There is no split '{split}'.", suggest(split, [*encoded, ALL]))
    scores = task.score(student, tokenizer, encoded, split, progress=progress)
    lines = [json_text(line) for line in scores.lines]
    write_text(folder / PREDICTIONS, "\n".join(lines) + "\n")
    return {
        "split": split,
        "examples": len(lines),
        "metrics": scores.metrics,
        "details": scores.details,
        "notes": [f"The student {note}." for note in scores.notes],
        "predictions": str(folder / PREDICTIONS),
    }
