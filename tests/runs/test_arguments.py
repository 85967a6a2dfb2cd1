from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, TrainerControl, TrainerState

from geodistill.aliases import OWN_FIELDS, TRAINER_NAMES
from geodistill.distillation.config import DistillationConfig
from geodistill.errors import GeodistillError
from geodistill.recipe import TrainingRecipe
from geodistill.runs.arguments import StepBar, quiet, training_arguments


def test_every_key_of_the_section_arrives(tmp_path: Path) -> None:
    training = TrainingRecipe(
        epochs=2.5,
        max_steps=7,
        batch_size=3,
        evaluation_batch_size=5,
        gradient_accumulation=4,
        learning_rate=2e-4,
        weight_decay=0.02,
        warmup=0.25,
        schedule="cosine",
        max_gradient_norm=0.5,
        seed=11,
        logging_steps=6,
        evaluate_each_epoch=True,
        save_steps=9,
    )
    made = training_arguments(training, tmp_path)
    assert (made.num_train_epochs, made.max_steps, made.gradient_accumulation_steps) == (2.5, 7, 4)
    assert (made.per_device_train_batch_size, made.per_device_eval_batch_size) == (3, 5)
    assert (made.learning_rate, made.weight_decay, made.max_grad_norm, made.seed) == (2e-4, 0.02, 0.5, 11)
    assert made.get_warmup_steps(100) == 25
    assert (made.lr_scheduler_type, made.eval_strategy, made.save_strategy) == ("cosine", "epoch", "steps")
    assert (made.logging_steps, made.save_steps, made.output_dir, made.bf16) == (6, 9, str(tmp_path), False)
    assert made.report_to == []


def test_without_save_steps_nothing_is_saved(tmp_path: Path) -> None:
    made = training_arguments(TrainingRecipe(), tmp_path)
    assert (made.save_strategy, made.eval_strategy) == ("no", "no")


def test_arguments_pass_through_and_win(tmp_path: Path) -> None:
    made = training_arguments(TrainingRecipe(arguments={"adam_beta2": 0.98, "save_total_limit": 5}), tmp_path)
    assert (made.adam_beta2, made.save_total_limit) == (0.98, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"adam_betta2": 0.98}, "TrainingArguments has no field 'adam_betta2'. Did you mean 'adam_beta2'"),
        ({"zzzzzz": 1}, "TrainingArguments has no field 'zzzzzz'"),
        ({"save_strategy": "sometimes"}, "training settings are refused"),
        ({"optim": "adamm"}, "training settings are refused"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GeodistillError, match=message) as caught:
        training_arguments(TrainingRecipe(arguments=arguments), tmp_path)
    assert "Valid: output_dir" not in str(caught.value)


@pytest.mark.parametrize("name", [*TRAINER_NAMES, *OWN_FIELDS])
def test_what_has_a_key_of_its_own_is_not_passed_through(name: str) -> None:
    named = f"Set '{TRAINER_NAMES[name]}'" if name in TRAINER_NAMES else f"decides '{name}'"
    with pytest.raises(ValueError, match=named):
        TrainingRecipe(arguments={name: 1})


def test_each_typed_field_is_one_of_the_trainer_and_of_the_section() -> None:
    known = {field.name for field in fields(DistillationConfig)}
    assert {*TRAINER_NAMES, *OWN_FIELDS} <= known
    assert set(TRAINER_NAMES.values()) <= set(TrainingRecipe.model_fields)


def test_a_wrong_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match=r"refused: .*linaer"):
        training_arguments(TrainingRecipe(schedule="linaer"), tmp_path)


def test_quiet_takes_the_printer_away(tmp_path: Path) -> None:
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=training_arguments(TrainingRecipe(), tmp_path))
    printers = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert PrinterCallback in printers
    kept = [type(callback) for callback in quiet(trainer).callback_handler.callbacks]
    assert kept == [kind for kind in printers if kind is not PrinterCallback]


def test_the_bar_goes_on_where_a_run_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, control = training_arguments(TrainingRecipe(), tmp_path), TrainerControl()
    state = TrainerState(max_steps=10, global_step=4)
    bar = StepBar("task")
    bar.on_train_begin(args, state, control)
    state.global_step = 10
    bar.on_step_end(args, state, control)
    bar.on_log(args, state, control, logs={"loss": 0.12345})
    bar.on_train_end(args, state, control)
    shown = capsys.readouterr().err
    assert "task" in shown and "10/10" in shown and " 40%" in shown


def test_only_the_main_process_shows_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, control = training_arguments(TrainingRecipe(), tmp_path), TrainerControl()
    state = TrainerState(max_steps=10, is_world_process_zero=False)
    bar = StepBar("task")
    bar.on_train_begin(args, state, control)
    bar.on_step_end(args, state, control)
    bar.on_train_end(args, state, control)
    assert capsys.readouterr().err == ""
