"""What a run, a teacher and a fine-tuned student are known by: all that their result depends on, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from geodistill.data.bundled.models import resolve_model
from geodistill.files import fingerprint_of, fingerprint_of_side
from geodistill.recipe import TASK_STAGE, Recipe, StudentRecipe, TeacherRecipe, TrainingRecipe
from geodistill.tasks.task import Task

ROWS = "the rows that it leads to are in the fingerprint of the data, wherever they come from"
SCORING = "it is in the fingerprint of what the task scores by, as a name or as the default it stands for"
WITHOUT_EFFECT = {
    "Recipe.compare": "it says which runs there are, and nothing of one run",
    "TeacherRecipe.cache": "signals that are read from disk differ by the rounding of cache_dtype alone; whether a "
    "student's images are augmented, which it decides too, is in the fingerprint of a run by itself",
    "TeacherRecipe.cache_limit_gb": "it says when a cache is refused, not what is in it",
    "TrainingRecipe.logging_steps": "it says how often the loss is written down",
    "TrainingRecipe.save_steps": "a training that goes on from a checkpoint ends with the same weights",
    "TrainingRecipe.evaluation_batch_size": "it says how many examples are scored at a time, each for itself",
}
"""Settings, as SECTION.key, that no result depends on, and why: to change them does not make another run."""
SEEN_OTHERWISE = {
    "TeacherRecipe.model": "the files of a folder are in the fingerprint, wherever it lies; of a hub model the name is",
    "StudentRecipe.model": "the files of a folder are in the fingerprint, wherever it lies; of a hub model the name is",
    "DataRecipe.source": ROWS,
    "DataRecipe.configuration": ROWS,
    "DataRecipe.text": ROWS,
    "DataRecipe.text_pair": ROWS,
    "DataRecipe.label": ROWS,
    "DataRecipe.columns": ROWS,
    "DataRecipe.sessions": ROWS,
    "DataRecipe.instruction": ROWS,
    "DataRecipe.input": ROWS,
    "DataRecipe.output": ROWS,
    "DataRecipe.messages": ROWS,
    "DataRecipe.problem": ROWS,
    "DataRecipe.train_split": ROWS,
    "DataRecipe.validation_split": ROWS,
    "DataRecipe.test_split": ROWS,
    "DataRecipe.validation_share": ROWS,
    "DataRecipe.test_share": ROWS,
    "DataRecipe.seed": ROWS,
    "DataRecipe.limit": ROWS,
    "DataRecipe.metrics": SCORING,
    "DataRecipe.prompt": ROWS,
    "DataRecipe.max_length": ROWS,
    "DataRecipe.max_prompt_length": ROWS,
}
"""Settings, as SECTION.key, whose effect is in a fingerprint rather than their value, and where."""


def settings_of(section: Any) -> Any:
    """Return the settings of a recipe, or of a section, that a result depends on, for JSON.

    Those of `WITHOUT_EFFECT` and `SEEN_OTHERWISE` are left out; a new key is in until it is listed there.
    """
    if isinstance(section, BaseModel):
        kind = type(section).__name__
        names = [name for name in type(section).model_fields if not _left_out(f"{kind}.{name}")]
        options = section.model_extra or {}  # of a loss, which has no fields in the recipe
        return {name: settings_of(getattr(section, name)) for name in names} | options | _in_order(section)
    return [settings_of(each) for each in section] if isinstance(section, list) else section


def run_fingerprint(recipe: Recipe, tasks: Mapping[str, Task]) -> str:
    """Identify a run by its settings, its teacher, its student, and the rows of the task and of each stage, by name."""
    task = tasks[TASK_STAGE]
    rows = {name: each.fingerprint for name, each in tasks.items()}
    student = student_side(recipe.student)
    settings = settings_of(recipe)
    sections = [recipe.data, *(stage.data for stage in recipe.stages)]
    if recipe.teacher.cache and any(data and data.augmentation != "none" for data in sections):
        settings["augmented"] = False
    return fingerprint_of(settings, teacher_fingerprint(recipe.teacher, task), student, rows, task.scoring)


def comparison_fingerprint(recipe: Recipe, task: Task) -> str:
    """Identify a comparison by what its runs share: the teacher, the rows of the task, and what it scores by."""
    teacher = [teacher_fingerprint(recipe.teacher, task), recipe.teacher.weights, recipe.teacher.precision]
    return fingerprint_of("compare", teacher, task.fingerprint, task.scoring)


def teacher_fingerprint(recipe: TeacherRecipe, task: Task) -> str:
    """Identify a teacher's weights by the model that it is loaded from and, when it is fine-tuned, by how and on what.

    How the weights are held (`teacher.weights`, `teacher.precision`) changes nothing of what is fine-tuned.
    """
    side = fingerprint_of_side(
        resolve_model(recipe.model), revision=recipe.revision, trust_remote_code=recipe.trust_remote_code
    )
    return side if recipe.training is None else fingerprint_of(side, settings_of(recipe.training), task.fingerprint)


def teacher_side(recipe: TeacherRecipe, folder: str) -> str:
    """Identify a teacher as it answers: the files in a folder, or a hub name, and how they are loaded and run."""
    return fingerprint_of_side(
        folder,
        revision=recipe.revision,
        trust_remote_code=recipe.trust_remote_code,
        weights=recipe.weights,
        precision=recipe.precision,
    )


def student_side(recipe: StudentRecipe) -> str | None:
    """Identify the pretrained model that a student begins with; None for a student that is cut from its teacher or
    new."""
    if recipe.model is None:
        return None
    return fingerprint_of_side(
        resolve_model(recipe.model), revision=recipe.revision, trust_remote_code=recipe.trust_remote_code
    )


def student_fingerprint(recipe: Recipe, task: Task) -> str:
    """Identify a student that is fine-tuned before it is distilled, without the adapters that it gets afterwards."""
    settings = settings_of(recipe.student.model_copy(update={"lora": None}))
    teacher = teacher_fingerprint(recipe.teacher, task)
    return fingerprint_of(settings, student_side(recipe.student), teacher, task.fingerprint)


def _in_order(section: BaseModel) -> dict[str, Any]:
    """The order of a section's rates, of which the first that matches counts: JSON of a fingerprint forgets it."""
    return {"order of rates": list(section.rates)} if isinstance(section, TrainingRecipe) and section.rates else {}


def _left_out(key: str) -> bool:
    return key in WITHOUT_EFFECT or key in SEEN_OTHERWISE
