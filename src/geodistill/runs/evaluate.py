"""`geodistill evaluate`: a finished run's student on a split of the run's data, or on other data of the same task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from geodistill.data.scoring import COLUMN_FIELDS
from geodistill.distillation.devices import telling_of_memory
from geodistill.distillation.sides import Side
from geodistill.errors import GeodistillError, suggest
from geodistill.files import write_lines
from geodistill.runs.arguments import run_device, send
from geodistill.runs.folder import RECIPE
from geodistill.runs.open_run import open_run, refuse_others
from geodistill.runs.recipe_file import load_recipe
from geodistill.runs.teacher import as_given, load_teacher, load_teacher_reader
from geodistill.tasks.choose import TASKS, task_of
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.task import ALL, Task

PREDICTIONS = "predictions.jsonl"
CONFIGURATION = "data.configuration"
NEED_A_DIFFERENCE = ("pearson", "spearman", "matthews_correlation")
SPLIT_KEYS = ("seed", "validation_share", "test_share")
SPLIT_NAMES = ("train_split", "validation_split", "test_split")


@telling_of_memory()
def evaluate(
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    split: str | None = None,
    output: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score the student on a split, write a line for each example to a file, and return the scores.

    Without `data.source` among the overrides the run's own data is read, and the test split has the metrics that the
    run reported. With it, other data is read, and nothing is cut from it: every row of a file, or the named split of a
    folder, a hub name or a bundled set. Labels of other data are matched to the student's labels by name.

    The rotation of embeddings is fitted on training rows of the run, whose data has to be there still. Recordings are
    cut into blocks of time like the run's: patch embeddings of sessions that the student was not trained on, and the
    rotation, are fitted to train blocks.

    Args:
        folder: the folder of a run.
        overrides: dotted keys of the recipe, such as ["data.source=other.csv"].
        split: train, validation, test (the default) or all.
        output: where the lines are written, by default predictions.jsonl in the run folder. A line has `row`, the place
            of the example in its file or split, from 0, what was read, the prediction and the reference.
        progress: show a progress bar.

    Returns:
        A dictionary with `metrics`, and with what was read and where the lines are.

    Raises:
        GeodistillError: the folder is no finished run of a single student, there is no such split, the student does not
            know a label, an override has no effect on the scores, or the run's own data has changed since.

    Example:
        evaluate(Path("runs/mine"), ["data.source=other.csv"])["metrics"]
    """
    run = open_run(folder, overrides)
    other = "data.source" in run.given
    refuse_others(run, *_useful(run, other))
    if other:
        task = _other_data(run, split)
    else:
        task = _own_data(run)
        task = task_of(run.recipe) if run.given else task
    student = send(task.load_model(run.student, new_head=False), run_device())
    reader = task.load_reader(run.student)
    encoded = task.encode(student, reader, positions=run.positions)
    if task.asks_teacher:
        given = run.recipe.teacher
        if given.training is not None:  # what was fine-tuned is kept in the folder of the run
            given = as_given(given, str(folder / "teacher"))
        teacher_reader = load_teacher_reader(given, task)
        teacher = send(load_teacher(given, task, teacher_reader), run_device())
        task.ask(Side(teacher, teacher_reader), task.encode(teacher, teacher_reader, positions=run.positions))
    if other and not task.cuts_other_data:
        split = next(iter(encoded)) if len(encoded) == 1 else ALL
    split = split or "test"
    if split not in (*encoded, ALL):
        raise GeodistillError(f"There is no split '{split}'.", suggest(split, [*encoded, ALL]))
    scores = task.score(student, reader, encoded, split, progress=progress)
    lines = scores.lines
    if whole := other and list(encoded) == [ALL]:
        lines = [{name: value for name, value in line.items() if name != "split"} for line in lines]
    place = output or folder / PREDICTIONS
    replaced = place.is_file()
    _write_lines(place, lines)
    return {
        "source": run.recipe.data.source,
        "split": None if whole else split,
        "examples": len(lines),
        "metrics": scores.metrics,
        "details": scores.details,
        "notes": [
            *task.notes,
            *(f"The student {note}." for note in scores.notes),
            *_undefined(scores.metrics, lines),
        ],
        "predictions": str(place),
        "replaced": replaced,
    }


def _useful(run: FinishedRun, other: bool) -> tuple[list[str], dict[str, str]]:
    """Return the overrides that have an effect on the scores, and for some others why they are refused."""
    task = TASKS[run.recipe.task]
    if not other:
        cut = "it would cut other splits, and the student was trained on some of their rows"
        columns = "it chooses a column of other data, which data.source names"
        why = {f"data.{key}": cut for key in (*SPLIT_KEYS, *SPLIT_NAMES, "problem")}
        why |= {f"data.{key}": columns for key in (*COLUMN_FIELDS, "configuration")}
        return ["data.source", "data.limit", *task.own_keys], why
    useful = ["data.source", "data.limit", *task.other_keys]
    why = {f"data.{key}": "nothing is cut from other data" for key in SPLIT_KEYS}
    why |= {f"data.{key}": "a split of other data is chosen with --split" for key in SPLIT_NAMES}
    why["data.problem"] = "the student's head says what its problem is"
    if CONFIGURATION in useful and _is_local(run.recipe.data.source):
        useful.remove(CONFIGURATION)
        why[CONFIGURATION] = "only a data set of the hub has configurations"
    return useful, why


def _is_local(source: str) -> bool:
    return source.startswith(("bundled:", "glue/")) or Path(source).expanduser().exists()


def _own_data(run: FinishedRun) -> Task:
    """Return the task on the data that the run was trained on, as the run read it.

    Raises GeodistillError if the data is not what it was: its test split may have rows that were trained on.
    """
    recipe = load_recipe(run.folder / RECIPE)
    task = task_of(recipe)
    if task.fingerprint != run.results.get("data_fingerprint", task.fingerprint):
        raise GeodistillError(
            f"The data '{recipe.data.source}' has changed since the run, so its test split is another one, which may "
            "hold rows that the student was trained on.",
            "Restore the data, train another run, or score rows of a file: data.source=FILE.",
        )
    return task


def _undefined(metrics: Mapping[str, float], lines: Sequence[dict[str, Any]]) -> list[str]:
    """Tell which metrics say nothing, since the references do not differ."""
    names = [name for name in metrics if name in NEED_A_DIFFERENCE]
    if not names or len({str(line["reference"]) for line in lines}) > 1:
        return []
    return [f"All references are the same, and {' and '.join(names)} can tell nothing then: the value is 0."]


def _other_data(run: FinishedRun, split: str | None) -> Task:
    """Return the task on other data than the run's own, without the run's choice of rows from its own."""
    own = {key: None for key in ("configuration", "limit") if key not in run.named}
    recipe = run.recipe.model_copy(update={"data": run.recipe.data.model_copy(update=own)})
    loaded: Task = TASKS[recipe.task].of_other_data(replace(run, recipe=recipe), split, partial(_own_data, run))
    return loaded


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    if path.is_dir():
        raise GeodistillError(f"'{path}' is a folder, not a file.", "Give --output the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, lines)
