"""The teacher of a run: loaded unchanged, or fine-tuned on the data first and kept in the run folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel, set_seed

from geodistill.data.bundled.models import resolve_model
from geodistill.distillation.sides import Reader, Side
from geodistill.distillation.size_and_speed import count_parameters, size_in_megabytes
from geodistill.files import fingerprint_of, read_lines, with_nan, write_json, write_lines
from geodistill.recipe import TeacherRecipe
from geodistill.runs.arguments import placed, processes, run_device
from geodistill.runs.fine_tune import fine_tune
from geodistill.runs.folder import TEST_PREDICTIONS, read_json
from geodistill.runs.identity import teacher_fingerprint, teacher_side
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.reading import check_reads
from geodistill.tasks.task import Encoded, Scores, Task
from geodistill.tasks.text_reader import shared_position_limit

TEACHER_FILE = "teacher.json"


@dataclass
class PreparedTeacher:
    """A teacher that is ready, with the data as it reads them. A process that it is sent to gets no weights, and loads
    them only if it asks for the model.

    task, reader, encoded: the data of the task, and how the teacher reads them
    scores: on the test split; empty when the data has no labels
    training_seconds: of its fine-tuning
    name: the model that the recipe named, before any fine-tuning
    given: the teacher section of a recipe, of the teacher as it is now: a folder, or a hub name
    fingerprint: of the teacher as it answers: its files, and how they are loaded and run
    """

    task: Task
    reader: Reader
    encoded: Encoded
    scores: Scores
    training_seconds: float | None
    name: str
    given: TeacherRecipe
    fingerprint: str
    kind: type[PreTrainedModel]
    config: PretrainedConfig
    parameters: int
    megabytes: float
    latency_ms: float | None = None

    @cached_property
    def model(self) -> PreTrainedModel:
        return load_teacher(self.given, self.task, self.reader)

    @cached_property
    def outline(self) -> PreTrainedModel:
        """The teacher, or a model of its layers, names and config that has no weights."""
        return self.model if "model" in vars(self) else outline_of(self.kind, self.config)

    @property
    def folder(self) -> str:
        """Where the teacher's files are: a folder, or a hub name."""
        return self.given.model

    @property
    def precision(self) -> Literal["auto", "float32", "bfloat16"]:
        """In which the teacher answers."""
        return self.given.precision

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("model", "outline")}

    def as_read_by(self, student: PreTrainedModel, own_reader: Reader | None) -> tuple[Reader, Encoded]:
        """Return the reader of a student, or for None the teacher's, and the data as it reads them."""
        positions = shared_position_limit(student, self.outline)
        if own_reader is None:
            return self.reader, self.encoded_within(positions)
        return own_reader, self.task.encode(student, own_reader, positions=positions)

    def encoded_within(self, positions: int) -> Encoded:
        """Return the data as the teacher reads them, cut where a student's positions end."""
        firsts = [examples[0] for examples in self.encoded.values() if len(examples)]
        if all(self.reader.length(first) is None for first in firsts):
            return self.encoded
        lengths = (self.reader.length(example) for examples in self.encoded.values() for example in examples)
        if all(length is None or length <= positions for length in lengths):
            return self.encoded
        return self.task.encode(self.outline, self.reader, positions=positions)


