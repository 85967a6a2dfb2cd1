"""The student before it is distilled: built and, where the recipe says so, fine-tuned on the labels first."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from geodistill.distillation.adapters import Student, adapted_model
from geodistill.distillation.student import build_student
from geodistill.recipe import Recipe, StudentRecipe
from geodistill.tasks.arguments import processes
from geodistill.tasks.fine_tune import fine_tune
from geodistill.tasks.run_folder import fingerprint_of, write_json
from geodistill.tasks.teacher import TaughtTask, teacher_fingerprint

STUDENT_FILE = "student.json"


def start_student(
    recipe: Recipe, taught: TaughtTask, tokenizer: PreTrainedTokenizerBase, folder: Path, *, progress: bool = True
) -> Student:
    """Return the student that a run begins with; `tokenizer` is the one that it reads with, its own or the teacher's.

    With `student.training` it is fine-tuned by that section, its seed too, and kept in `folder`, under a name of its
    own, where every run of the same student, teacher and data finds it again. Adapters are put on afterwards.
    """
    own, trust = recipe.student, recipe.teacher.trust_remote_code
    if own.training is not None:
        teacher = teacher_fingerprint(recipe.teacher, taught.task)
        identity = own.model_dump(mode="json", exclude={"lora"})
        fingerprint = fingerprint_of(identity, teacher, taught.task.fingerprint)
        folder = folder / fingerprint[:12]
        with processes().main_process_first():
            found = (folder / STUDENT_FILE).is_file()
        if not found:
            fine_tune_student(recipe, taught, tokenizer, folder, fingerprint, progress=progress)
        own = StudentRecipe(model=str(folder), lora=own.lora)
    student = build_student(own, taught.model, seed=recipe.training.seed, trust_remote_code=trust)
    if tokenizer is not taught.tokenizer:
        adapted_model(student).config.pad_token_id = tokenizer.pad_token_id
    return student


def fine_tune_student(
    recipe: Recipe,
    taught: TaughtTask,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    fingerprint: str,
    *,
    progress: bool,
) -> None:
    """Fine-tune a student, without adapters, on the train split, and note in the folder how it came about."""
    training = recipe.student.training
    assert training is not None
    plain = recipe.student.model_copy(update={"training": None, "lora": None})
    set_seed(training.seed)
    start = recipe.model_copy(update={"student": plain, "training": training})
    student = start_student(start, taught, tokenizer, folder)
    assert isinstance(student, PreTrainedModel)
    shared = tokenizer is taught.tokenizer
    encoded = taught.encoded if shared else taught.task.encode(student, tokenizer)
    _, seconds = fine_tune(
        student, tokenizer, taught.task, encoded, training, folder, name="student", progress=progress
    )
    if processes().is_main_process:
        write_json(folder / STUDENT_FILE, {"fingerprint": fingerprint, "training_seconds": seconds})
    processes().wait_for_everyone()
