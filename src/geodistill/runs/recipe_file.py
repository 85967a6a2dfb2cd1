"""From a YAML file and dotted overrides to a checked recipe, and from a mistake in either to a sentence.

recipe = load_recipe("recipe.yaml", ["training.epochs=3", "objective.features.0.weight=5"])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from geodistill.aliases import known_elsewhere
from geodistill.applies import DoesNotApply
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import Recipe

NEW_STUDENT = ("width", "layers", "heads", "intermediate", "initialization")
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
    for dotted, value in given.items():
        content = set_dotted(content, dotted, value)
    return check_recipe(content, source)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping."""
    if not path.is_file():
        raise GeodistillError(f"There is no recipe file '{path}'.", "Give the path of a YAML recipe.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GeodistillError(f"{path} is not valid YAML: {error}.", "Mend the file.") from error
    if not isinstance(content, dict):
        raise GeodistillError(f"{path} holds no mapping of keys.", "Start from a recipe in the documentation.")
    return content


def check_recipe(content: Mapping[str, Any], source: str = "the recipe") -> Recipe:
    """Turn a mapping into a Recipe, or its first mistake into a GeodistillError."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise explain(error, source) from None


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
        if isinstance(old, dict) and isinstance(value, Mapping) and key != "objective":
            result[key] = merge(old, value)
        else:
            result[key] = deepcopy(value)
    return result


def _without_other_ways(student: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    named = [way for way in STUDENT_WAYS if any(chosen.get(key) is not None for key in way)]
    others = {key for way in STUDENT_WAYS if named and way not in named for key in way}
    return {key: value for key, value in student.items() if key not in others}


def explain(error: ValidationError, source: str) -> GeodistillError:
    """Say the first mistake of a recipe in two sentences."""
    first = _most_telling(error.errors())
    location = _keys_of(first)
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return GeodistillError(f"Unknown key '{dotted}' in {source}.", _nearest_key([str(part) for part in location]))
    if first["type"] == "literal_error":
        choices = [choice.strip().strip("'") for choice in _expected(first).replace(" or ", ",").split(",")]
        if any(other["type"].startswith("bool_") and _keys_of(other) == location for other in error.errors()):
            choices += ["true", "false"]
        return GeodistillError(
            f"'{first['input']}' is no valid value of '{dotted}' in {source}.", suggest(str(first["input"]), choices)
        )
    if first["type"] == "missing":
        return GeodistillError(f"The key '{dotted}' is missing in {source}.", "Add it.")
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, DoesNotApply):
        key = ".".join([*map(str, location), raised.key])
        return GeodistillError(f"'{key}' in {source} would change nothing.", raised.remedy)
    if isinstance(raised, GeodistillError):
        return GeodistillError(f"'{dotted}' in {source} is not valid: {raised.problem}", raised.remedy)
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return GeodistillError(
        f"'{dotted}' in {source} is not valid: {message}.", f"It was {shorten(repr(first['input']), 200)}; mend it."
    )


def _nearest_key(location: Sequence[str]) -> str:
    """Say which key was meant: the one that other tools call so, else the one that is spelled most alike."""
    *section, name = location
    if (meant := known_elsewhere(name, section)) is not None:
        return f"It is called '{meant}' here."
    if section[-1:] == ["training"] and name in _training_arguments():
        return f"Set it as a field of transformers.TrainingArguments: {'.'.join(section)}.arguments.{name}."
    where = ".".join(section) or "the top level"
    return f"In {where}: {suggest(name, _valid_keys(Recipe, section))}"


def _training_arguments() -> list[str]:
    from transformers.training_args import TrainingArguments  # takes seconds, and is needed for a mistake alone

    return [field.name for field in fields(TrainingArguments) if field.init]


def _most_telling(errors: Sequence[Any]) -> Any:
    """Return the first error; of the members of a union, the one that was meant: a word for a word, else no word."""
    here = [error for error in errors if _keys_of(error)[: len(_keys_of(errors[0]))] == _keys_of(errors[0])]
    if not any(error["type"] == "literal_error" for error in here):
        return errors[0]
    word = isinstance(errors[0]["input"], str)
    return next((error for error in here if (error["type"] == "literal_error") == word), errors[0])


def _keys_of(error: Any) -> list[Any]:
    """Return the path of an error as the user wrote it, without the union members that pydantic tried on the way."""
    keys: list[Any] = []
    model: type[BaseModel] | None = Recipe
    free = False  # whether the next key is the user's own, as in a dictionary
    for position, part in enumerate(error["loc"]):
        last = position == len(error["loc"]) - 1
        if model is not None and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model, free = _section(annotation), get_origin(annotation) is dict
        elif not (isinstance(part, int) or free or (last and error["type"] in ("extra_forbidden", "invalid_key"))):
            continue
        keys.append(part)
    return keys


def _expected(error: Any) -> str:
    return str(error.get("ctx", {}).get("expected", ""))


def _valid_keys(model: type[BaseModel], path: Iterable[Any]) -> list[str]:
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _section(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """Find the recipe section within an annotation such as list[FeatureTerm] or LabelTerm | None."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in get_args(annotation) if (found := _section(part))), None)


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
