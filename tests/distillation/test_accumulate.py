"""Micro-batches trained as the batch that they make up; splits over ranks are in test_split_invariance.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import Recorder, collate, copy_of, make_examples, make_trainer
from transformers.trainer_callback import TrainerCallback

from geodistill.distillation.accumulate import describe_geometry, random_state, set_random_state
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.features import Capture, select_rows
from geodistill.losses import ProcrustesLoss

PROCRUSTES = {"features": [{"loss": "procrustes", "layers": [[2, 3]]}]}
DESCENT = {
    "optim": "sgd",
    "learning_rate": 1.0,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
}


def make(folder: Path, *, exact: bool = True, **arguments: Any) -> DistillationTrainer:
    given = {"recipe": PROCRUSTES, "gradient_accumulation_steps": 3, "max_steps": 1, "examples": 12, **DESCENT}
    return make_trainer(folder, exact_accumulation=exact, **{**given, **arguments})


def step(trainer: DistillationTrainer) -> dict[str, Tensor]:
    before = copy_of(trainer.model)
    trainer.train()
    return {name: before[name] - value for name, value in copy_of(trainer.model).items()}


class RandomState(TrainerCallback):
    """Keeps the state of the generator as the step begins, which is where its first micro-batch draws from."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.state = torch.get_rng_state()


def test_the_gradient_is_exact_with_dropout(tmp_path: Path) -> None:
    """The twin keeps the graphs of all micro-batches, and so runs the student once."""
    keep = RandomState()
    trainer = make(tmp_path, dropout=0.3, callbacks=[keep])
    twin = make(tmp_path, dropout=0.3).student.train()
    found = step(trainer)
    torch.set_rng_state(keep.state)
    students, teachers = [], []
    for start in (0, 4, 8):
        batch = collate(make_examples(12)[start : start + 4])
        mask = batch["attention_mask"]
        _, features = Capture(twin, [2])(input_ids=batch["input_ids"], attention_mask=mask)
        students.append(select_rows(features[2], {"attention_mask": mask}, kind="tokens")[0][mask.bool()])
        teachers.append(next(iter(trainer.teacher(batch).features.values())).values[mask.bool()])
    ProcrustesLoss()(torch.cat(students), torch.cat(teachers)).backward()
    compared = 0
    for name, parameter in twin.named_parameters():
        if parameter.grad is not None and parameter.grad.norm() > 1e-6:
            gap = (found[f"student.{name}"] - parameter.grad).abs().max()
            assert gap <= 1e-6 * max(1.0, parameter.grad.norm().item()), name
            compared += 1
    assert compared > 20


def test_dropout_goes_on_as_without_the_first_pass(tmp_path: Path) -> None:
    """The generator ends where it would have ended, so other randomness of a run is left alone."""
    states = []
    for exact in (True, False):
        make(tmp_path, exact=exact, dropout=0.3).train()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_teacher_runs_once_for_each_micro_batch(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=-1, num_train_epochs=1, examples=20)
    trainer.train()
    assert trainer.teacher.calls == 5  # steps of three and of two
    assert trainer.state.global_step == 2


def test_one_micro_batch_in_a_step_is_trained_as_ever(tmp_path: Path) -> None:
    one, other = (make(tmp_path, exact=exact, dropout=0.0, gradient_accumulation_steps=1) for exact in (True, False))
    torch.testing.assert_close(step(one), step(other), rtol=0, atol=0)
    assert one.accumulates_exactly is False and one.geometry == "the batch"


def test_autocast_gives_nearly_the_same_gradient(tmp_path: Path) -> None:
    whole = make(tmp_path, dropout=0.0, bf16=True, gradient_accumulation_steps=1, per_device_train_batch_size=12)
    expected = step(whole)
    for name, value in step(make(tmp_path, dropout=0.0, bf16=True)).items():
        assert (value - expected[name]).norm() <= 0.05 * max(0.1, expected[name].norm().item()), name
    # The weights' own gradient is not lost to a first pass that cached them without one.
    assert expected["student.bert.encoder.layer.0.output.dense.weight"].norm() > 1e-3


def test_starved_terms_are_those_of_the_whole(tmp_path: Path) -> None:
    recipe = {"features": [{"loss": "gram", "rows": "cls"}]}
    for exact, expected in ((True, 0), (False, 3)):
        trainer = make(tmp_path, recipe=recipe, exact=exact, per_device_train_batch_size=1)
        trainer.train()
        assert trainer.starved_terms == expected


def test_chance_is_told_on_the_steps_that_are_logged(tmp_path: Path) -> None:
    recorder = Recorder()
    make(tmp_path, max_steps=4, logging_steps=2, callbacks=[recorder], examples=50).train()
    logged = [entry for entry in recorder.logs if "loss" in entry]
    assert len(logged) == 2 and all("chance/procrustes_2_3" in entry for entry in logged)


def test_random_state_is_put_back() -> None:
    state = random_state()
    first = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ((False, 1, 1, False), "the batch"),
        ((True, 1, 1, True), "the batch"),
        ((True, 4, 1, True), "the global batch over 4 ranks"),
        ((False, 4, 1, False), "the local batch of each of 4 ranks"),
        ((True, 1, 8, False), "each micro-batch on its own"),
        ((False, 2, 8, False), "each micro-batch on its own"),
        ((False, 2, 8, True), "the local accumulated batch of 8 micro-batches of each of 2 ranks"),
    ],
)
def test_geometry_in_words(setting: tuple[bool, int, int, bool], said: str) -> None:
    names = ("global_batch", "ranks", "micro_batches", "exact")
    assert describe_geometry(**dict(zip(names, setting, strict=True))) == said  # type: ignore[arg-type]


def test_without_feature_terms_nothing_is_compared(tmp_path: Path) -> None:
    assert make(tmp_path).geometry == "the accumulated batch of 3 micro-batches"
    assert make(tmp_path, recipe={"label": {}}).geometry == "no feature term"


def test_the_log_says_what_is_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="geodistill"):
        make(tmp_path).train()
    assert "Feature terms compare: the accumulated batch of 3 micro-batches." in caplog.text
