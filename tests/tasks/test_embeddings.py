"""Two sides that read different columns: arrays, texts and images, through a whole run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sensors import SensorModel, sensor
from transformers import AutoModel, AutoModelForSequenceClassification, ViTConfig, ViTModel

from geodistill.api import train
from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.predict import predict
from geodistill.runs.recipe_file import check_recipe, merge, read_yaml
from geodistill.tasks.choose import task_of
from geodistill.tasks.reading import student_reader

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty walks of twelve time bins: two latent dimensions seen by an ankle and a trunk; and a model of each."""
    folder = tmp_path_factory.mktemp("sensors")
    draw = np.random.default_rng(0)
    latent = draw.normal(size=(80, 12, 2)).cumsum(axis=1)
    ankle, trunk = latent @ draw.normal(size=(2, 3)), latent @ draw.normal(size=(2, 5))
    np.savez(folder / "rows.npz", ankle=ankle, trunk=trunk, mean=trunk.mean(axis=1), shorter=trunk[:, 1:])
    sensor(5, 16, 2, seed=1).save_pretrained(folder / "teacher")
    sensor(3, 8, 1).save_pretrained(folder / "student")
    return folder


@pytest.fixture
def make(sensors: Path) -> MakeRecipe:
    content: dict[str, Any] = {
        "task": "embeddings",
        "data": {"source": str(sensors / "rows.npz"), "columns": {"student": "ankle", "teacher": "trunk"}},
        "teacher": {"model": str(sensors / "teacher")},
        "student": {"model": str(sensors / "student")},
        "objective": {"features": [{"loss": "procrustes"}, {"loss": "cka", "rows": "tokens"}]},
        "training": {"epochs": 6, "batch_size": 16, "learning_rate": 1e-2, "logging_steps": 2},
    }
    return lambda **changes: check_recipe(merge(content, changes))


