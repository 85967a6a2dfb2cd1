"""Models that come with code: it is run if the section of that model says so, and never otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import dynamic_module_utils

from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train

CODE = """
from pathlib import Path

from transformers import BertConfig, BertForSequenceClassification

Path({ran!r}).touch()


class OwnConfig(BertConfig):
    model_type = "own-bert"


class OwnClassifier(BertForSequenceClassification):
    config_class = OwnConfig
"""
WITHOUT_GEOMETRY = {"label": {}, "logits": {}}


@pytest.fixture
def custom(classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The fine-tuned teacher with code, and the file that this code makes when it is run."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, ran = tmp_path / "custom", tmp_path / "ran"
    shutil.copytree(classifier, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-bert",
        "architectures": ["OwnClassifier"],
        "auto_map": {
            "AutoConfig": "own.OwnConfig",
            "AutoModelForSequenceClassification": "own.OwnClassifier",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(ran=str(ran)))
    return folder, ran


def test_code_of_a_student_is_not_run_for_the_sake_of_the_teacher(
    custom: tuple[Path, Path], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    folder, ran = custom
    recipe = make_recipe(
        teacher={"trust_remote_code": True}, student={"model": str(folder), "width": None, "layers": None}
    )
    with pytest.raises(GeodistillError, match=r"custom.*Python code.*trust_remote_code"):
        train(recipe, tmp_path / "run", progress=False)
    assert not ran.exists()


def test_code_of_a_teacher_is_not_run_for_the_sake_of_the_student(
    custom: tuple[Path, Path], classifier: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    folder, ran = custom
    student = {"model": str(classifier), "trust_remote_code": True}
    recipe = check_recipe({**content, "teacher": {"model": str(folder)}, "student": student})
    with pytest.raises(GeodistillError, match=r"custom.*Python code.*trust_remote_code"):
        train(recipe, tmp_path / "run", progress=False)
    assert not ran.exists()


def test_a_student_whose_code_is_trusted_is_trained_and_read_again(
    custom: tuple[Path, Path], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    folder, ran = custom
    student = {"model": str(folder), "trust_remote_code": True, "width": None, "layers": None}
    student |= {"training": {"max_steps": 1}}
    recipe = make_recipe(student=student, objective=WITHOUT_GEOMETRY, training={"max_steps": 1})
    results = train(recipe, tmp_path / "run", progress=False)
    assert ran.exists()
    assert evaluate(tmp_path / "run", progress=False)["metrics"] == results.metrics


def test_a_student_out_of_a_trusted_teacher_is_trained_and_read_again(
    custom: tuple[Path, Path], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    folder, _ = custom
    student = {"teacher_layers": 1, "width": None, "layers": None}
    teacher = {"model": str(folder), "trust_remote_code": True}
    recipe = make_recipe(student=student, teacher=teacher, training={"max_steps": 1})
    results = train(recipe, tmp_path / "run", progress=False)
    assert evaluate(tmp_path / "run", progress=False)["metrics"] == results.metrics


def test_the_key_is_refused_where_the_student_has_no_model_of_its_own() -> None:
    with pytest.raises(GeodistillError, match=r"there is teacher\.trust_remote_code"):
        check_recipe({"student": {"teacher_layers": 1, "trust_remote_code": True}, "objective": {"label": {}}})
