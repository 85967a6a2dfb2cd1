"""The teacher of a run: loaded as it is, or fine-tuned on the data first and kept in the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from geodistill.data.models import resolve_model
from geodistill.files import fingerprint_of, fingerprint_of_side, write_json
from geodistill.recipe import TeacherRecipe
from geodistill.tasks.arguments import processes
from geodistill.tasks.fine_tune import fine_tune
from geodistill.tasks.loading import load_tokenizer, pad_as
from geodistill.tasks.positions import shared_position_limit
from geodistill.tasks.run_folder import read_json
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


def teacher_fingerprint(recipe: TeacherRecipe, task: Task) -> str:
    """Identify a teacher by its weights and, when it is fine-tuned first, by how and on what."""
    training = recipe.training.model_dump() if recipe.training else None
    return fingerprint_of(fingerprint_of_side(resolve_model(recipe.model)), training, task.fingerprint)


def prepare_teacher(recipe: TeacherRecipe, task: Task, folder: Path, *, progress: bool = True) -> TaughtTask:
    """Load the teacher, fine-tuning it first when the recipe says so, and score it on the test split.

    What is fine-tuned is kept in `folder` and used again by whatever has the same fingerprint.
    """
    fingerprint = teacher_fingerprint(recipe, task)
    if recipe.training is not None:
        with processes().main_process_first():
            found = (folder / TEACHER_FILE).is_file() and read_json(folder / TEACHER_FILE)["fingerprint"] == fingerprint
        if not found:
            fine_tune_teacher(recipe, task, folder, fingerprint, progress=progress)
    name = str(folder) if recipe.training is not None else recipe.model
    trust = recipe.trust_remote_code
    revision = None if recipe.training is not None else recipe.revision
    model = task.load_model(name, new_head=False, revision=revision, trust=trust, weights=recipe.weights)
    tokenizer = load_tokenizer(name, revision=revision, trust=trust)
    pad_as(model, tokenizer)
    encoded = task.encode(model, tokenizer)
    record = read_json(Path(name) / TEACHER_FILE) if (Path(name) / TEACHER_FILE).is_file() else {}
    if record.get("data") == task.fingerprint:
        scores = Scores(metrics=record["metrics"], notes=record.get("notes", []))
    else:
        scores = score_teacher(model, tokenizer, task, encoded, progress)
    origin = record.get("model", recipe.model)
    return TaughtTask(model, tokenizer, task, encoded, scores, record.get("training_seconds"), origin, name)


def fine_tune_teacher(recipe: TeacherRecipe, task: Task, folder: Path, fingerprint: str, *, progress: bool) -> None:
    """Fine-tune a model of the task on the train split, score it, and note in the folder how it came about."""
    assert recipe.training is not None
    trust = recipe.trust_remote_code
    set_seed(recipe.training.seed)  # the new head is drawn next
    model = task.load_model(recipe.model, new_head=True, revision=recipe.revision, trust=trust)
    tokenizer = load_tokenizer(recipe.model, revision=recipe.revision, trust=trust)
    pad_as(model, tokenizer)
    encoded = task.encode(model, tokenizer)
    model, seconds = fine_tune(
        model, tokenizer, task, encoded, recipe.training, folder, name="teacher", progress=progress
    )
    if processes().is_main_process:
        scores = score_teacher(model, tokenizer, task, encoded, progress)
        record: dict[str, Any] = {
            "model": recipe.model,
            "metrics": scores.metrics,
            "notes": scores.notes,
            "training_seconds": seconds,
            "data": task.fingerprint,
        }
        write_json(folder / TEACHER_FILE, {"fingerprint": fingerprint, **record})
    processes().wait_for_everyone()


def score_teacher(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, encoded: Encoded, progress: bool
) -> Scores:
    """Score the teacher on the test split; no metrics when the data has no labels."""
    return task.score(model, tokenizer, encoded, "test", progress=progress) if task.labelled else Scores()
