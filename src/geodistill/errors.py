"""The one exception for mistakes that a user can fix.

The command line prints it as two sentences and leaves with exit code 2; a traceback is for our own defects.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class GeodistillError(ValueError):
    """A mistake that a user can fix: what is wrong, in one sentence, and how to fix it, in another.

    The command line prints both sentences and ends with exit code 2.

    Args:
        problem: the first sentence.
        remedy: the second.

    Example:
        raise GeodistillError("The file 'mine.csv' is empty.", "Give a file with a header and rows.")
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[GeodistillError], tuple[str, str]]:
        # An exception is pickled by its args, which here are one sentence joined from two.
        return type(self), (self.problem, self.remedy)


def suggest(name: str, valid: Iterable[str]) -> str:
    """Name the valid spelling nearest to `name`, then list them all: the remedy for a typo."""
    choices = list(valid)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    listed = ", ".join(choices)
    return f"Did you mean '{close[0]}'? Valid: {listed}." if close else f"Valid: {listed}."


def nearest_names(pattern: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the dotted names that are most like a pattern: of the whole name, or of as many parts at its end."""
    plain = pattern.replace("*", "").strip(".")
    parts = plain.count(".") + 1

    def likeness(name: str) -> float:
        end = ".".join(name.split(".")[-parts:])
        return max(difflib.SequenceMatcher(None, plain, each).ratio() for each in (name, end))

    return sorted(names, key=likeness, reverse=True)[:count]


def require_package(module: str, extra: str, why: str) -> None:
    """Raise GeodistillError, naming the extra of ours that brings it, when a package is not installed."""
    if importlib.util.find_spec(module) is None:
        raise GeodistillError(
            f"{why}, and the {module} package is not installed.", f"Install it: pip install 'geodistill[{extra}]'."
        )