def test_two_sensors_from_a_recipe_to_a_student(make: MakeRecipe, tmp_path: Path) -> None:
    results = train(make(), tmp_path / "run", progress=False)
    assert results is not None
    assert results.split == "test" and set(results.metrics) == {"retrieval@1", "retrieval@10", "similarity_structure"}
    assert results.metrics["retrieval@10"] == 1 and results.metrics["similarity_structure"] > 0.8
    assert results.geometry[0]["procrustes"]["value"] < results.geometry[0]["procrustes"]["chance"]
    assert "retrieval@10" in str(results)
    student = AutoModel.from_pretrained(tmp_path / "run" / "student")
    assert isinstance(student, SensorModel) and not (tmp_path / "run" / "cache").exists()
    scores = evaluate(tmp_path / "run", progress=False)
    assert scores["metrics"] == pytest.approx(results.metrics)
    line = json.loads((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()[0])
    assert line["split"] == "test" and 1 <= line["rank"] <= 16
    assert line["paired"] == f"row {line['row']}" and ("retrieved" in line) == (line["rank"] > 1)  # arrays have no text
    check_other_data(tmp_path / "run", student, tmp_path)


def check_other_data(run: Path, student: SensorModel, folder: Path) -> None:
    """Rows that the run has not seen, with other names of the columns and one row that lacks an input."""
    test = task_of(check_recipe(read_yaml(run / "recipe.yaml"))).examples.splits["test"]  # type: ignore[attr-defined]
    rows = [
        {"left": ankle.tolist(), "right": trunk.tolist()}
        for ankle, trunk in zip(test["ankle"], test["trunk"], strict=True)
    ]
    (folder / "other.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"left": None, "right": rows[0]["right"]}])))
    named = [f"data.source={folder / 'other.jsonl'}", "data.columns.student=left", "data.columns.teacher=right"]
    scores = evaluate(run, named, progress=False)
    assert scores["metrics"] == pytest.approx(evaluate(run, output=folder / "own.jsonl", progress=False)["metrics"])
    assert (scores["split"], scores["examples"]) == (None, 16)
    assert "1 of the 17 other.jsonl rows lack the input of a side" in " ".join(scores["notes"])
    with pytest.raises(GeodistillError, match=r"other.jsonl has no column 'ankle'.*data.columns.student=COLUMN"):
        evaluate(run, named[:1], progress=False)
    with pytest.raises(
        GeodistillError, match="'right' holds arrays of 2 axes and width 3 in the train split and arrays of 2 axes"
    ):
        evaluate(run, [named[0], "data.columns.student=right", "data.columns.teacher=left"], progress=False)

    lines = list(predict(run, str(folder / "other.jsonl"), ["data.columns.student=left"], chunk=10))
    expected = student(torch.tensor(rows[11]["left"])[None]).last_hidden_state.mean(dim=1)[0]
    assert lines[11]["embedding"] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)
    assert lines[16] == {"row": 16, "embedding": None, "note": "there is no array"}
    with pytest.raises(GeodistillError, match=r"no column 'ankle', which the student reads"):
        list(predict(run, str(folder / "other.jsonl")))
    bad = {"rows.npz": np.zeros((1, 4, 2)), "nan.npz": np.full((1, 4, 3), np.nan)}
    for name, ankle in bad.items():
        np.savez(folder / name, ankle=ankle)
        (line,) = predict(run, str(folder / name))
        assert line["embedding"] is None and ("shape (time, 3)" in line["note"] or "NaN" in line["note"])


def test_the_cache_changes_nothing(make: MakeRecipe, tmp_path: Path) -> None:
    cached = train(make(teacher={"cache_dtype": "float32"}), tmp_path / "cached", progress=False)
    asked = train(make(teacher={"cache": False}), tmp_path / "asked", progress=False)
    assert cached is not None and asked is not None
    assert cached.metrics == pytest.approx(asked.metrics)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(make: MakeRecipe, tmp_path: Path) -> None:
    steps = {"save_steps": 8}
    whole = train(make(training=steps), tmp_path / "whole", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "results.json").unlink()
    shutil.rmtree(tmp_path / "again" / "student")
    checkpoints = sorted(
        (tmp_path / "again" / "checkpoints" / "task").glob("checkpoint-*"), key=lambda p: int(p.name[11:])
    )
    for later in checkpoints[1:]:
        shutil.rmtree(later)
    again = train(make(training=steps), tmp_path / "again", progress=False)
    assert whole is not None and again is not None and again.metrics == whole.metrics
    states = [AutoModel.from_pretrained(tmp_path / name / "student").state_dict() for name in ("whole", "again")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_sentence_beside_an_image(encoder: Path, tmp_path: Path) -> None:
    """A text student of an image teacher: columns of two kinds, rows of whole inputs."""
    rows = []
    for place in range(60):
        level, side = 40 * (place % 6), ("left", "right")[place % 2]
        pixels = np.zeros((16, 16, 3), dtype=np.uint8)
        pixels[:, slice(0, 8) if side == "left" else slice(8, 16)] = level + place // 12
        Image.fromarray(pixels).save(tmp_path / f"{place}.png")
        rows.append({"caption": f"level {place % 6} on the {side}, number {place}", "picture": f"{place}.png"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **shape)).save_pretrained(tmp_path / "vit")
    recipe = check_recipe(
        {
            "task": "embeddings",
            "data": {"source": str(tmp_path / "rows.jsonl"), "columns": {"student": "caption", "teacher": "picture"}},
            "teacher": {"model": str(tmp_path / "vit")},
            "student": {"model": str(encoder)},
            "objective": {"features": [{"loss": "gram", "layers": "last"}, {"loss": "cka", "rows": "cls"}]},
            "training": {"max_steps": 3, "batch_size": 16},
        }
    )
    results = train(recipe, tmp_path / "run", progress=False)
    assert results is not None and results.geometry[0]["rows"] == "mean"
    assert (tmp_path / "run" / "student" / "tokenizer.json").is_file()


def test_one_column_on_both_sides_is_one_batch(make: MakeRecipe, sensors: Path) -> None:
    both = make(data={"columns": {"student": "ankle", "teacher": "ankle"}}, teacher={"model": str(sensors / "student")})
    assert student_reader(both, task_of(both)) is None
    assert student_reader(make(), task_of(make())) is not None


def columns(student: str, teacher: str) -> dict[str, Any]:
    return {"data": {"columns": {"student": student, "teacher": teacher}}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"data": {"columns": {"student": "ankle", "teacher": "shorter"}}},
            r"time bins do not correspond: .* has 12 .* 11",
        ),
        (
            {"data": {"columns": {"student": "ankle", "teacher": "mean"}}},
            "'mean' has no time bins, so it has no rows 'tokens'",
        ),
        (
            {"data": {"columns": {"student": "trunk", "teacher": "trunk"}}},
            r"SensorModel does not read the column 'trunk' \(input_values \(2, 5\)",
        ),
        ({"student": {"model": "bundled:minilm-l6"}}, "reads texts, and its column 'ankle' holds arrays"),
        ({"teacher": {"training": {"epochs": 1}}}, "no labels to be fine-tuned on"),
        ({"data": {"metrics": ["retrieval"]}}, "no metric 'retrieval' of embeddings"),
        ({"objective": {"features": [{"loss": "cka", "rows": "words"}]}}, "'words'"),
        ({"task": "classification"}, "'data.columns' in the recipe would change nothing"),
    ],
)
def test_what_does_not_go_together(make: MakeRecipe, tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(GeodistillError, match=problem):
        train(make(**changes), tmp_path / "run", progress=False)


def write_lines(folder: Path, *lines: str) -> Path:
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "lines.txt"


def test_labels_are_for_a_label_term_of_the_student(encoder: Path, tmp_path: Path) -> None:
    rows = [{"fr": f"un texte {place}", "en": f"a text {place}", "kind": "ab"[place % 2]} for place in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    content: dict[str, Any] = {
        "task": "embeddings",
        "data": {
            "source": str(tmp_path / "rows.jsonl"),
            "columns": {"student": "fr", "teacher": "en"},
            "label": "kind",
        },
        "teacher": {"model": str(encoder)},
        "student": {"model": str(encoder)},
        "objective": {"label": {}, "features": [{"loss": "cosine"}]},
        "training": {"max_steps": 2, "batch_size": 8, "logging_steps": 1},
    }
    results = train(check_recipe(content), tmp_path / "run", progress=False)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student")
    assert results is not None and student.config.id2label == {0: "a", 1: "b"}
    assert list(results.metrics) == ["retrieval@1", "retrieval@10", "similarity_structure", "accuracy", "macro_f1"]
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("label" in entry for entry in logged if "loss" in entry)
    assert evaluate(tmp_path / "run", progress=False)["metrics"] == pytest.approx(results.metrics)
    scored = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    right = sum(line["prediction"] == line["reference"] for line in scored) / len(scored)
    assert results.metrics["accuracy"] == pytest.approx(right)
    texts = {line["paired"]: line["text"] for line in scored}
    assert all(text.replace("un texte", "a text") == paired for paired, text in texts.items())
    assert {line["retrieved"] for line in scored if line["rank"] > 1} <= set(texts)
    assert ("Wrong nearest neighbours" in results.report.read_text()) == any(line["rank"] > 1 for line in scored)
    (tmp_path / "new.csv").write_text("fr,en,kind\nun texte,a text,A\nun autre,another,b\n", encoding="utf-8")
    found = evaluate(tmp_path / "run", [f"data.source={tmp_path / 'new.csv'}"], progress=False)
    assert found["examples"] == 2 and set(found["metrics"]) == set(results.metrics)
    (tmp_path / "bare.csv").write_text("fr,en\nun texte,a text\n,another\n", encoding="utf-8")
    found = evaluate(tmp_path / "run", [f"data.source={tmp_path / 'bare.csv'}"], progress=False)
    assert set(found["metrics"]) == {"retrieval@1", "retrieval@10", "similarity_structure"}
    assert "There is no column 'kind'" in " ".join(found["notes"])
    first, empty = predict(tmp_path / "run", str(tmp_path / "bare.csv"))
    assert first["prediction"] in "ab" and len(first["embedding"]) == student.config.hidden_size
    assert empty["embedding"] is None and empty["note"] == "the text is empty"
    (plain,) = predict(tmp_path / "run", str(write_lines(tmp_path, "un texte")))
    assert plain["embedding"] == pytest.approx(first["embedding"], rel=1e-4, abs=1e-5)
    with pytest.raises(GeodistillError, match="has a head, and its teacher has none"):
        check_recipe({**content, "student": {"teacher_layers": 1}})


def test_tokens_of_texts_do_not_correspond(encoder: Path, tmp_path: Path) -> None:
    rows = [{"fr": f"un texte {place}", "en": f"a text {place}"} for place in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    recipe = check_recipe(
        {
            "task": "embeddings",
            "data": {"source": str(tmp_path / "rows.jsonl"), "columns": {"student": "fr", "teacher": "en"}},
            "teacher": {"model": str(encoder)},
            "student": {"teacher_layers": 1},
            "objective": {"features": [{"loss": "procrustes", "rows": "tokens"}]},
        }
    )
    with pytest.raises(GeodistillError, match="reads the column 'fr' and the teacher 'en', and the rows 'tokens'"):
        train(recipe, tmp_path / "run", progress=False)
