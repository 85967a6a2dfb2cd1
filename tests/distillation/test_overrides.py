from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from geodistill.distillation.overrides import TESTED, overrides, supported_transformers
from geodistill.distillation.sampler import LengthGroupedTrainer
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError


class Base:
    def _save(self, folder: str, state: Any = None) -> str:
        return folder


def test_a_method_that_the_base_has_is_left_as_it_is() -> None:
    class Mine(Base):
        @overrides(Base)
        def _save(self, folder: str, state: Any = None, *, more: int = 0) -> str:
            return super()._save(folder) + "!"

    assert Mine()._save("a") == "a!"


def test_a_method_that_the_base_lost_is_refused() -> None:
    with pytest.raises(GeodistillError, match=r"has no method '_write'.*pip install 'transformers=="):

        class Mine(Base):
            @overrides(Base)
            def _write(self) -> None: ...


@pytest.mark.parametrize("method", [lambda self: None, lambda self, folder, other=None: None])
def test_a_method_that_takes_other_parameters_is_refused(method: Any) -> None:
    method.__name__ = "_save"
    with pytest.raises(GeodistillError, match=r"folder: .* and geodistill replaces it by \(self"):
        overrides(Base)(method)


def test_a_method_that_takes_anything_fits() -> None:
    def _save(self: Any, *args: Any, **kwargs: Any) -> None: ...

    assert overrides(Base)(_save) is _save


@pytest.mark.parametrize("trainer", [DistillationTrainer, LengthGroupedTrainer])
def test_every_method_that_replaces_one_of_the_trainers_is_checked(trainer: type) -> None:
    """Skipping a gradient that is not finite, writing checkpoints and the rest end in silence otherwise."""
    replaced = {name for name, value in vars(trainer).items() if inspect.isfunction(value) and hasattr(Trainer, name)}
    checked = {name for name, value in vars(trainer).items() if hasattr(value, "replaces")}
    assert replaced - {"__init__"} == checked != set()


@pytest.mark.parametrize("name", ["_get_grad_norm", "_save", "get_batch_samples", "_set_signature_columns_if_needed"])
def test_a_trainer_without_the_method_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = vars(DistillationTrainer)[name]
    monkeypatch.delattr(Trainer, name)
    with pytest.raises(GeodistillError, match=f"Trainer of transformers .* has no method '{name}'"):
        overrides(Trainer)(method)


def test_the_release_that_was_tested_is_named() -> None:
    constraints = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
    assert f"\ntransformers=={TESTED}." in f"\n{constraints}"
    assert "transformers>=" in supported_transformers() and TESTED in supported_transformers()
