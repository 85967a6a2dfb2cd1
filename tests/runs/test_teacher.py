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
from geodistill.files import read_lines
from geodistill.recipe import DataRecipe, TeacherRecipe, TrainingRecipe
from geodistill.runs import fine_tune as fine_tune_module
from geodistill.runs.folder import TEST_PREDICTIONS, read_json, read_metrics
from geodistill.runs.teacher import TEACHER_FILE, prepare_teacher
from geodistill.tasks.classification import Classification


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

    given = prepare_teacher(TeacherRecipe(model=str(tmp_path)), examples, tmp_path / "copy", progress=False)
    assert given.scores.metrics == first.scores.metrics
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {TEACHER_FILE, TEST_PREDICTIONS}
    answers = [read_lines(folder / TEST_PREDICTIONS) for folder in (tmp_path, tmp_path / "copy")]
    assert answers[0] == answers[1] and len(answers[0]) == len(examples.examples.splits["test"])


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


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that a model was scored on, in order."""
    splits: list[str] = []
    score = Classification.score

    def counted(self: Classification, model: Any, tokenizer: Any, encoded: Any, split: str, **options: Any) -> Any:
        splits.append(split)
        return score(self, model, tokenizer, encoded, split, **options)

    monkeypatch.setattr(Classification, "score", counted)
    return splits


def test_a_given_teacher_is_scored_once(
    encoder: Path, examples: Classification, scored: list[str], tmp_path: Path
) -> None:
    fine_tuned = TeacherRecipe(model=str(encoder), training=TrainingRecipe(max_steps=1, batch_size=8))
    prepare_teacher(fine_tuned, examples, tmp_path / "given", progress=False)
    (tmp_path / "given" / TEACHER_FILE).unlink()
    scored.clear()
    recipe = TeacherRecipe(model=str(tmp_path / "given"))
    found = [prepare_teacher(recipe, examples, tmp_path / "kept", progress=False).scores.metrics for _ in range(2)]
    assert scored == ["test"] and found[0] == found[1]
    assert not (tmp_path / "given" / TEACHER_FILE).exists(), "a user's folder is not written to"


@pytest.mark.parametrize("change", ["weights", "precision", "files", "metrics"])
def test_scores_made_in_another_way_are_not_used(
    encoder: Path, examples: Classification, scored: list[str], change: str, tmp_path: Path
) -> None:
    recipe = TeacherRecipe(model=str(encoder), training=TrainingRecipe(max_steps=1, batch_size=8))
    prepare_teacher(recipe, examples, tmp_path, progress=False)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    if change == "weights":
        recipe = recipe.model_copy(update={"weights": "bfloat16"})
    elif change == "precision":
        recipe = recipe.model_copy(update={"precision": "bfloat16"})
    elif change == "files":
        (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + " ")
    else:
        examples.scoring = "another way"
    scored.clear()
    prepare_teacher(recipe, examples, tmp_path, progress=False)
    assert scored == ["test"] and (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp, "not trained again"
    prepare_teacher(recipe, examples, tmp_path, progress=False)
    assert scored == ["test"]


def test_an_interrupted_training_is_not_gone_on_with_by_another(
    encoder: Path, examples: Classification, tmp_path: Path
) -> None:
    def train(folder: Path, **settings: Any) -> Any:
        training = TrainingRecipe(max_steps=4, batch_size=16, save_steps=2, logging_steps=1, **settings)
        prepare_teacher(TeacherRecipe(model=str(encoder), training=training), examples, folder, progress=False)
        return load_file(folder / "model.safetensors")

    expected = train(tmp_path / "alone", learning_rate=1e-3)
    train(tmp_path / "after", learning_rate=1e-5)  # its checkpoints stay
    found = train(tmp_path / "after", learning_rate=1e-3)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [entry["step"] for entry in read_metrics(tmp_path / "after") if "loss" in entry] == [1, 2, 3, 4]


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
