"""`geodistill evaluate`: a finished run's student on a split of the run's data, or on other data of the same task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geodistill.data.neural import sessions_to_score
from geodistill.data.scoring import (
    COLUMN_FIELDS,
    images_to_score,
    instructions_to_score,
    pairs_to_score,
    rows_to_score,
)
from geodistill.distillation.devices import telling_of_memory
from geodistill.distillation.sides import Side
from geodistill.errors import GeodistillError, suggest
from geodistill.files import write_lines
from geodistill.recipe import GenerationRecipe
from geodistill.runs.arguments import run_device, send
from geodistill.runs.finished import FinishedRun, open_run, refuse_others, student_head, trained_sessions
from geodistill.runs.folder import RECIPE
from geodistill.runs.recipe_file import load_recipe
from geodistill.runs.teacher import as_given, load_teacher, load_teacher_reader
from geodistill.tasks.choose import task_of
from geodistill.tasks.classification import Classification
from geodistill.tasks.embeddings import Embeddings
from geodistill.tasks.images import Images
from geodistill.tasks.instructions import InstructionFollowing
from geodistill.tasks.neural import Neural
from geodistill.tasks.task import ALL, Task

PREDICTIONS = "predictions.jsonl"

OTHER_DATA = ("data.source", "data.configuration", "data.limit")
PROMPTS = ("data.prompt", "data.max_prompt_length", "generation.*")
COLUMNS = {
    "classification": ("data.metrics", "data.text", "data.text_pair", "data.label"),
    "images": ("data.metrics", "data.image", "data.label"),
    "instructions": ("data.instruction", "data.input", "data.output", "data.messages", *PROMPTS),
    "embeddings": ("data.metrics", "data.columns.student", "data.columns.teacher", "data.label"),
    "neural": ("data.metrics", "data.sessions.lfp", "data.sessions.behaviour", "data.sessions.adaptation_steps"),
}
WITHOUT_TEXTS = ("images", "neural")
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
    task = _other_data(run, split) if other else _own_data(run)
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
    if other and run.recipe.task != "neural":  # whose splits are blocks of time
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
    task = run.recipe.task
    length = () if task in WITHOUT_TEXTS else ("data.max_length",)
    if not other:
        useful = ["data.limit", *length, *(PROMPTS if task == "instructions" else ["data.metrics"])]
        cut = "it would cut other splits, and the student was trained on some of their rows"
        columns = "it chooses a column of other data, which data.source names"
        why = {f"data.{key}": cut for key in (*SPLIT_KEYS, *SPLIT_NAMES, "problem")}
        why |= {f"data.{key}": columns for key in (*COLUMN_FIELDS, "configuration")}
        return ["data.source", *useful], why
    useful = [*OTHER_DATA, *length, *COLUMNS[task]]
    if task == "neural":
        useful.remove("data.configuration")
    why = {f"data.{key}": "nothing is cut from other data" for key in SPLIT_KEYS}
    why |= {f"data.{key}": "a split of other data is chosen with --split" for key in SPLIT_NAMES}
    why["data.problem"] = "the student's head says what its problem is"
    if task != "neural" and _is_local(run.recipe.data.source):
        useful.remove("data.configuration")
        why["data.configuration"] = "only a data set of the hub has configurations"
    return useful, why


def _is_local(source: str) -> bool:
    return source.startswith(("bundled:", "glue/")) or Path(source).expanduser().exists()


def _own_data(run: FinishedRun) -> Task:
    """Return the task on the run's own data.

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
    return task_of(run.recipe) if run.given else task


def _undefined(metrics: Mapping[str, float], lines: Sequence[dict[str, Any]]) -> list[str]:
    """Tell which metrics say nothing, since the references do not differ."""
    names = [name for name in metrics if name in NEED_A_DIFFERENCE]
    if not names or len({str(line["reference"]) for line in lines}) > 1:
        return []
    return [f"All references are the same, and {' and '.join(names)} can tell nothing then: the value is 0."]


def _other_data(run: FinishedRun, split: str | None) -> Task:
    """Return the task on other data than the run's own, without the run's choice of rows from its own."""
    named = run.named
    own = {key: None for key in ("configuration", "limit") if key not in named}
    data = run.recipe.data.model_copy(update=own)
    if run.recipe.task == "instructions":
        generation: GenerationRecipe = run.recipe.generation
        if "generation.limit" not in run.given:
            generation = generation.model_copy(update={"limit": None})
        return InstructionFollowing(instructions_to_score(data, split=split, named=named), data, generation)
    if run.recipe.task == "embeddings":
        own_task = _own_data(replace(run, given={}))  # as the run read it
        assert isinstance(own_task, Embeddings)
        length = min(own_task.examples.max_length, run.positions or own_task.examples.max_length)
        fitted_on = replace(own_task.examples, max_length=length)
        pairs = pairs_to_score(data, own_task.examples, split=split, named=named)
        return Embeddings(pairs, data.metrics, fitted_on=fitted_on)
    if run.recipe.task == "neural":
        all_read = data.model_copy(update={"sessions": data.sessions.model_copy(update={"unseen": []})})
        sessions = sessions_to_score(all_read, trained_sessions(run))
        return Neural(sessions, data.metrics, adaptation_steps=data.sessions.adaptation_steps, fitted="train")
    problem, names = student_head(run)
    scored = list(run.results["metrics"])
    if run.recipe.task == "images":
        return Images(images_to_score(data, label_names=names, split=split, named=named, metrics=scored))
    rows = rows_to_score(
        data,
        problem=problem,
        label_names=names,
        split=split,
        named=named,
        pairs=run.reads_pairs,
        metrics=scored,
    )
    return Classification(rows)


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    if path.is_dir():
        raise GeodistillError(f"'{path}' is a folder, not a file.", "Give --output the name of a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines(path, lines)
