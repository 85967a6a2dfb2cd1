from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.trainer_callback import TrainerCallback

from geodistill.data.examples import load_examples
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, TeacherRecipe, TrainingRecipe
from geodistill.tasks import fine_tune as fine_tune_module
from geodistill.tasks.classification import Classification
from geodistill.tasks.run_folder import read_json, read_metrics
from geodistill.tasks.teacher import TEACHER_FILE, prepare_teacher, teacher_fingerprint


@pytest.fixture
def examples(write_csv: Any, questions: list[tuple[str, str]]) -> Classification:
    return Classification(load_examples(DataRecipe(source=str(write_csv(questions)))))


def test_what_is_fine_tuned_is_used_again(encoder: Path, examples: Classification, tmp_path: Path) -> None:
    recipe = TeacherRecipe(model=str(encoder), training=TrainingRecipe(max_steps=1, batch_size=8))
    first = prepare_teacher(recipe, examples, tmp_path, progress=False)
    assert first.name == str(encoder) and first.folder == str(tmp_path)
    assert first.training_seconds is not None and first.training_seconds > 0
    assert first.model.config.num_labels == 6 and set(first.scores.metrics) == {"accuracy", "macro_f1"}
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    again = prepare_teacher(recipe, examples, tmp_path, progress=False)
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp
    assert (again.scores.metrics, again.training_seconds) == (first.scores.metrics, first.training_seconds)

    given = prepare_teacher(TeacherRecipe(model=str(tmp_path)), examples, tmp_path / "unused", progress=False)
    assert given.scores.metrics == first.scores.metrics and not (tmp_path / "unused").exists()


def test_the_recorded_score_is_not_taken_for_other_data(
    classifier: Path, examples: Classification, content: dict[str, Any]
) -> None:
    recipe = TeacherRecipe(model=str(classifier))
    record = read_json(classifier / TEACHER_FILE)
    own = Classification(load_examples(DataRecipe(**content["data"])))
    assert prepare_teacher(recipe, own, classifier / "unused").scores.metrics == record["metrics"]
    other = prepare_teacher(recipe, examples, classifier / "unused")
    correct = other.scores.metrics["accuracy"] * len(examples.examples.splits["test"])
    assert correct == pytest.approx(round(correct)) and other.scores.metrics != record["metrics"]


def test_a_teacher_is_known_by_weights_training_and_data(
    encoder: Path, classifier: Path, examples: Classification
) -> None:
    def of(model: Path, training: TrainingRecipe | None = None, **others: Any) -> str:
        return teacher_fingerprint(TeacherRecipe(model=str(model), training=training, **others), examples)

    known = {of(encoder), of(classifier), of(encoder, TrainingRecipe()), of(encoder, TrainingRecipe(epochs=4))}
    assert len(known) == 4
    assert of(encoder) == of(encoder, cache=False)


def test_an_interrupted_teacher_ends_with_the_same_weights(
    encoder: Path, examples: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = TrainingRecipe(max_steps=4, batch_size=16, save_steps=2, logging_steps=1)
    recipe = TeacherRecipe(model=str(encoder), training=training)
    prepare_teacher(recipe, examples, tmp_path / "whole", progress=False)
    torch.rand(5)  # what was drawn before must not matter

    class Interruption(TrainerCallback):
        def __init__(self, title: str) -> None: ...

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(fine_tune_module, "StepBar", Interruption)
    with pytest.raises(KeyboardInterrupt):
        prepare_teacher(recipe, examples, tmp_path / "part")
    assert not (tmp_path / "part" / TEACHER_FILE).exists()
    prepare_teacher(recipe, examples, tmp_path / "part", progress=False)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [entry["step"] for entry in read_metrics(tmp_path / "part") if "loss" in entry] == [1, 2, 3, 4]


def test_unlabelled_data_teaches_no_head(encoder: Path, write_csv: Callable[..., Path], tmp_path: Path) -> None:
    path = write_csv([(f"text {i}", "") for i in range(40)])
    unlabelled = Classification(load_examples(DataRecipe(source=str(path), problem="unlabelled")))
    recipe = TeacherRecipe(model=str(encoder), training=TrainingRecipe())
    with pytest.raises(GeodistillError, match="cannot be fine-tuned on data without labels"):
        prepare_teacher(recipe, unlabelled, tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()
    taught = prepare_teacher(TeacherRecipe(model=str(encoder)), unlabelled, tmp_path / "teacher")
    assert taught.scores.metrics == {} and taught.training_seconds is None


def test_micro_batches_leave_a_classifiers_gradient_as_it_is(
    classifier: Path, examples: Classification, tmp_path: Path
) -> None:
    """One step of plain descent, without dropout, on 16 examples in the order of the data."""
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path / "model")
    plain: dict[str, Any] = {"learning_rate": 1.0, "schedule": "constant", "warmup": 0, "max_gradient_norm": 0}
    plain |= {"max_steps": 1, "arguments": {"optim": "sgd", "train_sampling_strategy": "sequential"}}
    weights = []
    for batch, accumulation in ((16, 1), (4, 4)):
        training = TrainingRecipe(batch_size=batch, gradient_accumulation=accumulation, **plain)
        folder = tmp_path / str(batch)
        recipe = TeacherRecipe(model=str(tmp_path / "model"), training=training)
        prepare_teacher(recipe, examples, folder, progress=False)
        weights.append(load_file(folder / "model.safetensors"))
    before = load_file(tmp_path / "model" / "model.safetensors")
    assert (weights[0]["classifier.bias"] - before["classifier.bias"]).norm() > 1e-3
    torch.testing.assert_close(weights[0], weights[1])
