from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from geodistill.errors import GeodistillError
from geodistill.files import LOCK, write_json
from geodistill.runs.folder import (
    ENVIRONMENT,
    METRICS,
    RECIPE,
    RESULTS,
    MetricsFile,
    claimed,
    describe_environment,
    read_json,
    read_metrics,
    read_recipe,
)


def claim(folder: Path, recipe: dict[str, Any], fingerprint: str, **options: bool) -> bool:
    with claimed(folder, recipe, fingerprint, **options) as known:
        return known


def test_a_new_folder_gets_its_recipe_and_environment(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    assert claim(folder, {"näme": [1, 2]}, "abc") is False
    assert read_recipe(folder / RECIPE) == {"näme": [1, 2]}
    environment = read_json(folder / ENVIRONMENT)
    assert environment["fingerprint"] == "abc"
    assert environment["versions"]["torch"] and environment["python"] and environment["cores"] >= 1
    assert claim(folder, {"näme": [1, 2]}, "abc") is True


def test_another_run_is_refused_then_replaced(tmp_path: Path) -> None:
    claim(tmp_path, {}, "abc")
    write_json(tmp_path / RESULTS, {"a": 1})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GeodistillError, match=r"holds another run.*--fresh"):
        claim(tmp_path, {}, "def")
    assert claim(tmp_path, {}, "abc", replace=True) is True
    assert (tmp_path / RESULTS).is_file()
    assert claim(tmp_path, {}, "def", replace=True) is False
    assert not (tmp_path / RESULTS).exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_fresh_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    claim(tmp_path, {}, "abc")
    for name in ("student", "students", "checkpoints", "teacher", "cache", "runs", "photos"):
        (tmp_path / name).mkdir()
    for name in (METRICS, RESULTS, "report.html", "scores.svg", "predictions.jsonl", "notes.txt", ".a.json.12.part"):
        (tmp_path / name).write_text("x")
    assert claim(tmp_path, {}, "abc", fresh=True) is False
    left = {path.name for path in tmp_path.iterdir()} - {LOCK}
    assert left == {RECIPE, ENVIRONMENT, "photos", "notes.txt"}


def test_a_known_run_gets_the_recipe_that_it_is_started_with(tmp_path: Path) -> None:
    claim(tmp_path, {"source": "here"}, "abc")
    assert claim(tmp_path, {"source": "there"}, "abc") is True
    assert read_recipe(tmp_path / RECIPE) == {"source": "there"}


def test_two_starts_do_not_write_one_folder(tmp_path: Path) -> None:
    with claimed(tmp_path / "run", {}, "abc"):
        with pytest.raises(GeodistillError, match=r"Another process writes the folder '.*run'\. Wait until it ends"):
            claim(tmp_path / "run", {}, "def", fresh=True)
        assert claim(tmp_path / "other", {}, "abc") is False
        assert read_json(tmp_path / "run" / ENVIRONMENT)["fingerprint"] == "abc"
    assert claim(tmp_path / "run", {}, "abc") is True


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(GeodistillError, match=r"cannot be made: .*Choose another --output"):
        claim(tmp_path / "file" / "run", {}, "abc")


def test_a_folder_of_other_files_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "thesis.txt").write_text("years of work")
    for options in ({}, {"fresh": True}, {"replace": True}):
        with pytest.raises(GeodistillError, match="not empty and not a run"):
            claim(tmp_path, {}, "abc", **options)
    assert (tmp_path / "student" / "thesis.txt").is_file()


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(GeodistillError, match="is a file"):
        claim(tmp_path / "taken", {}, "abc")


def test_hidden_files_do_not_make_a_folder_full(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*")
    assert claim(tmp_path, {}, "abc") is False


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1, 2]", b"3", b"\xff\xfe"])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / RESULTS
    path.write_bytes(content)
    with pytest.raises(GeodistillError, match=r"results\.json cannot be read: .*Delete it, or pass --fresh"):
        read_json(path)


def test_the_environment_is_json() -> None:
    environment = describe_environment()
    assert json.loads(json.dumps(environment)) == environment
    assert environment["versions"]["geodistill"] is not None


def log(callback: MetricsFile, folder: Path, step: int, **logs: float) -> None:
    state = TrainerState(global_step=step, max_steps=10)
    callback.on_log(TrainingArguments(output_dir=str(folder)), state, TrainerControl(), logs=logs)


def begin(callback: MetricsFile, folder: Path, step: int) -> None:
    state = TrainerState(global_step=step, max_steps=10)
    callback.on_train_begin(TrainingArguments(output_dir=str(folder)), state, TrainerControl())


def test_metrics_are_appended_with_stage_and_share(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path, "warm"), tmp_path, 5, loss=1.5)
    log(MetricsFile(tmp_path, "task"), tmp_path, 10, loss=0.5)
    assert read_metrics(tmp_path) == [
        {"stage": "warm", "step": 5, "done": 0.5, "loss": 1.5},
        {"stage": "task", "step": 10, "done": 1.0, "loss": 0.5},
    ]


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / METRICS).write_text('{"stage": "task", "step": 1}\n{"stage": "ta')
    assert read_metrics(tmp_path) == [{"stage": "task", "step": 1}]


def test_what_a_resumed_stage_repeats_is_not_there_twice(tmp_path: Path) -> None:
    warm, task = MetricsFile(tmp_path, "warm"), MetricsFile(tmp_path, "task")
    for callback in (warm, task):
        begin(callback, tmp_path, 0)
        for step in (2, 4, 6):
            log(callback, tmp_path, step, loss=float(step))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"stage": "task", "st')  # the process was killed here
    begin(task, tmp_path, 4)
    log(task, tmp_path, 6, loss=66.0)
    entries = [(entry["stage"], entry["step"], entry["loss"]) for entry in read_metrics(tmp_path)]
    assert entries == [("warm", 2, 2), ("warm", 4, 4), ("warm", 6, 6), ("task", 2, 2), ("task", 4, 4), ("task", 6, 66)]


def test_metrics_of_a_training_that_diverged_are_json(tmp_path: Path) -> None:
    file, state = MetricsFile(tmp_path, "task"), TrainerState(global_step=2, max_steps=4, is_world_process_zero=True)
    file.on_log(
        TrainingArguments(str(tmp_path)), state, TrainerControl(), logs={"loss": math.nan, "grad_norm": math.inf}
    )
    line = (tmp_path / METRICS).read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "stage": "task",
        "step": 2,
        "done": 0.5,
        "loss": None,
        "grad_norm": None,
    }
    assert read_metrics(tmp_path)[0]["loss"] is None
