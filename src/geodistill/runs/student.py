"""The student before it is distilled: built and, where the recipe says so, fine-tuned on the labels first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase, set_seed

from geodistill.distillation.students.adapters import Student, adapted_model
from geodistill.distillation.students.build import build_student
from geodistill.files import write_json
from geodistill.recipe import Recipe, StudentRecipe
from geodistill.runs.arguments import processes
from geodistill.runs.fine_tune import fine_tune
from geodistill.runs.folder import read_json
from geodistill.runs.identity import student_fingerprint
from geodistill.runs.teacher import TaughtTask
from geodistill.tasks.task import batches, spread

STUDENT_FILE = "student.json"
SAMPLED_TEXTS = 1024  # training texts whose tokens decide the directions that a new student's embeddings keep


def start_student(
    recipe: Recipe,
    taught: TaughtTask,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    progress: bool = True,
) -> Student:
    """Return the student that a run begins with; `tokenizer` is its own, None where it reads with the teacher's.

    With `student.training` it is fine-tuned by that section, its seed too, and kept in `folder`, under a name of its
    own, where every run of the same student, teacher and data finds it again. Adapters are put on afterwards.
    """
    own = recipe.student
    if own.training is not None:
        fingerprint = student_fingerprint(recipe, taught.task)
        folder = folder / fingerprint[:12]
        with processes().main_process_first():
            record = read_json(folder / STUDENT_FILE) if (folder / STUDENT_FILE).is_file() else {}
            found = record.get("fingerprint") == fingerprint
        if not found:
            fine_tune_student(recipe, taught, tokenizer, folder, fingerprint, progress=progress)
        own = StudentRecipe(model=str(folder), lora=own.lora, trust_remote_code=recipe.trusts_student)
    return _build(own, recipe, taught, tokenizer, recipe.training.seed)


def fine_tune_student(
    recipe: Recipe,
    taught: TaughtTask,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    fingerprint: str,
    *,
    progress: bool,
) -> None:
    """Fine-tune a student, without adapters, on the train split, and note in the folder how it came about."""
    training = recipe.student.training
    assert training is not None
    set_seed(training.seed)
    plain = recipe.student.model_copy(update={"lora": None})
    student = adapted_model(_build(plain, recipe, taught, tokenizer, training.seed))
    tokenizer, encoded = taught.as_read_by(student, tokenizer)
    _, seconds = fine_tune(
        student,
        tokenizer,
        taught.task,
        encoded,
        training,
        folder,
        name="student",
        identity=fingerprint,
        progress=progress,
    )
    if processes().is_main_process:
        write_json(folder / STUDENT_FILE, {"fingerprint": fingerprint, "training_seconds": seconds})
    processes().wait_for_everyone()


def _build(
    own: StudentRecipe, recipe: Recipe, taught: TaughtTask, tokenizer: PreTrainedTokenizerBase | None, seed: int
) -> Student:
    student = build_student(
        own,
        taught.model,
        seed=seed,
        sample=embedding_sample(taught),
    )
    if tokenizer is not None:
        adapted_model(student).config.pad_token_id = tokenizer.pad_token_id
    return student


def embedding_sample(taught: TaughtTask) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of at most `SAMPLED_TEXTS` training texts, evenly spread over the split, as the teacher reads them.

    The principal directions of the embeddings of a new student are taken from these tokens (`rotate_embeddings`).
    """
    texts = spread(taught.encoded["train"], SAMPLED_TEXTS)
    return batches(texts, taught.task.collator(taught.tokenizer), batch_size=64)
