"""The recipes that ship with the package."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path


def recipe_path(name: str) -> AbstractContextManager[Path]:
    """Give the path of a shipped recipe, such as `demo-trec`, for as long as the context lasts."""
    return as_file(files(__package__) / f"{name}.yaml")
