"""A method that replaces one of somebody else's class does so only while that class has it.

`transformers.Trainer` may rename a private method in any release. A method of ours that replaces it would then never be
called, and what it did would stop without a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import metadata
from typing import Any, TypeVar

import transformers

from geodistill.errors import GeodistillError

TESTED = "5.23"  # the release in constraints.txt
Method = TypeVar("Method", bound=Callable[..., Any])


def overrides(base: type) -> Callable[[Method], Method]:
    """Mark a method that replaces the one of the same name in `base`, and check that it can, when the class is made.

    Raises GeodistillError if `base` has no such method, or passes it parameters that ours does not take.

        class Mine(Trainer):
            @overrides(Trainer)
            def _save(self, output_dir=None, state_dict=None): ...
    """

    def check(method: Method) -> Method:
        name = method.__name__
        replaced = getattr(base, name, None)
        if not callable(replaced):
            raise GeodistillError(
                f"{base.__name__} of transformers {transformers.__version__} has no method '{name}', which geodistill "
                "replaces.",
                supported_transformers(),
            )
        if not takes(method, replaced):
            raise GeodistillError(
                f"{base.__name__}.{name} of transformers {transformers.__version__} has the parameters "
                f"{inspect.signature(replaced)}, and geodistill replaces it by {inspect.signature(method)}.",
                supported_transformers(),
            )
        method.replaces = replaced  # type: ignore[attr-defined]
        return method

    return check


def takes(method: Callable[..., Any], replaced: Callable[..., Any]) -> bool:
    """Tell whether a method can be called as the one that it replaces: the same names in the same order, and a default
    for each of its own."""
    own, given = (list(inspect.signature(each).parameters.values()) for each in (method, replaced))
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in own):
        return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own)
    same = [each.name for each in own[: len(given)]] == [each.name for each in given]
    return same and all(each.default is not inspect.Parameter.empty for each in own[len(given) :])


def supported_transformers() -> str:
    """Name the releases of transformers that geodistill asks for: the remedy if another one is installed."""
    wanted = next(each for each in metadata.requires("geodistill") or [] if each.startswith("transformers"))
    return f"Install {wanted}; geodistill was tested with {TESTED}: pip install 'transformers=={TESTED}.*'."
