"""From what pydantic says of a recipe to two sentences: what is wrong, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from textwrap import shorten
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from geodistill.aliases import known_elsewhere
from geodistill.applies import DoesNotApply
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import Recipe

Keys = Sequence[str | int]


def explain(error: ValidationError, source: str, model: type[BaseModel] = Recipe, at: Keys = ()) -> GeodistillError:
    """Say the first mistake of a recipe, or of a section of it, in two sentences.

    Args:
        error: what pydantic raised.
        source: the file, or another name for the whole recipe.
        model: what was validated.
        at: the keys that lead from the whole recipe to what was validated.

    Returns the error to raise: it names the key by its dotted path and, for a typo, the nearest valid key.
    """
    first = _most_telling(error.errors(), model)
    inside = _keys_of(first, model)
    location = [*at, *inside]
    if first["type"] == "extra_forbidden":
        return _unknown_key([str(part) for part in location], _valid_keys(model, inside[:-1]), source)
    if first["type"] == "literal_error":
        choices = [choice.strip().strip("'") for choice in _expected(first).replace(" or ", ",").split(",")]
        if any(other["type"].startswith("bool_") and _keys_of(other, model) == inside for other in error.errors()):
            choices += ["true", "false"]
        return no_valid_value(first["input"], location, choices, source)
    if first["type"] == "missing":
        return GeodistillError(f"The key '{dotted_path(location)}' is missing in {source}.", "Add it.")
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, DoesNotApply):
        return would_change_nothing([*location, raised.key], raised.remedy, source)
    if isinstance(raised, GeodistillError):
        return GeodistillError(f"'{dotted_path(location)}' in {source} is not valid: {raised.problem}", raised.remedy)
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    return GeodistillError(
        f"'{dotted_path(location)}' in {source} is not valid: {message}.",
        f"It was {shorten(repr(first['input']), 200)}; change it.",
    )


def no_valid_value(value: Any, location: Keys, choices: Iterable[str], source: str) -> GeodistillError:
    """A value that is none of the choices."""
    return GeodistillError(
        f"'{value}' is no valid value of '{dotted_path(location)}' in {source}.", suggest(str(value), choices)
    )


def would_change_nothing(location: Keys, remedy: str, source: str) -> GeodistillError:
    """A key whose value differs from its default and that does not apply."""
    return GeodistillError(f"'{dotted_path(location)}' in {source} would change nothing.", remedy)


def _unknown_key(location: Sequence[str], choices: Iterable[str], source: str) -> GeodistillError:
    """Say which key was meant: the one that other tools call so, else the one that is spelled most alike."""
    *section, name = location
    where = ".".join(section)
    if (meant := known_elsewhere(name, section)) is not None:
        remedy = f"It is called '{meant}' here."
    elif section[-1:] == ["training"] and name in _training_arguments():
        remedy = f"Set it as a field of transformers.TrainingArguments: {where}.arguments.{name}."
    else:
        remedy = f"In {where or 'the top level'}: {suggest(name, choices)}"
    return GeodistillError(f"Unknown key '{dotted_path(location)}' in {source}.", remedy)


def _training_arguments() -> list[str]:
    from transformers.training_args import TrainingArguments  # takes seconds, and is needed for a mistake alone

    return [field.name for field in fields(TrainingArguments) if field.init]


def _most_telling(errors: Sequence[Any], model: type[BaseModel]) -> Any:
    """Return the first error; of the members of a union, the one that was meant: a word for a word, else no word."""
    keys = _keys_of(errors[0], model)
    here = [error for error in errors if _keys_of(error, model)[: len(keys)] == keys]
    if not any(error["type"] == "literal_error" for error in here):
        return errors[0]
    word = isinstance(errors[0]["input"], str)
    return next((error for error in here if (error["type"] == "literal_error") == word), errors[0])


def _keys_of(error: Any, section: type[BaseModel]) -> list[Any]:
    """Return the path of an error as the user wrote it, without the union members that pydantic tried on the way."""
    keys: list[Any] = []
    model: type[BaseModel] | None = section
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


def dotted_path(location: Keys) -> str:
    """Write keys as one path, such as objective.features.0.loss."""
    return ".".join(map(str, location))


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
