"""The folder that a run writes: what it was made from, what it measured, and how to know it again."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from geodistill.errors import GeodistillError
from geodistill.files import CHECKPOINTS, json_text, locked, read_lines, write_json, write_lines, write_text

RECIPE, ENVIRONMENT, METRICS, RESULTS = "recipe.yaml", "environment.json", "metrics.jsonl", "results.json"
LAYERS = "layers.json"
REPORT, FIGURE = "report.html", "scores.svg"
TEST_PREDICTIONS = "test_predictions.jsonl"  # what a student, or in its folder a teacher, answered when it was scored
PACKAGES = ("geodistill", "torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy", "scipy")


# All that a run or a comparison writes into its folder, beside ENVIRONMENT, which marks the folder as a run's.
WRITTEN_FILES = (RECIPE, METRICS, LAYERS, RESULTS, REPORT, FIGURE, TEST_PREDICTIONS, "predictions.jsonl")
WRITTEN_FOLDERS = ("student", "students", CHECKPOINTS, "teacher", "cache", "runs")


@contextmanager
def claimed(
    folder: Path,
    recipe: Mapping[str, Any],
    fingerprint: str,
    *,
    fresh: bool = False,
    replace: bool = False,
    precision: Mapping[str, str] | None = None,
) -> Iterator[bool]:
    """Hold a folder for one run, and tell whether it already holds this very run, begun or finished.

    No other process writes the folder meanwhile. `fresh` clears what any run wrote there, `replace` what another run
    did. `precision`, what `describe_precision` says of the run, is noted with the environment.

    Raises GeodistillError when the folder holds another run or other files, cannot be written, or is held by
    another process.
    """
    if (
        folder.is_dir()
        and not (folder / ENVIRONMENT).is_file()
        and any(path.name[0] != "." for path in folder.iterdir())
    ):
        raise GeodistillError(f"The folder '{folder}' is not empty and not a run.", "Choose another --output.")
    make_folder(folder)
    with locked(folder):
        yield _claim(folder, recipe, fingerprint, fresh=fresh, replace=replace, precision=dict(precision or {}))


def make_folder(folder: Path) -> Path:
    """Make a folder, and return it. Raises GeodistillError if that is not possible."""
    if folder.exists() and not folder.is_dir():
        raise GeodistillError(f"'{folder}' is a file, not a folder.", "Choose another --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GeodistillError(
            f"The folder '{folder}' cannot be made: {error.strerror}.", "Choose another --output."
        ) from error
    return folder


def _claim(
    folder: Path, recipe: Mapping[str, Any], fingerprint: str, *, fresh: bool, replace: bool, precision: dict[str, str]
) -> bool:
    marker = folder / ENVIRONMENT
    known = False
    if marker.is_file():
        known = not fresh and read_json(marker).get("fingerprint") == fingerprint
        if not known and not fresh and not replace:
            raise GeodistillError(
                f"The folder '{folder}' holds another run, made from another recipe, data or teacher.",
                "Choose another --output, or pass --fresh to start over there.",
            )
        if not known:
            clear_run(folder)
    # A known run gets its recipe anew: what changes no result may have changed, such as where the data lies.
    write_recipe(folder, recipe)
    if not known:
        write_json(marker, {"fingerprint": fingerprint, **describe_environment(), "precision": precision})
    return known


def write_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write the recipe of a run into its folder."""
    write_text(folder / RECIPE, yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True))


def clear_run(folder: Path) -> None:
    """Delete what a run writes, and nothing else."""
    for name in (*WRITTEN_FILES, *(path.name for path in folder.glob(".*.part"))):
        (folder / name).unlink(missing_ok=True)
    for name in WRITTEN_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / ENVIRONMENT).unlink(missing_ok=True)


def describe_environment() -> dict[str, Any]:
    """Return the versions and the machine that a result depends on."""
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run; a damaged one is an error that names it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise GeodistillError(f"{path} cannot be read: {error}.", "Delete it, or pass --fresh.") from error


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe that a run wrote."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl of a run, begun or finished."""
    return read_lines(folder / METRICS)


class MetricsFile(TrainerCallback):
    """Append every log entry to metrics.jsonl as training goes, with its stage and the share of the stage done."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop what an interrupted training of this stage logged after the step that it now goes on from."""
        if state.is_world_process_zero and (self.folder / METRICS).is_file():
            entries = read_metrics(self.folder)
            kept = [entry for entry in entries if entry["stage"] != self.stage or entry["step"] <= state.global_step]
            write_lines(self.folder / METRICS, kept)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            done = state.global_step / max(1, state.max_steps)
            entry = {"stage": self.stage, "step": state.global_step, "done": round(done, 4), **logs}
            with (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json_text(entry) + "\n")


def _processor() -> str:
    # Older releases of torch cannot tell.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return str(capabilities.get("cpu_name", platform.processor()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
