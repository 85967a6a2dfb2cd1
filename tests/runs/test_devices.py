"""Where models run beside an accelerator. There is none here, so a model only notes the device that it was sent to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedModel

from geodistill.recipe import Recipe
from geodistill.runs import arguments, measure, prepare, teacher
from geodistill.runs import evaluate as evaluate_module
from geodistill.runs import train as train_module
from geodistill.runs.evaluate import evaluate
from geodistill.runs.train import train
from geodistill.tasks.classification import Classification

ACCELERATOR = torch.device("cuda", 0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """What was going on in each forward pass and on which device its model was meant to be."""
    events: set[tuple[str, str]] = set()
    phases = ["training"]

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        device = args[0] if args else kwargs.get("device")
        if isinstance(device, str | torch.device):
            self.__dict__["sent_to"] = torch.device(device).type
        return self

    forward = BertForSequenceClassification.forward

    @functools.wraps(forward)
    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        events.add((phases[-1], self.__dict__.get("sent_to", "cpu")))
        return forward(self, *args, **kwargs)

    def during(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            phases.append(phase)
            try:
                return function(*args, **kwargs)
            finally:
                phases.pop()

        return called

    monkeypatch.setattr(PreTrainedModel, "to", to)
    monkeypatch.setattr(
        PreTrainedModel, "device", property(lambda self: torch.device(self.__dict__.get("sent_to", "cpu")))
    )
    monkeypatch.setattr(BertForSequenceClassification, "forward", noted)
    monkeypatch.setattr(Classification, "score", during("scoring", Classification.score))
    monkeypatch.setattr(measure, "measure_latency", during("latency", measure.measure_latency))
    for module in (arguments, teacher, evaluate_module, train_module, prepare, measure):
        monkeypatch.setattr(module, "run_device", lambda: ACCELERATOR)
    return events


def without_geometry(*_: Any, **__: Any) -> list[Any]:
    return []


def test_scores_are_taken_on_the_accelerator_and_latency_on_the_cpu(
    seen: set[tuple[str, str]], make_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[tuple[str, str]] = []

    def geometry(student: Any, teacher: Any, *_: Any, **__: Any) -> list[Any]:
        measured.append((student.device.type, teacher.model.device.type))
        return []

    monkeypatch.setattr(measure, "measure_geometry", geometry)
    recipe = make_recipe(training={"max_steps": 1}, teacher={"cache": False}, objective={"label": {}})
    train(recipe, tmp_path / "run", progress=False)
    assert {event for event in seen if event[0] != "training"} == {("scoring", "cuda"), ("latency", "cpu")}
    assert measured == [("cuda", "cuda")]
    seen.clear()
    evaluate(tmp_path / "run", progress=False)
    assert seen == {("scoring", "cuda")}
