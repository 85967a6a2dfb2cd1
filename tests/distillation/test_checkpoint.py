from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from training import make_trainer
from transformers import BertConfig, BertForSequenceClassification
from transformers.trainer_callback import TrainerState

from geodistill.distillation.checkpoint import StepCounts, reading_checkpoint
from geodistill.distillation.students.adapters import load_student
from geodistill.errors import GeodistillError
from geodistill.runs.arguments import train_to_the_end


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


def test_memory_that_runs_out_while_a_checkpoint_is_read_is_not_a_damaged_checkpoint(tmp_path: Path) -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory."),
    ):
        with pytest.raises(RuntimeError) as caught, reading_checkpoint(tmp_path):
            raise error
        assert caught.value is error


def test_a_damaged_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match=r"cannot be read: header too large.*Delete that folder"):  # noqa: SIM117
        with reading_checkpoint(tmp_path):
            raise SafetensorError("header too large")


@pytest.mark.parametrize("width", [8, 32])
def test_a_checkpoint_of_another_model_is_told(tmp_path: Path, width: int) -> None:
    """A student of another width or depth, in the place where the run would go on."""
    other = BertForSequenceClassification(BertConfig(vocab_size=40, **sizes(width=width)))
    other.save_pretrained(tmp_path)
    student = BertForSequenceClassification(BertConfig(vocab_size=40, **sizes(width=16)))
    with pytest.raises(GeodistillError) as caught, reading_checkpoint(tmp_path):
        load_student(student, tmp_path)
    assert "is of another model" in caught.value.problem and "size mismatch" in caught.value.problem
    assert "--fresh" in caught.value.remedy and "Delete" not in caught.value.remedy


def sizes(width: int) -> dict[str, int]:
    return {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
