"""The student before it is distilled: built and, if the recipe says so, fine-tuned on the labels first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, set_seed

from geodistill.distillation.sides import Reader
from geodistill.distillation.students.adapters import Student, adapted_model
from geodistill.distillation.students.build import build_student
from geodistill.files import fingerprint_of, write_json
from geodistill.recipe import Recipe, StudentRecipe
from geodistill.runs.arguments import processes
from geodistill.runs.fine_tune import fine_tune
from geodistill.runs.folder import read_json
from geodistill.runs.identity import student_fingerprint
from geodistill.runs.teacher import PreparedTeacher
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.reading import check_reads
from geodistill.tasks.task import Task, batches, spread

STUDENT_FILE = "student.json"
SAMPLED_TEXTS = 1024  # training texts whose tokens decide the directions that a new student's embeddings keep


def start_student(
    recipe: Recipe, teacher: PreparedTeacher, own_reader: Reader | None, folder: Path, *, progress: bool = True
) -> Student:
    """Return the student that a run begins with; `own_reader` is its reader, None if it reads with the teacher's.

    With `student.training` it is fine-tuned by that section, its seed too, and kept in `folder`, under a name of its
    own, where every run of the same student, teacher and data finds it again. Adapters are put on afterwards.
    """
    start = trained_start(recipe, teacher, own_reader, folder, progress=progress)
    return build_start(start, teacher, own_reader, recipe.training.seed)


def trained_start(
    recipe: Recipe, teacher: PreparedTeacher, own_reader: Reader | None, folder: Path, *, progress: bool
) -> StudentRecipe:
    """Return what the student of a run is built from: as the recipe says, or the folder that it was fine-tuned into."""
    if recipe.student.training is None:
        return recipe.student
    fingerprint = student_fingerprint(recipe, teacher.task)
    folder = folder / fingerprint[:12]
    with processes().main_process_first():
        record = read_json(folder / STUDENT_FILE) if (folder / STUDENT_FILE).is_file() else {}
        found = record.get("fingerprint") == fingerprint
    if not found:
        fine_tune_student(recipe, teacher, own_reader, folder, fingerprint, progress=progress)
    return StudentRecipe(model=str(folder), lora=recipe.student.lora, trust_remote_code=recipe.trusts_student)


def kept_start(start: StudentRecipe, recipe: Recipe, student: Student, folder: Path) -> StudentRecipe:
    """Write a student that was made out of its teacher to the disk, and return how to begin with it: the process of a
    run then does not load the teacher.

    A student that comes with code is made by its run, because only the teacher tells its class.
    """
    if start.model is not None or not isinstance(student, PreTrainedModel) or recipe.trusts_student:
        return start
    place = folder / f"start-{fingerprint_of(start.model_dump(mode='json'), recipe.training.seed)[:12]}"
    student.save_pretrained(place)
    return StudentRecipe(model=str(place))


def fine_tune_student(
    recipe: Recipe,
    teacher: PreparedTeacher,
    own_reader: Reader | None,
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
    student = adapted_model(build_start(plain, teacher, own_reader, training.seed))
    reader, encoded = teacher.as_read_by(student, own_reader)
    _, seconds = fine_tune(
        student,
        reader,
        teacher.task,
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


def build_start(start: StudentRecipe, teacher: PreparedTeacher, own_reader: Reader | None, seed: int) -> Student:
    """Build a student."""
    # Its teacher's weights are read only if the student is made out of them.
    source = teacher.outline if start.model is not None else teacher.model
    reader = teacher.reader if own_reader is None else own_reader
    sample, head = embedding_sample(teacher), teacher.task.student_head
    load = partial(load_by_name, start, teacher.task) if teacher.task.loads_students else None
    student = build_student(start, source, seed=seed, sample=sample, probe=reader.probe(), head=head, load=load)
    if own_reader is not None:
        own_reader.configure(adapted_model(student), always=True)
    check_reads(adapted_model(student), reader)
    return student


def load_by_name(start: StudentRecipe, task: Task, name: str) -> PreTrainedModel:
    """Let the task load or make a student."""
    return task.load_model(ModelSource(name, start.revision, start.trust_remote_code), new_head=True)


def embedding_sample(teacher: PreparedTeacher) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of at most `SAMPLED_TEXTS` training texts, evenly spread over the split, as the teacher reads them.

    The principal directions of the embeddings of a new student are taken from these tokens (`rotate_embeddings`).
    """
    yield from batches(spread(teacher.encoded["train"], SAMPLED_TEXTS), teacher.reader, batch_size=64)
