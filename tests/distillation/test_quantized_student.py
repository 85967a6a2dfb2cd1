"""A student with quantisers in the trainer: resumed exactly, saved for all, stopped when an interval collapses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import Recorder, assert_same, copy_of, make_trainer
from transformers import BertForSequenceClassification, TrainerCallback

from geodistill.distillation.checkpoint import last_checkpoint
from geodistill.errors import GeodistillError
from geodistill.quantization import is_quantized, load_quantized
from geodistill.recipe import QuantizationRecipe

W4A4 = QuantizationRecipe(weights=4, activations=4)


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    steps = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "quantization": W4A4}
    whole = make_trainer(tmp_path / "whole", **steps)
    start = copy_of(whole.model)
    whole.train()
    make_trainer(tmp_path / "cut", callbacks=[Recorder(4)], **steps).train()
    resumed = make_trainer(tmp_path / "cut", seed=50, **steps)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(tmp_path / "cut")))
    assert_same(copy_of(whole.model), copy_of(resumed.model))
    still = [name for name, value in copy_of(whole.model).items() if torch.equal(value, start[name])]
    # The lower end of an interval has a gradient only from values outside the interval.
    assert not [name for name in still if name.endswith(".interval")]


def test_save_model_writes_rounded_weights_and_the_quantisers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, quantization=W4A4, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "student"))
    plain = BertForSequenceClassification.from_pretrained(tmp_path / "student")
    student: Any = trainer.student
    assert torch.equal(plain.classifier.weight, student.classifier.rounded_weight())
    load_quantized(tmp_path / "student", plain)
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    torch.testing.assert_close(plain.eval()(**batch).logits, student.eval()(**batch).logits)


class Spoil(TrainerCallback):
    """Gives an interval another value after the first step."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            layer = kwargs["model"].student.bert.pooler.dense
            layer.weight_quantizer.interval.data[2] = self.value


@pytest.mark.parametrize(("value", "said"), [(0.0, "collapsed to zero"), (float("nan"), "is not finite")])
def test_a_collapsed_interval_stops_the_training(tmp_path: Path, value: float, said: str) -> None:
    trainer = make_trainer(tmp_path, quantization=W4A4, callbacks=[Spoil(value)])
    with pytest.raises(GeodistillError, match=f"weights of 'bert.pooler.dense' {said}"):
        trainer.train()
    assert trainer.state.global_step <= 3


def test_a_checkpoint_of_a_plain_student_is_of_another_model(tmp_path: Path) -> None:
    steps = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(tmp_path, **steps).train()
    resumed = make_trainer(tmp_path, quantization=W4A4, **steps)
    with pytest.raises(GeodistillError, match="is of another model"):
        resumed.train(resume_from_checkpoint=str(last_checkpoint(tmp_path)))
    assert is_quantized(resumed.student)
