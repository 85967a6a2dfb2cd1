"""The teacher of a run: loaded as it is, or fine-tuned on the data first and kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from geodistill.data.bundled.models import resolve_model
from geodistill.files import fingerprint_of, with_nan, write_json
from geodistill.recipe import TeacherRecipe
from geodistill.runs.arguments import placed, processes, run_device
from geodistill.runs.fine_tune import fine_tune
from geodistill.runs.folder import read_json
from geodistill.runs.identity import teacher_fingerprint, teacher_side
from geodistill.tasks.loading import load_tokenizer, pad_as
from geodistill.tasks.positions import shared_position_limit
from geodistill.tasks.task import Encoded, Scores, Task

TEACHER_FILE = "teacher.json"


@dataclass(frozen=True)
class TaughtTask:
    """A teacher that is ready, with the data as it reads them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    encoded: Encoded
    scores: Scores
    """On the test split; empty when the data has no labels."""
    training_seconds: float | None
    name: str
    """The model that the recipe named, before any fine-tuning."""
    folder: str
    """Where the teacher's files are: a folder, or a hub name."""
    side: str
    """The fingerprint of the teacher as it answers: its files, and how they are loaded and run."""

    def as_read_by(
        self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedTokenizerBase, Encoded]:
        """Return the tokenizer that a student reads with, None being the teacher's, and the data as it reads them."""
        positions = shared_position_limit(student, self.model)
        if tokenizer is None:
            return self.tokenizer, self.encoded_within(positions)
        return tokenizer, self.task.encode(student, tokenizer, positions=positions)

    def encoded_within(self, positions: int) -> Encoded:
        """Return the data as the teacher reads them, cut where a student's positions end."""
        longest = max(len(example["input_ids"]) for examples in self.encoded.values() for example in examples)
        if longest <= positions:
            return self.encoded
        return self.task.encode(self.model, self.tokenizer, positions=positions)


def prepare_teacher(recipe: TeacherRecipe, task: Task, folder: Path, *, progress: bool = True) -> TaughtTask:
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
    name, revision, trust = given.model, given.revision, given.trust_remote_code
    model = task.load_model(name, new_head=False, revision=revision, trust=trust, weights=recipe.weights)
    tokenizer = load_tokenizer(name, revision=revision, trust=trust)
    pad_as(model, tokenizer)
    encoded = task.encode(model, tokenizer)
    side = teacher_side(given, resolve_model(name))
    record = read_record(Path(resolve_model(name)))
    with processes().main_process_first():
        scores = kept_scores(side, task, [record, read_record(folder)])
        if scores is None:
            with placed(model, run_device()):
                scores = score_teacher(model, tokenizer, task, encoded, progress)
            if processes().is_main_process:
                keep_scores(folder, side, task, scores)
    origin = record.get("model", recipe.model)
    return TaughtTask(model, tokenizer, task, encoded, scores, record.get("training_seconds"), origin, name, side)


def as_given(recipe: TeacherRecipe, folder: str) -> TeacherRecipe:
    """Return the section of a teacher that was fine-tuned into a folder: a revision is of the model before that."""
    if recipe.training is None:
        return recipe.model_copy(update={"model": folder})
    return recipe.model_copy(update={"model": folder, "training": None, "revision": None})


def fine_tune_teacher(recipe: TeacherRecipe, task: Task, folder: Path, fingerprint: str, *, progress: bool) -> None:
    """Fine-tune a model of the task on the train split, and note in the folder how it came about."""
    assert recipe.training is not None
    trust = recipe.trust_remote_code
    set_seed(recipe.training.seed)  # the new head is drawn next
    model = task.load_model(recipe.model, new_head=True, revision=recipe.revision, trust=trust)
    tokenizer = load_tokenizer(recipe.model, revision=recipe.revision, trust=trust)
    pad_as(model, tokenizer)
    encoded = task.encode(model, tokenizer)
    _, seconds = fine_tune(
        model,
        tokenizer,
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


def kept_scores(side: str, task: Task, records: Sequence[Mapping[str, Any]]) -> Scores | None:
    """Return the scores of the first record that were made of this teacher, on these examples, in this way."""
    scoring = fingerprint_of(side, task.scoring)
    for record in records:
        if record.get("scoring") == scoring:
            return Scores(metrics=with_nan(record["metrics"]), notes=record["notes"])
    return None


def keep_scores(folder: Path, side: str, task: Task, scores: Scores) -> None:
    """Write a teacher's scores beside what its record in the folder says already."""
    if task.labelled:
        folder.mkdir(parents=True, exist_ok=True)
        made = {"scoring": fingerprint_of(side, task.scoring), "metrics": scores.metrics, "notes": scores.notes}
        write_json(folder / TEACHER_FILE, {**read_record(folder), **made})


def score_teacher(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, encoded: Encoded, progress: bool
) -> Scores:
    """Score the teacher on the test split; no metrics when the data has no labels."""
    return task.score(model, tokenizer, encoded, "test", progress=progress) if task.labelled else Scores()
