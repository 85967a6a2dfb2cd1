"""Which settings apply where: a setting that would change nothing is refused rather than ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator

from geodistill.errors import GeodistillError


class Rule(NamedTuple):
    """Keys of a section, or dotted keys of sections below it, that apply only under a condition.

    remedy: the condition in words, and what to do if it does not hold.
    """

    keys: tuple[str, ...]
    applies: Callable[[Any], bool]
    remedy: str


class DoesNotApply(GeodistillError):
    """A setting that would change nothing; `key` is its name within its section."""

    def __init__(self, key: str, remedy: str) -> None:
        super().__init__(f"'{key}' does not apply here.", remedy)
        self.key = key

    def __reduce__(self) -> tuple[type[DoesNotApply], tuple[str, str]]:
        return type(self), (self.key, self.remedy)


def refuse_what_does_not_apply(section: BaseModel, rules: Sequence[Rule]) -> None:
    """Raise DoesNotApply for a key that differs from its default and does not apply.

    A default that does not apply is fine: a recipe that is written out in full holds all defaults.
    """
    for rule in rules:
        if not rule.applies(section):
            for key in rule.keys:
                for dotted in _differing(section, key.split(".")):
                    raise DoesNotApply(dotted, rule.remedy)


class Section(BaseModel):
    """A section of a recipe: it cannot be changed, and it refuses unknown keys and keys that would change nothing."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def nothing_in_vain(self) -> Section:
        refuse_what_does_not_apply(self, self.rules)
        return self


def only_with(condition: str) -> str:
    return f"Leave it out, because it applies only with {condition}."


def _differing(section: Any, path: Sequence[str]) -> Iterator[str]:
    """The dotted keys at a path whose values are not the defaults; a list on the way stands for each of its items."""
    name, *rest = path
    value = getattr(section, name)
    if not rest:
        if value != type(section).model_fields[name].get_default(call_default_factory=True):
            yield name
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from (f"{name}.{place}.{key}" for key in _differing(item, rest))
    elif value is not None:
        yield from (f"{name}.{key}" for key in _differing(value, rest))
