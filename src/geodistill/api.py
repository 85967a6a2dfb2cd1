"""The commands of the command line as functions: `geodistill.train(recipe)`, `geodistill.compare(recipe)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geodistill.files import fingerprint_of
from geodistill.recipe import Recipe
from geodistill.runs.recipe_file import load_recipe
from geodistill.runs.run_results import RunResults
from geodistill.runs.train import train as train_run
from geodistill.studies.compare import compare as compare_runs
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.plan import split_sweeps
from geodistill.studies.report.run_page import report_run

RUNS = Path("runs")


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    fresh: bool = False,
    onnx: bool = False,
    progress: bool = True,
) -> RunResults | None:
    """Train one student as a recipe says, and write it with its measurements and a report to a folder.

    The same as `geodistill train`. A run that is finished is read, not repeated; one that was interrupted goes on.

    Args:
        recipe: the path of a YAML file, a mapping with the same keys, or a Recipe.
        folder: where the run is written; by default runs/NAME OF THE FILE, and for a recipe without a file
            runs/recipe-DIGEST, a folder for each recipe.
        overrides: laid over the recipe: `{"training.epochs": 3}`, or `["training.epochs=3"]` as on the command line.
        fresh: start over, deleting what a run left in the folder.
        onnx: write student/model.onnx as well.
        progress: show what is read, and progress bars.

    Returns:
        The results; they print as tables and show as HTML in a notebook. None on every rank but the main one.

    Raises:
        GeodistillError: for a mistake in the recipe, the data or the folder, with what to do about it.

    Example:
        >>> results = geodistill.train("recipe.yaml", overrides={"training.epochs": 3})
        >>> print(results)
        >>> results.metrics["accuracy"]
    """
    checked = load_recipe(recipe, overrides)
    results = train_run(checked, _folder(recipe, checked, folder), fresh=fresh, onnx=onnx, progress=progress)
    if results is not None:
        report_run(results)
    return results


def compare(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    folder: str | Path | None = None,
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    sweeps: Mapping[str, Sequence[Any]] | None = None,
    fresh: bool = False,
    onnx: bool = False,
    progress: bool = True,
) -> ComparisonResults:
    """Train variants × seeds against one teacher, test each against the baseline, and write a report.

    The same as `geodistill compare`. Finished runs in the folder are read, not repeated. Runs go in processes of their
    own, so a script calls this under `if __name__ == "__main__":`.

    Args:
        recipe: the path of a YAML file, a mapping with the same keys, or a Recipe.
        folder: where the comparison is written; by default as for `train`.
        overrides: laid over the recipe: `{"training.epochs": 3}`, or `["training.epochs=3"]` as on the command line,
            where `path=1,5,25` is a sweep.
        sweeps: for a path in the recipe the values to try: `{"objective.features.0.weight": [1, 5, 25]}`.
        fresh: start over, deleting what a comparison left in the folder.
        onnx: write student/model.onnx of each run as well, and measure the forms of quantised students.
        progress: show what is read, and progress bars.

    Returns:
        The results; they print as the table of the comparison and show as HTML in a notebook.

    Raises:
        GeodistillError: for a mistake in the recipe, the data or the folder, with what to do about it.

    Example:
        >>> results = geodistill.compare("recipe.yaml", sweeps={"objective.features.0.weight": [1, 5]})
        >>> print(results)
        >>> results.rows()[-1].holm_p
    """
    swept = dict(sweeps or {})
    if not isinstance(overrides, Mapping):
        overrides, found = split_sweeps(overrides)
        swept |= found
    checked = load_recipe(recipe, overrides)
    folder = _folder(recipe, checked, folder)
    return compare_runs(checked, folder, sweeps=swept, fresh=fresh, onnx=onnx, progress=progress)


def _folder(given: Recipe | Mapping[str, Any] | str | Path, recipe: Recipe, folder: str | Path | None) -> Path:
    if folder is not None:
        return Path(folder)
    if isinstance(given, str | Path):
        return RUNS / Path(given).stem
    return RUNS / f"recipe-{fingerprint_of(recipe.model_dump(mode='json'))[:8]}"
