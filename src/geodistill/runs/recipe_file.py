"""From a YAML file and dotted overrides to a checked recipe, and from a mistake in either to a sentence.

recipe = load_recipe("recipe.yaml", ["training.epochs=3", "objective.features.0.weight=5"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from geodistill.errors import GeodistillError
from geodistill.explain import dotted_path, explain, no_valid_value
from geodistill.features import KINDS
from geodistill.losses import LOSSES
from geodistill.losses.terms import resolve_objective
from geodistill.recipe import ObjectiveRecipe, Recipe, StageRecipe, TrainingRecipe
from geodistill.tasks.choose import TASKS

NEW_STUDENT = ("width", "layers", "heads", "intermediate", "initialization")
OBJECTIVES = ("objective", "teacher_objective")
STUDENT_WAYS = (("model", "revision", "trust_remote_code"), ("teacher_layers",), NEW_STUDENT)


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Recipe:
    """Read a recipe, lay the overrides over it, and check the whole.

    Args:
        recipe: the path of a YAML file, a mapping with the same keys, or a Recipe, which is as checked as can be.
        overrides: `path=value` each, or a mapping of dotted paths to values.

    Raises GeodistillError for a file that is missing or no YAML mapping, an unknown key (the nearest valid one is
    named), a value of the wrong kind, and an override that is not of the form path=value.
    """
    given = dict(overrides if isinstance(overrides, Mapping) else map(split_override, overrides))
    source = "the recipe"
    if isinstance(recipe, Recipe):
        if not given:
            return recipe
        content = recipe.model_dump(mode="json")
    elif isinstance(recipe, Mapping):
        content = dict(recipe)
    else:
        content, source = read_yaml(Path(recipe)), str(recipe)
    return check_recipe(with_overrides(content, given), source)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping."""
    if not path.is_file():
        raise GeodistillError(f"There is no recipe file '{path}'.", "Give the path of a YAML recipe.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GeodistillError(f"{path} is not valid YAML: {error}.", "Fix the file.") from error
    if not isinstance(content, dict):
        raise GeodistillError(f"{path} holds no mapping of keys.", "Start from a recipe in the documentation.")
    return content


def check_recipe(content: Mapping[str, Any], source: str = "the recipe") -> Recipe:
    """Turn a mapping into a Recipe in which all options are filled in, or its first mistake into a GeodistillError."""
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, source) from None
    return check_names(recipe, source)


def check_names(recipe: Recipe, source: str = "the recipe") -> Recipe:
    """Return a recipe with the rows and options of its feature terms filled in, after a check of all names in it.

    The names of tasks, rows, losses and divergences are keys of the dicts, and a loss has the options of its class.
    A recipe that is checked already stays unchanged, so one that was made in Python may be checked again.
    Raises GeodistillError, which names the nearest valid name.
    """
    if recipe.task not in TASKS:
        raise no_valid_value(recipe.task, ["task"], TASKS, source)
    stages = [
        stage.model_copy(update=_check_objectives(recipe.task, stage, source, "stages", place))
        for place, stage in enumerate(recipe.stages)
    ]
    return recipe.model_copy(update={**_check_objectives(recipe.task, recipe, source), "stages": stages})


def _check_objectives(
    task: str, stage: StageRecipe | Recipe, source: str, *section: str | int
) -> dict[str, ObjectiveRecipe]:
    """Return the objectives of a stage, or of the task itself, checked and by their keys."""
    given = {"objective": stage.objective, "teacher_objective": stage.teacher_objective}
    checked = {
        key: _check_objective(task, objective, source, [*section, key])
        for key, objective in given.items()
        if objective is not None
    }
    for objective in checked.values():
        _check_accumulation(stage.training, objective, source, *section)
    return checked


def _check_objective(task: str, objective: ObjectiveRecipe, source: str, at: list[str | int]) -> ObjectiveRecipe:
    terms = [
        term.model_copy(update={"rows": default_rows(task, term.loss)}) if term.rows is None else term
        for term in objective.features
    ]
    for place, term in enumerate(terms):
        if term.loss in LOSSES and LOSSES[term.loss].reads_logits and TASKS[task].scores_tokens:
            raise GeodistillError(
                f"'{dotted_path([*at, 'features', place, 'loss'])}' in {source} is '{term.loss}', which compares the "
                f"logits of examples, and those of the task '{task}' are of tokens.",
                "Choose another loss, such as cka.",
            )
        keys = [*at, "features", place, "rows"]
        if term.rows not in (None, *KINDS):
            raise no_valid_value(term.rows, keys, KINDS, source)
        if term.rows is not None and term.rows not in TASKS[task].kinds:
            raise no_valid_value(term.rows, keys, TASKS[task].kinds, source)
    return resolve_objective(objective.model_copy(update={"features": terms}), source=source, at=at)


