"""The recipes that ship with the package."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path


def recipe_path(name: str) -> AbstractContextManager[Path]:
    """Give the path of a shipped recipe for as long as the context lasts.

    Args:
        name: such as `demo-trec` or `qkd`.

    Returns:
        A context manager that yields the path of the YAML file.

    Example:
        with recipe_path("demo-trec") as path:
            geodistill.train(path, "runs/trec")
    """
    return as_file(files(__package__) / f"{name}.yaml")
