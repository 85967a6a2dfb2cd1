"""What a trainer does between its steps: it writes checkpoints, goes on from them, and evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from training import TERMS, Make, Recorder, assert_same, classifier, collate, copy_of, differ, make_trainer
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from geodistill.distillation.checkpoint import OBJECTIVE_FILE, last_checkpoint
from geodistill.distillation.signals import model_inputs
from geodistill.errors import GeodistillError


def test_projection_is_trained_saved_and_kept_out_of_the_student(make: Make, tmp_path: Path) -> None:
    trainer = make(save_strategy="steps", save_steps=4)
    before = copy_of(trainer.distillation.objective)
    trainer.train()
    assert list(before) == ["features.1.losses.0.weight"]
    assert differ(copy_of(trainer.distillation.objective), before)
    checkpoint = tmp_path / "out" / f"checkpoint-{trainer.state.global_step}"
    assert_same(safetensors.torch.load_file(checkpoint / OBJECTIVE_FILE), copy_of(trainer.distillation.objective))
    saved = safetensors.torch.load_file(checkpoint / "model.safetensors")
    assert saved.keys() == classifier(2, 16, 0).state_dict().keys()
    trainer.save_model(str(tmp_path / "saved"))
    assert safetensors.torch.load_file(tmp_path / "saved" / "model.safetensors").keys() == saved.keys()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_checkpoint_holds_the_arguments_and_the_saved_model_is_the_student_alone(make: Make, tmp_path: Path) -> None:
    trainer = make(save_strategy="steps", save_steps=2, max_steps=2, exact_accumulation=True, max_skipped_steps=7)
    trainer.train()
    arguments = torch.load(tmp_path / "out" / "checkpoint-2" / "training_args.bin", weights_only=False)
    assert (arguments.exact_accumulation, arguments.max_skipped_steps) == (True, 7)
    trainer.save_model(str(tmp_path / "saved"))
    trainer.student.save_pretrained(tmp_path / "plain")
    assert contents(tmp_path / "saved") == contents(tmp_path / "plain")
    trainer.save_model(_internal_call=True)  # what push_to_hub writes, beside the checkpoints
    assert contents(tmp_path / "out") == contents(tmp_path / "plain")


def test_checkpoint_loads_with_plain_transformers(make: Make, tmp_path: Path) -> None:
    trainer = make(save_strategy="epoch", num_train_epochs=1)
    trainer.train()
    checkpoint = last_checkpoint(tmp_path / "out")
    assert checkpoint is not None
    loaded, report = AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert type(loaded) is BertForSequenceClassification
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert_same(copy_of(loaded), copy_of(trainer.student))


def test_objective_without_weights_writes_no_file(make: Make, tmp_path: Path) -> None:
    recipe = {"label": {}, "features": [{"loss": "gram"}]}
    make(recipe=recipe, save_strategy="steps", save_steps=2, max_steps=2).train()
    assert not (tmp_path / "out" / "checkpoint-2" / OBJECTIVE_FILE).exists()
    resumed = make(recipe=recipe, max_steps=3, seed=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert resumed.state.global_step == 3


@pytest.mark.parametrize(
    ("accumulation", "save_steps", "stop", "sampling"),
    [(1, 9, 12, "group_by_length"), (2, 5, 6, "group_by_length"), (1, 7, 8, "group_by_length"), (1, 9, 10, "random")],
)
def test_resumed_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, accumulation: int, save_steps: int, stop: int, sampling: str
) -> None:
    """Seven batches an epoch, the last not full: the checkpoint lies within the second epoch, or between the two."""
    arguments = {
        "gradient_accumulation_steps": accumulation,
        "train_sampling_strategy": sampling,
        "save_strategy": "steps",
        "save_steps": save_steps,
        "lr_scheduler_type": "cosine",
    }
    whole = make_trainer(tmp_path / "whole", **arguments)
    whole.train()
    make_trainer(tmp_path / "cut", callbacks=[Recorder(stop)], **arguments).train()
    checkpoint = last_checkpoint(tmp_path / "cut")
    assert checkpoint is not None and checkpoint.name == f"checkpoint-{save_steps}"
    resumed = make_trainer(tmp_path / "cut", seed=50, **arguments)  # other weights: all must come from the checkpoint
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step == {1: 14, 2: 8}[accumulation]
    assert_same(copy_of(resumed.student), copy_of(whole.student))
    assert_same(copy_of(resumed.distillation.objective), copy_of(whole.distillation.objective))
    assert resumed.teacher.calls < whole.teacher.calls


def test_last_checkpoint_is_the_newest_complete_one(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "absent") is None
    for name, state in (("9", "{}"), ("10", "{}"), ("11", None), ("12", ""), ("13", '{"epoch": 1.'), ("best", "{}")):
        folder = tmp_path / f"checkpoint-{name}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize(
    "file", ["model.safetensors", OBJECTIVE_FILE, "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json"]
)
@pytest.mark.parametrize("kept", [0.5, 0])
def test_damaged_checkpoint_is_refused(make: Make, tmp_path: Path, file: str, kept: float) -> None:
    make(save_strategy="steps", save_steps=2, max_steps=2).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    content = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(GeodistillError, match="checkpoint-2"):
        make(max_steps=4).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("file", ["model.safetensors", OBJECTIVE_FILE])
def test_checkpoint_without_weights_is_refused(make: Make, tmp_path: Path, file: str) -> None:
    make(save_strategy="steps", save_steps=2, max_steps=2).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    (checkpoint / file).unlink()
    with pytest.raises(GeodistillError, match="cannot be read"):
        make(max_steps=4).train(resume_from_checkpoint=str(checkpoint))


def test_checkpoint_of_another_objective_is_refused(make: Make, tmp_path: Path) -> None:
    make(save_strategy="steps", save_steps=2, max_steps=2).train()
    other = {"features": [{"loss": "projection", "layers": [[1, 1], [2, 3]]}]}
    with pytest.raises(GeodistillError, match="is of another model"):
        make(recipe=other, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_best_model_is_loaded_at_the_end(make: Make, tmp_path: Path) -> None:
    scores = iter([0.1, 0.9, 0.2])
    trainer = make(
        options={"compute_metrics": lambda result: {"score": next(scores)}},
        max_steps=6,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    trainer.train()
    best, last = (tmp_path / "out" / name for name in ("checkpoint-4", "checkpoint-6"))
    assert trainer.state.best_model_checkpoint == str(best)
    assert_same(copy_of(trainer.student), safetensors.torch.load_file(best / "model.safetensors"))
    assert_same(copy_of(trainer.distillation.objective), safetensors.torch.load_file(best / OBJECTIVE_FILE))
    assert differ(copy_of(trainer.student), safetensors.torch.load_file(last / "model.safetensors"))


def test_evaluation_is_of_the_student_alone(make: Make) -> None:
    def accuracy(result: Any) -> dict[str, float]:
        assert result.predictions.shape == (10, 3)
        return {"accuracy": float((result.predictions.argmax(-1) == result.label_ids).mean())}

    trainer = make(options={"compute_metrics": accuracy}, per_device_eval_batch_size=10)
    metrics = trainer.evaluate()
    assert trainer.teacher.calls == 0
    batch = collate(trainer.eval_dataset)
    with torch.no_grad():
        outputs = trainer.student.eval()(**model_inputs(trainer.student, batch, labels=True))
    assert metrics["eval_loss"] == pytest.approx(outputs.loss.item(), rel=1e-5)
    hits = (outputs.logits.argmax(-1) == batch["labels"]).sum().item()
    assert metrics["eval_accuracy"] == pytest.approx(hits / 10)
    assert trainer.teacher.calls == 0


def test_predictions_are_in_the_order_of_the_data(make: Make) -> None:
    trainer = make(per_device_eval_batch_size=3, train_sampling_strategy="group_by_length")
    prediction = trainer.predict(trainer.eval_dataset)
    batch = collate(trainer.eval_dataset)
    with torch.no_grad():
        outputs = trainer.student.eval()(**model_inputs(trainer.student, batch))
    assert prediction.label_ids.tolist() == batch["labels"].tolist()
    assert prediction.predictions == pytest.approx(outputs.logits.numpy(), abs=1e-5)


def test_evaluation_between_steps_leaves_the_logs_alone(make: Make) -> None:
    trainer = make(eval_strategy="steps", eval_steps=1, max_steps=4, learning_rate=0.0, dropout=0.0)
    trainer.train()
    plain = make(max_steps=4, learning_rate=0.0, dropout=0.0)
    plain.train()
    with_evaluation, without = (
        [entry for entry in each.state.log_history if "loss" in entry] for each in (trainer, plain)
    )
    for entry, expected in zip(with_evaluation, without, strict=True):
        assert {name: entry[name] for name in TERMS} == {name: expected[name] for name in TERMS}
    assert trainer.teacher.calls == 4
