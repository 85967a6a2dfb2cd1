"""Whole runs, on the bundled weights cut to two layers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from geodistill.errors import GeodistillError
from geodistill.files import LOCK
from geodistill.recipe import DataRecipe, Recipe
from geodistill.runs import train as train_module
from geodistill.runs.arguments import train_to_the_end
from geodistill.runs.evaluate import evaluate
from geodistill.runs.folder import clear_run, read_json, read_metrics
from geodistill.runs.predict import predict
from geodistill.runs.prepare import cache_name, kept_logits, stages_of
from geodistill.runs.recipe_file import load_recipe, merge
from geodistill.runs.run_results import RunResults
from geodistill.runs.train import train
from geodistill.studies.report.run_page import report_run
from geodistill.tasks import classification as classification_module
from geodistill.tasks.task import Task

MakeRecipe = Callable[..., Recipe]


def run(recipe: Recipe, folder: Path, **options: Any) -> RunResults:
    results = train(recipe, folder, **{"progress": False, **options})
    assert results is not None
    return results


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def two_stages(make_recipe: MakeRecipe, write_csv: Any, questions: list[tuple[str, str]]) -> Callable[..., Recipe]:
    """Two stages of four steps each, with a learned projection and dropout: all that a checkpoint has to hold."""
    data = {"source": str(write_csv(questions, "labelled/train.csv").parent), "max_length": 16}
    training = {"epochs": 4, "max_steps": 5, "batch_size": 16, "learning_rate": 1e-3, "logging_steps": 1}
    training["schedule"] = "constant"  # so that a step too many shows in the weights
    term = {"loss": "projection", "rows": "mean"}
    stage = {
        "name": "warm",
        "data": {**data, "problem": "unlabelled"},
        "objective": {"features": [term]},
        "training": {**training, "save_steps": 2},
    }
    objective = {"label": {}, "logits": {}, "features": [term, {"loss": "gram", "layers": "auto"}]}

    def make(save_steps: int | None = 2) -> Recipe:
        saving = {**training, "save_steps": save_steps}
        return make_recipe(data=data, objective=objective, stages=[stage], training=saving)

    return make


@pytest.fixture
def uninterrupted(two_stages: Callable[..., Recipe], tmp_path: Path) -> Path:
    run(two_stages(), tmp_path / "whole")
    return tmp_path / "whole"


def test_an_interrupted_run_ends_with_the_same_weights(
    two_stages: Callable[..., Recipe], uninterrupted: Path, interrupt: Callable[[str, int], None], tmp_path: Path
) -> None:
    folder = tmp_path / "interrupted"
    for stage, step in (("warm", 1), ("warm", 3), ("task", 1), ("task", 5)):
        interrupt(stage, step)
        with pytest.raises(KeyboardInterrupt):
            train(two_stages(), folder)
        assert not (folder / "results.json").exists() and not (folder / "student").exists()
    results = run(two_stages(), folder)
    assert_same_weights(folder, uninterrupted)
    whole = read_json(uninterrupted / "results.json")
    assert results.metrics == whole["metrics"] and results.geometry == whole["geometry"]
    assert results.layers == whole["layers"]
    steps = [(entry["stage"], entry["step"]) for entry in read_metrics(folder) if "loss" in entry]
    assert steps == [(stage, step) for stage in ("warm", "task") for step in range(1, 6)]
    losses = [[entry["loss"] for entry in read_metrics(place) if "loss" in entry] for place in (folder, uninterrupted)]
    assert losses[0] == losses[1]


def test_a_run_without_checkpoints_starts_again(
    make_recipe: MakeRecipe, interrupt: Callable[[str, int], None], tmp_path: Path
) -> None:
    recipe = make_recipe(training={"logging_steps": 1})
    interrupt("task", 2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "one")
    run(recipe, tmp_path / "one")
    run(recipe, tmp_path / "two")
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    steps = [entry["step"] for entry in read_metrics(tmp_path / "one") if "loss" in entry]
    assert steps == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_named(
    two_stages: Callable[..., Recipe], interrupt: Callable[[str, int], None], tmp_path: Path
) -> None:
    interrupt("task", 3)
    with pytest.raises(KeyboardInterrupt):
        train(two_stages(), tmp_path / "run")
    for file in (tmp_path / "run" / "checkpoints" / "task").glob("checkpoint-2/model.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(GeodistillError, match=r"checkpoint-2 cannot be read.*Delete that folder"):
        run(two_stages(), tmp_path / "run")


def test_the_cache_changes_nothing_but_the_time(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    cached = make_recipe(teacher={"cache_dtype": "float32", "precision": "float32"})
    online = make_recipe(teacher={"precision": "float32", "cache": False})
    run(cached, tmp_path / "cached")
    run(online, tmp_path / "online")
    assert not (tmp_path / "cached" / "cache").exists()
    one, two = weights(tmp_path / "cached"), weights(tmp_path / "online")
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)


def test_caches_of_other_cuts_lie_side_by_side(make_recipe: MakeRecipe) -> None:
    task = cast(Task, SimpleNamespace(fingerprint="0123456789abcdef"))
    objectives = [{"label": {}}, {"logits": {}}, {"logits": {"temperature": 1.5}}]
    stages = [stages_of(make_recipe(objective=objective))[-1] for objective in objectives]
    assert [cache_name(task, kept_logits(stage, None)) for stage in stages] == ["0123456789ab"] * 3
    at_two = "0123456789ab-top-64-at-2"
    found = [cache_name(task, kept_logits(stage, 64)) for stage in stages]
    assert found == [at_two, at_two, "0123456789ab-top-64-at-1.5"]


def test_the_seed_decides_the_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for seed in (1, 2):
        run(make_recipe(training={"seed": seed, "max_steps": 1}), tmp_path / str(seed))
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert not torch.equal(
        one["bert.encoder.layer.0.output.dense.weight"], two["bert.encoder.layer.0.output.dense.weight"]
    )


def test_a_regression_from_a_file(make_recipe: MakeRecipe, encoder: Path, write_csv: Any, tmp_path: Path) -> None:
    rows = [(f"{'very ' * (i % 9)}good number {i}", (i % 9) / 4) for i in range(80)]
    recipe = make_recipe(
        data={"source": str(write_csv(rows, header="review,stars")), "label": "stars", "limit": None},
        teacher={"model": str(encoder), "training": {"max_steps": 2, "batch_size": 16}},
    )
    results = run(recipe, tmp_path / "run")
    assert set(results.metrics) == {"pearson", "spearman"} == set(results.teacher.metrics)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    assert student.config.num_labels == 1 and student.config.problem_type == "regression"
    assert all("logits" in entry for entry in read_metrics(tmp_path / "run") if "loss" in entry)


def test_unlabelled_text_alone(make_recipe: MakeRecipe, write_csv: Any, tmp_path: Path) -> None:
    rows = [(f"this is sentence {i}", "") for i in range(60)]
    recipe = make_recipe(
        data={"source": str(write_csv(rows)), "problem": "unlabelled"}, objective={"features": [{"loss": "gram"}]}
    )
    results = run(recipe, tmp_path / "run")
    assert results.metrics == {} and results.split == "validation"
    assert results.geometry[0]["gram"]["value"] > 0


def test_a_label_term_needs_labels(make_recipe: MakeRecipe, write_csv: Any, tmp_path: Path) -> None:
    rows = [(f"this is sentence {i}", "") for i in range(60)]
    recipe = make_recipe(data={"source": str(write_csv(rows)), "problem": "unlabelled"})
    with pytest.raises(GeodistillError, match="label"):
        run(recipe, tmp_path / "run")


def test_a_teacher_whose_labels_are_in_another_order(make_recipe: MakeRecipe, classifier: Path, tmp_path: Path) -> None:
    straight = run(make_recipe(), tmp_path / "straight")
    teacher = AutoModelForSequenceClassification.from_pretrained(classifier)
    order = [5, 3, 1, 0, 2, 4]
    names = [teacher.config.id2label[number] for number in order]
    teacher.classifier.weight.data = teacher.classifier.weight.data[order]
    teacher.classifier.bias.data = teacher.classifier.bias.data[order]
    teacher.config.id2label = dict(enumerate(names))
    teacher.config.label2id = {name: number for number, name in enumerate(names)}
    teacher.save_pretrained(tmp_path / "turned")
    AutoTokenizer.from_pretrained(classifier).save_pretrained(tmp_path / "turned")
    results = run(make_recipe(teacher={"model": str(tmp_path / "turned")}), tmp_path / "run")
    assert results.teacher.metrics == pytest.approx(straight.teacher.metrics)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    assert student.config.id2label == dict(enumerate(names))


def test_a_finished_run_is_read_and_gets_its_onnx_file_later(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe = make_recipe(objective={"label": {}, "features": [{"loss": "procrustes", "layers": "auto"}]})
    first = run(recipe, folder)
    assert first.onnx_difference is None and not (folder / "student" / "model.onnx").exists()
    (chosen,) = first.layers
    assert chosen["term"] == "objective.features.0" and chosen["pairs"][0][0] == 1 and len(chosen["reasons"]) == 1
    assert any("chosen before the training: 1 ↔ " in note for note in first.notes)
    assert load_recipe(folder / "recipe.yaml").objective.features[0].layers == [tuple(chosen["pairs"][0])]
    card = (folder / "student" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-classification" and front["tags"][0] == "geodistill"
    assert "license" not in front and "base_model" not in front
    assert f"| accuracy | {first.metrics['accuracy']:.4f} (0." in card and "loss: procrustes" in card
    assert f"| 1 ↔ 2 | {first.geometry[0]['procrustes']['value']:.3f}, " in card
    assert all(note in card for note in first.notes)
    stamp = (folder / "metrics.jsonl").stat().st_mtime_ns
    again = run(recipe, folder, onnx=True)
    assert 0 <= again.onnx_difference <= 1e-4 and (folder / "student" / "model.onnx").is_file()
    assert replace(again, onnx_difference=None) == first
    assert read_json(folder / "results.json") == again.to_dict()
    assert (folder / "student" / "README.md").read_text(encoding="utf-8") == card
    assert load_recipe(folder / "recipe.yaml").objective.features[0].layers == [tuple(chosen["pairs"][0])]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp


@pytest.fixture
def with_files(
    make_recipe: MakeRecipe, encoder: Path, write_csv: Any, questions: list[tuple[str, str]], tmp_path: Path
) -> MakeRecipe:
    """A run whose data, stage data and student all lie in separate files."""
    source = str(write_csv(questions, "labelled.csv"))
    stage = {"name": "warm", "data": {"source": str(write_csv(questions[:40], "stage.csv")), "problem": "unlabelled"}}
    stage |= {"objective": {"features": [{"loss": "gram"}]}, "training": {"max_steps": 1, "batch_size": 8}}
    shutil.copytree(encoder, tmp_path / "student")
    student = {"width": None, "layers": None, "model": str(tmp_path / "student")}
    content = {"data": {"source": source, "limit": None}, "student": student, "stages": [stage]}

    def make(**changes: Any) -> Recipe:
        return make_recipe(**merge(merge(content, {"training": {"max_steps": 1}}), changes))

    return make


def test_a_finished_run_is_read_while_its_result_is_the_same(with_files: MakeRecipe, tmp_path: Path) -> None:
    folder, place = tmp_path / "run", tmp_path / "moved"
    first = run(with_files(), folder)
    stamp = (folder / "metrics.jsonl").stat().st_mtime_ns
    place.mkdir()
    shutil.copytree(tmp_path / "student", place / "student")
    for name in ("labelled.csv", "stage.csv"):
        (tmp_path / name).rename(place / name)
    recipe = with_files(
        data={"source": str(place / "labelled.csv")},
        student={"model": str(place / "student")},
        teacher={"cache": False},
        training={"logging_steps": 7},
        compare={"seeds": [5]},
    )
    moved = DataRecipe(source=str(place / "stage.csv"), problem="unlabelled")
    stage = recipe.stages[0].model_copy(update={"data": moved})
    recipe = recipe.model_copy(update={"stages": [stage]})
    assert run(recipe, folder) == first
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert evaluate(folder, progress=False)["metrics"] == first.metrics, "the recipe names where the data lies now"

    weights = AutoModel.from_pretrained(place / "student")
    weights.embeddings.word_embeddings.weight.data += 1e-3
    weights.save_pretrained(place / "student")
    with pytest.raises(GeodistillError, match="holds another run"):
        run(recipe, folder)


def test_other_rows_of_a_stage_make_another_run(with_files: MakeRecipe, tmp_path: Path) -> None:
    run(with_files(), tmp_path / "run")
    lines = (tmp_path / "stage.csv").read_text().splitlines(keepends=True)
    (tmp_path / "stage.csv").write_text("".join(lines[:-1]))
    with pytest.raises(GeodistillError, match="holds another run"):
        run(with_files(), tmp_path / "run")


def test_data_is_read_once(with_files: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    load = classification_module.load_examples

    def noted(data: DataRecipe, *others: Any) -> Any:
        read.append(Path(data.source).name)
        return load(data, *others)

    monkeypatch.setattr(classification_module, "load_examples", noted)
    run(with_files(), tmp_path / "run")
    assert read == ["labelled.csv", "stage.csv"]


def test_a_fresh_start_leaves_nothing_of_the_last(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    training = {"max_steps": 2, "batch_size": 16, "save_steps": 1}
    recipe = make_recipe(student={"training": training}, training={"save_steps": 1, "max_steps": 2, "epochs": 1})
    folder = tmp_path / "run"
    report_run(run(recipe, folder, onnx=True))
    evaluate(folder, progress=False)
    assert {"students", "checkpoints", "student", "report.html", "predictions.jsonl"} <= set(os.listdir(folder))
    clear_run(folder)
    assert set(os.listdir(folder)) <= {LOCK}


def test_a_stage_is_not_trained_on_what_the_task_is_measured_on(
    make_recipe: MakeRecipe,
    write_csv: Any,
    questions: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    data = {"source": str(write_csv(questions)), "max_length": 16}
    stage = {
        "name": "warm",
        "data": {**data, "problem": "unlabelled", "seed": 1},
        "objective": {"features": [{"loss": "gram"}]},
        "training": {"max_steps": 1, "batch_size": 16},
    }
    trained: dict[str, int] = {}

    def train_stage(stage: Any, recipe: Any, student: Any, ready: Any, *more: Any) -> Any:
        trained[stage.name] = len(ready.learnt)
        return original(stage, recipe, student, ready, *more)

    original = train_module.train_stage
    monkeypatch.setattr(train_module, "train_stage", train_stage)
    results = run(make_recipe(data=data, stages=[stage], training={"max_steps": 1}), tmp_path / "run")
    assert trained == {"warm": 40, "task": 42}
    (note,) = [note for note in results.notes if note.startswith("Stage 'warm': ")]
    assert "of the 57 train rows were left out: their texts are also in" in note and "in the task's test part" in note
    assert list(results.read) == ["task", "warm"] and read_json(tmp_path / "run" / "results.json") == results.to_dict()
    assert results.read["task"]["labels"]["NUM"] == {"train": 7, "validation": 1, "test": 2}
    assert note.endswith(results.read["warm"]["notes"][0])


def test_a_run_begins_with_what_it_read(
    make_recipe: MakeRecipe, write_csv: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"what is number {i} {'and the next ' * (i % 2) * 9}?", ("DESC", "NUM")[i % 2]) for i in range(60)]
    for name, start, stop in (("train", 0, 40), ("dev", 36, 50), ("test", 45, 60)):
        write_csv([*rows[start:stop], ("", "NUM")], f"data/{name}.csv", header="question,kind")
    recipe = make_recipe(
        data={"source": str(tmp_path / "data"), "label": "kind", "max_length": 24}, training={"max_steps": 1}
    )
    results = train(recipe, tmp_path / "run")
    told = capsys.readouterr().err
    assert told.startswith("Read for the task:\n  source: ")
    for line in (
        "rows: train 36, validation 9 (split 'dev'), test 15",
        "columns: The text is the column 'question', found by its usual name. The label is the column 'kind', which "
        "data.label names.",
        "labels (train, validation, test): 'DESC' 18, 5, 7; 'NUM' 18, 4, 8",
        "1 of the 41 train rows have an empty text and were dropped.",
        "5 of the 14 validation rows were left out: their texts are also in the held-out data (5 in the test part).",
        "4 of the 40 train rows were left out: their texts are also in the held-out data (4 in the validation part).",
        "18 of the 36 train texts are longer than 24 tokens and were cut.",
    ):
        assert told.count(f"\n  {line}\n") == 1, line
    assert results.read["task"]["cut"] == {"train": 18, "validation": 4, "test": 8}


def test_the_task_is_the_last_stage(two_stages: Callable[..., Recipe]) -> None:
    recipe = two_stages()
    assert [stage.name for stage in stages_of(recipe)] == ["warm", "task"]
    assert stages_of(recipe)[1].objective == recipe.objective


def test_a_rotated_cache_serves_every_feature_loss(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The projection is as wide as the rows that come, and the geometry is what the whole rows give."""
    terms = [{"loss": "procrustes", "weight": 3}, {"loss": "projection"}]
    objective = {"label": {}, "features": terms}
    whole = make_recipe(objective=objective, teacher={"cache_dtype": "float32"})
    rotated = make_recipe(objective=objective, teacher={"cache_dtype": "float32", "cache_variance": 0.95})
    for name, recipe in (("whole", whole), ("rotated", rotated)):
        train(recipe, tmp_path / name, progress=False)
    first, second = (read_metrics(tmp_path / name)[0] for name in ("whole", "rotated"))
    assert second["procrustes_1_2"] == pytest.approx(first["procrustes_1_2"], abs=0.05)
    assert second["procrustes_1_2"] != first["procrustes_1_2"]
    assert second["projection_1_2"] > 0