def outline_of(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Make a model of a class and a config that has all layers and names and no weights: its tensors hold no data."""
    with torch.device("meta"):
        return kind(config).eval()


def load_teacher_reader(given: TeacherRecipe, task: Task) -> Reader:
    """Load what reads for a teacher."""
    return task.load_reader(ModelSource.of_teacher(given))


def load_teacher(given: TeacherRecipe, task: Task, reader: Reader) -> PreTrainedModel:
    """Load a teacher that needs no fine-tuning."""
    model = task.load_model(ModelSource.of_teacher(given), new_head=False)
    reader.configure(model)
    check_reads(model, reader)
    return model


def prepare_teacher(recipe: TeacherRecipe, task: Task, folder: Path, *, progress: bool = True) -> PreparedTeacher:
    """Load the teacher, fine-tuning it first when the recipe says so, and score it on the test split.

    What is fine-tuned is kept in `folder` and used again by whatever has the same fingerprint. So are the scores, of a
    given teacher too, with the fingerprint of the settings that they were made under.
    """
    given = recipe
    if recipe.training is not None:
        fingerprint = teacher_fingerprint(recipe, task)
        with processes().main_process_first():
            found = read_record(folder).get("fingerprint") == fingerprint
        if not found:
            fine_tune_teacher(recipe, task, folder, fingerprint, progress=progress)
        given = as_given(recipe, str(folder))
    reader = load_teacher_reader(given, task)
    model = load_teacher(given, task, reader)
    encoded = task.encode(model, reader)
    if task.asks_teacher and processes().is_main_process:  # which alone scores
        with placed(model, run_device()):
            task.ask(Side(model, reader), encoded)
    side = teacher_side(given, resolve_model(given.model))
    record = read_record(Path(resolve_model(given.model)))
    with processes().main_process_first():
        places = [Path(resolve_model(given.model)), folder]
        found = next((place for place in places if has_scores(place, side, task)), None)
        if found is not None:
            scores = kept_scores(found)
        else:
            with placed(model, run_device()):
                scores = score_teacher(model, reader, task, encoded, progress)
        if found != folder and processes().is_main_process:
            keep_scores(folder, side, task, scores)
    prepared = PreparedTeacher(
        task=task,
        reader=reader,
        encoded=encoded,
        scores=replace(scores, lines=[]),  # they are in the folder
        training_seconds=record.get("training_seconds"),
        name=record.get("model", recipe.model),
        given=given,
        fingerprint=side,
        kind=type(model),
        config=model.config,
        parameters=count_parameters(model),
        megabytes=size_in_megabytes(model),
    )
    prepared.model = model
    return prepared


def as_given(recipe: TeacherRecipe, folder: str) -> TeacherRecipe:
    """Return the section of a teacher that was fine-tuned into a folder: a revision is of the model before that."""
    if recipe.training is None:
        return recipe.model_copy(update={"model": folder})
    return recipe.model_copy(update={"model": folder, "training": None, "revision": None})


def fine_tune_teacher(recipe: TeacherRecipe, task: Task, folder: Path, fingerprint: str, *, progress: bool) -> None:
    """Fine-tune a model of the task on the train split, and note in the folder how it came about."""
    assert recipe.training is not None
    set_seed(recipe.training.seed)  # the new head is drawn next
    # Whatever it answers in, it learns in float32.
    model = task.load_model(replace(ModelSource.of_teacher(recipe), weights="float32"), new_head=True)
    reader = load_teacher_reader(recipe, task)
    reader.configure(model)
    encoded = task.encode(model, reader)
    _, seconds = fine_tune(
        model,
        reader,
        task,
        encoded,
        recipe.training,
        folder,
        name="teacher",
        identity=fingerprint,
        progress=progress,
    )
    if processes().is_main_process:
        record = {"fingerprint": fingerprint, "model": recipe.model, "training_seconds": seconds}
        write_json(folder / TEACHER_FILE, record)
    processes().wait_for_everyone()


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a folder says of its teacher: how it was fine-tuned, and its scores; empty when it says nothing."""
    return read_json(folder / TEACHER_FILE) if (folder / TEACHER_FILE).is_file() else {}


def has_scores(folder: Path, side: str, task: Task) -> bool:
    """Tell whether a folder has scores of this teacher, on these examples, made in this way."""
    return read_record(folder).get("scoring") == fingerprint_of(side, task.scoring)


def kept_scores(folder: Path) -> Scores:
    """Read a teacher's scores, and what it answered, from the folder that has them."""
    record = read_record(folder)
    return Scores(with_nan(record["metrics"]), lines=read_lines(folder / TEST_PREDICTIONS), notes=record["notes"])


def keep_scores(folder: Path, side: str, task: Task, scores: Scores) -> None:
    """Write a teacher's scores beside what its record in the folder says already, and what it answered."""
    if task.labelled:
        folder.mkdir(parents=True, exist_ok=True)
        made = {"scoring": fingerprint_of(side, task.scoring), "metrics": scores.metrics, "notes": scores.notes}
        write_lines(folder / TEST_PREDICTIONS, scores.lines)
        write_json(folder / TEACHER_FILE, {**read_record(folder), **made})


def score_teacher(model: PreTrainedModel, reader: Reader, task: Task, encoded: Encoded, progress: bool) -> Scores:
    """Score the teacher on the test split; no metrics when the data has no labels."""
    return task.score(model, reader, encoded, "test", progress=progress) if task.labelled else Scores()
