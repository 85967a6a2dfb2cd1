from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from geodistill.models import NeuralConfig
from geodistill.recipe import Recipe
from geodistill.tasks.finished_run import FinishedRun


def finished(folder: Path, **recipe: Any) -> FinishedRun:
    made = Recipe.model_validate({"student": {"width": 8, "layers": 1}, "objective": {"label": {}}, **recipe})
    return FinishedRun(folder, made, {"data.text": "words", "generation.limit": 3}, {"positions": 7})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ("classification", ["a", "b", "c"])),
        ({"problem_type": "single_label_classification"}, ("classification", ["a", "b", "c"])),
        ({"problem_type": "multi_label_classification"}, ("multi_label", ["a", "b", "c"])),
        ({"problem_type": "regression"}, ("regression", ["a", "b", "c"])),
        ({"num_labels": 1}, ("regression", [])),
        ({"num_labels": 1, "problem_type": "regression"}, ("regression", [])),
    ],
)
def test_the_head_says_what_it_answers(tmp_path: Path, config: dict[str, Any], expected: Any) -> None:
    names = {} if config.get("num_labels") == 1 else {"id2label": {0: "a", 1: "b", 2: "c"}}
    BertConfig(**names, **config).save_pretrained(tmp_path / "student")
    assert finished(tmp_path).head == expected


def test_sessions_are_those_that_were_trained_on(tmp_path: Path) -> None:
    NeuralConfig(sessions={"monday": 3, "tuesday": 2, "friday": 4}).save_pretrained(tmp_path / "student")
    data = {"source": "recordings", "sessions": {"unseen": ["tuesday"]}}
    run = finished(tmp_path, task="neural", data=data, student={"model": "new:lfp"})
    assert run.sessions == ["monday", "friday"]


def test_what_a_run_does_not_tell_is_unknown(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert (run.named, run.positions, run.reads_pairs) == (["text"], 7, None)