def test_adapters_are_merged_into_the_student_that_is_written(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(student={"width": None, "layers": None, "teacher_layers": 1, "lora": {"rank": 2}})

    def train_and_save(trainer: Any, checkpoints: Path) -> None:
        train_to_the_end(trainer, checkpoints)
        trainer.processing_class = AutoTokenizer.from_pretrained(recipe.teacher.model)
        trainer.save_model(str(tmp_path / "saved"))

    monkeypatch.setattr(train_module, "train_to_the_end", train_and_save)
    results = run(recipe, tmp_path / "run")
    ours, theirs = (
        {file.name: file.read_bytes() for file in folder.iterdir()}
        for folder in (tmp_path / "run" / "student", tmp_path / "saved")
    )
    assert b"# A student of geodistill" in ours.pop("README.md")  # a run alone knows what the card tells
    assert ours == theirs
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    teacher = AutoModelForSequenceClassification.from_pretrained(recipe.teacher.model)
    assert results.parameters == sum(each.numel() for each in student.parameters())
    assert not any("lora" in name for name in weights(tmp_path / "run"))
    layers = [model.bert.encoder.layer[0].attention.self.query for model in (student, teacher)]
    assert torch.equal(layers[0].bias, layers[1].bias)
    update = layers[0].weight - layers[1].weight
    # Two singular values are adapters; the rest is what rounding leaves.
    values = torch.linalg.svdvals(update)
    assert values[1] > 0 and values[2] < 1e-3 * values[0]


@pytest.fixture
def several(make_recipe: MakeRecipe, encoder: Path, write_jsonl: Any, questions: list[tuple[str, str]]) -> Recipe:
    """Questions with none, one or two labels, a sigmoid head fine-tuned on them, and all three kinds of terms."""
    lists = [[] if label == "ABBR" else [label, "RIVER"] if "river" in text else [label] for text, label in questions]
    path = write_jsonl(zip([text for text, _ in questions], lists, strict=True), "several/train.jsonl")
    changes = {
        "data": {"source": str(path), "limit": None},
        "teacher": {"model": str(encoder), "training": {"max_steps": 2, "batch_size": 16}},
        "training": {"save_steps": 2, "epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1},
    }
    return make_recipe(**changes)


def test_several_labels_a_row_from_the_file_to_the_page(several: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    results = run(several, folder)
    metrics = ["micro_f1", "macro_f1", "subset_accuracy"]
    assert list(results.metrics) == list(results.teacher.metrics) == metrics
    logged = [entry for entry in read_metrics(folder) if entry["stage"] == "task" and "loss" in entry]
    assert logged and all({"label", "logits"} <= entry.keys() for entry in logged)
    student = AutoModelForSequenceClassification.from_pretrained(folder / "student")
    assert student.config.problem_type == "multi_label_classification"
    assert sorted(student.config.label2id) == ["DESC", "ENTY", "HUM", "LOC", "NUM", "RIVER"]
    tokens = AutoTokenizer.from_pretrained(folder / "student")("What is near?", return_tensors="pt")
    assert torch.isfinite(student(**tokens, labels=torch.zeros(1, 6)).loss)
    assert run(several, folder) == results


def test_a_student_of_several_labels_is_evaluated_and_predicts(
    several: Recipe, tmp_path: Path, write_jsonl: Any
) -> None:
    results = run(several, tmp_path / "run")
    assert results.constant.metrics.keys() == results.metrics.keys()
    read = results.read["task"]
    assert read["problem"] == "multi_label" and "are a list" in read["reason"]
    assert sum(read["labels"]["RIVER"].values()) > 0
    assert evaluate(tmp_path / "run")["metrics"] == results.metrics
    path = write_jsonl([("What is it?", ["river"]), ("Who is it?", []), ("Where?", None)], "other.jsonl")
    scores = evaluate(tmp_path / "run", [f"data.source={path}"], output=tmp_path / "lines.jsonl")
    assert scores["examples"] == 2 and list(scores["metrics"]) == list(results.metrics)
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["reference"] for line in lines] == [["RIVER"], []]
    answers = list(predict(tmp_path / "run", str(path)))
    assert [line["prediction"] for line in answers[:2]] == [line["prediction"] for line in lines]
    assert set(answers[0]) == {"row", "text", "prediction", "probabilities"} and len(answers[0]["probabilities"]) == 6


def test_a_regression_of_two_columns(make_recipe: MakeRecipe, encoder: Path, tmp_path: Path, write_csv: Any) -> None:
    path = write_csv([(f"text number {place}", f"{place / 8},{-place}") for place in range(60)], header="text,x,y")
    recipe = make_recipe(
        data={"source": str(path), "label": ["x", "y"]},
        teacher={"model": str(encoder), "training": {"max_steps": 2, "batch_size": 16}},
    )
    results = run(recipe, tmp_path / "run")
    assert list(results.metrics) == ["pearson", "spearman"]
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student").config
    assert (config.problem_type, config.id2label) == ("regression", {0: "x", 1: "y"})
    assert evaluate(tmp_path / "run")["metrics"] == results.metrics
    assert len(next(iter(predict(tmp_path / "run", str(path))))["prediction"]) == 2


def test_several_labels_resume_to_the_same_weights(
    several: Recipe, tmp_path: Path, interrupt: Callable[[str, int], None]
) -> None:
    run(several, tmp_path / "whole")
    interrupt("task", 3)
    with pytest.raises(KeyboardInterrupt):
        run(several, tmp_path / "broken", progress=True)
    interrupt("task", -1)
    run(several, tmp_path / "broken", progress=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")
