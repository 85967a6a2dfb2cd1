from __future__ import annotations

from pathlib import Path

import pytest
from training import make_trainer
from transformers.trainer_callback import TrainerState

from geodistill.distillation.checkpoint import StepCounts
from geodistill.tasks.arguments import train_to_the_end


@pytest.mark.parametrize("restoring", [False, True])
def test_counts_go_on_where_a_training_is_resumed(tmp_path: Path, restoring: bool) -> None:
    """Of eight steps of one example the third is skipped; the checkpoint lies between two log entries."""
    given = {
        "recipe": {"features": [{"loss": "gram"}, {"loss": "gram", "rows": "cls"}]},
        "per_device_train_batch_size": 1,
        "examples": 8,
        "num_train_epochs": 1,
        "save_strategy": "steps",
        "save_steps": 5,
        "logging_steps": 4,
        "restore_callback_states_from_checkpoint": restoring,
    }
    whole = make_trainer(tmp_path / "out", spoiled=[3], **given)
    whole.train()
    assert (whole.skipped_steps, whole.starved_terms) == (1, 8)
    resumed = make_trainer(tmp_path / "out", **given)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert (resumed.skipped_steps, resumed.starved_terms) == (1, 8)
    assert resumed.state.log_history[-2]["starved_terms"] == 8


def test_counts_of_a_finished_training_are_read(tmp_path: Path) -> None:
    given = {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 7}
    make_trainer(tmp_path / "out", spoiled=[3], **given).train()
    again = make_trainer(tmp_path / "out", **given)
    train_to_the_end(again, tmp_path / "out")
    assert again.skipped_steps == 1 and again.teacher.calls == 0


def test_a_checkpoint_without_counts_leaves_them(tmp_path: Path) -> None:
    counts = StepCounts()
    counts.skipped_steps = 2
    counts.restore(TrainerState())
    assert counts.skipped_steps == 2
    counts.restore(TrainerState(stateful_callbacks=[counts]))
    assert counts.state()["attributes"] == {"skipped_steps": 2, "starved_terms": 0}
