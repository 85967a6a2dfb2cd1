"""What the end-to-end tests share: a teacher cut from the bundled weights, and recipes that train it in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from geodistill.data.examples import load_examples
from geodistill.data.models import resolve_model
from geodistill.recipe import Recipe
from geodistill.recipe_file import check_recipe, merge
from geodistill.studies import compare as compare_module
from geodistill.tasks.classification import Classification
from geodistill.tasks.teacher import prepare_teacher

WriteRecipe = Callable[..., Path]
WriteCsv = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def quiet_and_single_threaded() -> None:
    torch.set_num_threads(1)
    disable_progress_bar()


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of the bundled MiniLM, without a head, and its tokenizer."""
    bundled = resolve_model("bundled:minilm-l6")
    folder = tmp_path_factory.mktemp("encoder")
    AutoModel.from_pretrained(bundled, num_hidden_layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def content(encoder: Path) -> dict[str, Any]:
    """A recipe of a few seconds: 64 questions a split, the cut teacher fine-tuned for two steps, one student layer."""
    return {
        "data": {"source": "bundled:trec", "limit": 64, "max_length": 16},
        "teacher": {"model": str(encoder), "training": {"max_steps": 2, "batch_size": 16, "bf16": False}},
        "student": {"width": 32, "layers": 1},
        "objective": {"label": {}, "logits": {}, "features": [{"loss": "procrustes"}]},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "logging_steps": 2},
    }


@pytest.fixture(scope="session")
def classifier(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cut teacher after its fine-tuning on the questions."""
    recipe = check_recipe(content)
    folder = tmp_path_factory.mktemp("fine-tuned") / "teacher"
    prepare_teacher(recipe.teacher, Classification(load_examples(recipe.data)), folder, progress=False)
    return folder


@pytest.fixture
def make_recipe(content: dict[str, Any], classifier: Path) -> Callable[..., Recipe]:
    """The recipe with its teacher given fine-tuned, and what the test lays over it."""

    def make(**changes: Any) -> Recipe:
        given = {**content, "teacher": {"model": str(classifier)}}
        return check_recipe(merge(given, changes))

    return make


@pytest.fixture
def write_recipe(make_recipe: Callable[..., Recipe], tmp_path: Path) -> WriteRecipe:
    def write(name: str = "recipe", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(make_recipe(**changes).model_dump(mode="json")), encoding="utf-8")
        return path

    return write


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a comparison go in this process: starting another costs more than a small run."""

    class InThisProcess(ThreadPoolExecutor):
        def __init__(self, workers: int, **processes: Any) -> None:
            super().__init__(workers)

    monkeypatch.setattr(compare_module, "ProcessPoolExecutor", InThisProcess)


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    """Write rows of a text and a label."""

    def write(rows: Iterable[tuple[str, Any]], name: str = "rows.csv", header: str = "text,label") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows of a text and a label as JSON."""

    def write(rows: Iterable[tuple[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def questions() -> list[tuple[str, str]]:
    """Sixty made-up questions under the six labels of the bundled ones."""
    draw = random.Random(0)
    labels = ("NUM", "LOC", "HUM", "ENTY", "DESC", "ABBR")
    nouns = ("river", "engine", "painter", "island", "number", "letter", "planet", "harbour")
    return [
        (f"What {draw.choice(nouns)} is near the {draw.choice(nouns)} of item {place}?", labels[place % 6])
        for place in range(60)
    ]
