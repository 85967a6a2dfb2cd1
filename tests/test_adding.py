"""Adding a loss is one class and one row, and adding a divergence is one function and one row: shown by training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.numerics import or_one
from geodistill.losses import LOSSES, FeatureLoss, LossKind
from geodistill.losses.divergences import DIVERGENCES, DivergenceKind
from geodistill.losses.terms import term_model
from geodistill.recipe import Recipe
from geodistill.runs.folder import read_metrics
from geodistill.runs.recipe_file import check_recipe, load_recipe
from geodistill.runs.train import train


class SizeLoss(FeatureLoss):
    """|ln ‖S‖_F² − ln ‖T‖_F²|^p: by how much the sizes of two centred clouds differ.

    Args: `power`, the exponent p; for all other options see `FeatureLoss`.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…). Returns a scalar.

    Reference: an example of the documentation.

    Example:
        loss = SizeLoss()(student_hidden, teacher_hidden)
    """

    def __init__(self, *, power: float = 1.0, **shared: Any) -> None:
        super().__init__(**shared)
        self.power = power

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        student, teacher = or_one(moments.student_square).log(), or_one(moments.teacher_square).log()
        return (student - teacher).abs() ** self.power, student.abs() + teacher.abs()


@pytest.fixture
def size_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "size", LossKind(SizeLoss, "|ln ‖S‖_F² − ln ‖T‖_F²|^p"))


def test_a_new_loss_is_trained_from_a_recipe(
    size_loss: None, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_recipe(objective={"label": {}, "features": [{"loss": "size", "power": 2, "layers": [[1, 2]]}]})
    recipe = load_recipe(path, ["objective.features.0.weight=0.5"])
    assert recipe.objective.features[0].options["power"] == 2
    assert recipe.objective.features[0].rows == "tokens"
    train(recipe, tmp_path / "run", progress=False)
    steps = [entry for entry in read_metrics(tmp_path / "run") if "size_1_2" in entry]
    assert steps and all(entry["size_1_2"] > 0 and "chance/size_1_2" in entry for entry in steps)


def test_mistakes_in_its_options_are_named(size_loss: None, make_recipe: Callable[..., Recipe]) -> None:
    def refused(**options: Any) -> str:
        with pytest.raises(GeodistillError) as caught:
            make_recipe(objective={"features": [{"loss": "size", **options}]})
        return str(caught.value)

    assert "Unknown key 'objective.features.0.powr' in the recipe. In objective.features.0: Did you mean 'power'" in (
        refused(powr=2)
    )
    assert "'objective.features.0.power' in the recipe is not valid: Input should be a valid number" in (
        refused(power="two")
    )


def test_the_documentation_shows_this_loss() -> None:
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"```python\n{inspect.getsource(SizeLoss)}```" in text
    assert len(inspect.getsource(SizeLoss).splitlines()) < 40


def test_a_model_of_the_options_is_made_once(size_loss: None) -> None:
    assert term_model(LOSSES["size"]) is term_model(LOSSES["size"])


def chi_squared(student_log: Tensor, teacher_log: Tensor) -> tuple[Tensor, Tensor]:
    """Σ (p − q)² / p, and its derivative by each log q."""
    student, teacher = student_log.exp(), teacher_log.exp()
    difference = student - teacher
    return (difference**2 / teacher).sum(-1), 2 * student * difference / teacher


def test_a_new_divergence_is_trained_from_a_recipe(
    monkeypatch: pytest.MonkeyPatch, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    monkeypatch.setitem(DIVERGENCES, "chi_squared", DivergenceKind(chi_squared, "Σ (p − q)² / p"))
    recipe = make_recipe(objective={"label": {}, "logits": {"divergence": "chi_squared"}})
    train(recipe, tmp_path / "run", progress=False)
    steps = [entry["logits"] for entry in read_metrics(tmp_path / "run") if "logits" in entry]
    assert steps and all(torch.tensor(steps) > 0)
    with pytest.raises(GeodistillError, match=r"'objective.logits.beta' .*would change nothing.*jensen_shannon"):
        check_recipe({**recipe.model_dump(), "objective": {"logits": {"divergence": "chi_squared", "beta": 0.1}}})