def default_rows(task: Any, loss: Any) -> str | None:
    """Return the kind of rows that a loss compares in a task if a recipe names none; None for names of neither."""
    if task not in TASKS or loss not in LOSSES:
        return None
    # "tokens" is what a loss says that takes rows of any kind, and images have none.
    return TASKS[task].compares if LOSSES[loss].rows == "tokens" else LOSSES[loss].rows


def _check_accumulation(training: TrainingRecipe, objective: ObjectiveRecipe, source: str, *section: str | int) -> None:
    """Refuse what a trainer would refuse at its start, which is after the teacher was fine-tuned."""
    if not training.exact_accumulation or training.gradient_accumulation == 1:
        return
    for term in objective.features:
        if not LOSSES[term.loss].adds_up(str(term.rows)):
            raise GeodistillError(
                f"'{dotted_path([*section, 'training', 'exact_accumulation'])}' in {source} cannot add up the rows "
                f"'{term.rows}' that '{term.loss}' compares.",
                "Set it to false, or choose other rows and losses, such as gram with positions or pooled.",
            )


def split_override(override: str) -> tuple[str, Any]:
    """Split `path=value`; the value is read as YAML, so numbers, lists, null and true mean what they look like."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise GeodistillError(f"'{override}' is no override.", "Write path=value, such as training.epochs=3.")
    try:
        # YAML 1.1 reads 1e-3 as a string, which nobody means.
        return dotted, float(text) if _is_exponent(text) else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GeodistillError(f"The value of '{override}' is not valid YAML.", "Quote it.") from error


def with_overrides(content: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a recipe's content with the values at these dotted paths.

    A recipe that was written in full names the rows of each term. Rows that are the default of its loss follow a new
    loss, unless they are given too.
    """
    result = dict(content)
    for dotted, value in given.items():
        parent, _, key = dotted.rpartition(".")
        term = value_at(content, parent)
        if key == "loss" and f"{parent}.rows" not in given and isinstance(term, Mapping):
            task = content.get("task", Recipe.model_fields["task"].default)
            if term.get("rows") == default_rows(task, term.get("loss")):
                result = set_dotted(result, f"{parent}.rows", None)
        result = set_dotted(result, dotted, value)
    return result


def value_at(content: Any, dotted: str) -> Any:
    """Return what is at a dotted path, in which a number is a place in a list; None if nothing is there."""
    for key in dotted.split("."):
        if isinstance(content, list):
            content = content[int(key)] if key.isdigit() and int(key) < len(content) else None
        else:
            content = content.get(key) if isinstance(content, Mapping) else None
    return content


def set_dotted(content: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Return a copy with the value at a dotted path, where a number is a place in a list; sections appear as needed."""
    result: dict[str, Any] = deepcopy(dict(content))
    *path, last = dotted.split(".")
    place: Any = result
    for position, key in enumerate(path):
        if isinstance(place, list):
            place = place[_list_index(place, key, dotted)]
        else:
            if place.get(key) is None:
                place[key] = {}
            place = place[key]
        if not isinstance(place, dict | list):
            parent = ".".join(path[: position + 1])
            raise GeodistillError(f"'{dotted}' leads into '{parent}', which is a single value.", f"Set '{parent}'.")
    if isinstance(place, list):
        place[_list_index(place, last, dotted)] = value
    else:
        place[last] = value
    return result


def merge(base: Mapping[str, Any], partial: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a partial recipe over another: sections are merged, everything else is replaced, an objective as a whole.

    An objective is replaced because a term that the partial one does not name is meant to be off. For the same reason
    a student that is made in one way leaves nothing of the other ways.
    """
    result = deepcopy(dict(base))
    for key, value in partial.items():
        old = result.get(key)
        if key == "student" and isinstance(old, dict) and isinstance(value, Mapping):
            old = result[key] = _without_other_ways(old, value)
        if isinstance(old, dict) and isinstance(value, Mapping) and key not in OBJECTIVES:
            result[key] = merge(old, value)
        else:
            result[key] = deepcopy(value)
    return result


def _without_other_ways(student: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    named = [way for way in STUDENT_WAYS if any(chosen.get(key) is not None for key in way)]
    others = {key for way in STUDENT_WAYS if named and way not in named for key in way}
    return {key: value for key, value in student.items() if key not in others}


def _is_exponent(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "e" in text.lower() and "inf" not in text.lower()


def _list_index(place: list[Any], key: str, dotted: str) -> int:
    if not place:
        raise GeodistillError(f"'{dotted}' asks for item '{key}' of a list of 0.", "Set the whole list.")
    if not key.isdigit() or int(key) >= len(place):
        raise GeodistillError(
            f"'{dotted}' asks for item '{key}' of a list of {len(place)}.", f"Use a number from 0 to {len(place) - 1}."
        )
    return int(key)
