"""Images end to end on scikit-learn's digits, and what the task decides by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from geodistill.data.images import ImageExamples, load_images
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.sides import ExamplePairs
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, FeatureTerm, LabelTerm, Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.identity import run_fingerprint, teacher_fingerprint
from geodistill.runs.predict import predict
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train
from geodistill.tasks.image_reader import AugmentedImages, default_processor
from geodistill.tasks.images import Images
from geodistill.tasks.loading import ModelSource

STEPS = {"max_steps": 2, "batch_size": 16, "logging_steps": 1}


def make_recipe(**changes: Any) -> Recipe:
    content = {
        "task": "images",
        "data": {"source": "bundled:digits", "limit": 60},
        "teacher": {"model": "new:resnet8", "training": STEPS},
        "student": {"model": "new:resnet8"},
        "objective": {"logits": {"temperature": 4.0}, "features": [{"loss": "procrustes", "layers": "uniform"}]},
        "training": STEPS,
    }
    return check_recipe({**content, **changes})


@pytest.fixture(scope="module")
def digits() -> ImageExamples:
    return load_images(DataRecipe(source="bundled:digits", limit=60))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny models of transformers as folders: a ResNet that reads 16 × 16 colours, a ViT of 8 × 8 grey pixels."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    resnet = ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=10)
    vit = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=8,
        patch_size=2,
        num_channels=1,
        num_labels=10,
    )
    ResNetForImageClassification(resnet).save_pretrained(folder / "resnet")
    default_processor((16, 16), [0.5] * 3, [0.2] * 3).save_pretrained(folder / "resnet")
    ViTForImageClassification(vit).save_pretrained(folder / "vit")
    return {name: str(folder / name) for name in ("resnet", "vit")}


def test_a_run_is_trained_read_again_and_evaluated(tmp_path: Path) -> None:
    results = train(make_recipe(), tmp_path, progress=False)
    assert results is not None
    content = json.loads((tmp_path / "results.json").read_text())
    assert [pair["rows"] for pair in content["geometry"]] == ["pooled"] * 3
    assert content["tokens_per_second"] is None
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert (student.config.image_size, student.config.num_channels) == (8, 1)
    assert student.config.id2label == {number: str(number) for number in range(10)}
    assert (tmp_path / "student" / "preprocessor_config.json").is_file()
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("procrustes_3_3" in entry for entry in logged)

    changed = (tmp_path / "results.json").stat().st_mtime_ns
    train(make_recipe(), tmp_path, progress=False)
    assert (tmp_path / "results.json").stat().st_mtime_ns == changed

    scored = evaluate(tmp_path, progress=False)
    assert scored["metrics"] == pytest.approx(content["metrics"])
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 60 and json.loads(lines[0]).keys() == {
        "split", "row", "prediction", "probability", "reference"
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose student is a resnet8 that was trained for two steps."""
    folder = tmp_path_factory.mktemp("finished")
    train(make_recipe(), folder, progress=False)
    return folder


@pytest.fixture
def others(digits: ImageExamples, tmp_path: Path) -> Path:
    """Twelve test images in folders of their classes, beside no split."""
    for number, row in enumerate(digits.splits["test"].select(range(12))):
        folder = tmp_path / "others" / digits.label_names[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{number:02}.png")
    return tmp_path / "others"


def test_other_images_are_scored(finished: Path, others: Path, tmp_path: Path) -> None:
    place = tmp_path / "lines.jsonl"
    found = evaluate(finished, [f"data.source={others}"], output=place, progress=False)
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert found["split"] is None and found["examples"] == 12 and set(found["metrics"]) == {"accuracy", "macro_f1"}
    assert lines[0].keys() == {"row", "image", "prediction", "probability", "reference"}
    assert all(Path(line["image"]).parent.name == line["reference"] for line in lines)
    assert evaluate(finished, progress=False)["examples"] == 60
    own = [json.loads(line) for line in (finished / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["probability"] == pytest.approx(own[int(Path(line["image"]).stem)]["probability"], abs=1e-5)

    splits = tmp_path / "splits"
    (splits / "train").mkdir(parents=True)
    others.rename(splits / "test")
    found = evaluate(finished, [f"data.source={splits}"], output=place, progress=False)
    assert found["split"] == "test" and found["examples"] == 12


def test_other_images_that_cannot_be_scored(finished: Path, others: Path, tmp_path: Path) -> None:
    def refused(said: str, source: Path = others, **more: Any) -> None:
        with pytest.raises(GeodistillError, match=said):
            evaluate(finished, [f"data.source={source}"], progress=False, **more)

    refused("is a folder of classes, which has no split 'test'", split="test")
    (others / "cat").mkdir()
    (others / "cat" / "a.png").write_bytes(b"no image")
    refused(r"cat.a\.png' is no image")
    (others / "cat" / "a.png").write_bytes(next(others.rglob("00.png")).read_bytes())
    refused("does not know labels of others: 'cat' .1 row.")
    with pytest.raises(GeodistillError, match=r"'data\.seed' cannot be overridden here: nothing is cut"):
        evaluate(finished, [f"data.source={others}", "data.seed=1"], progress=False)


def test_images_are_predicted_from_a_folder_a_table_and_lines(finished: Path, others: Path, tmp_path: Path) -> None:
    (others / "z.png").write_bytes(b"no image")
    lines = predict(finished, str(others))
    answers = list(lines)
    assert [line["row"] for line in answers] == list(range(13))
    assert answers[0].keys() == {"row", "image", "prediction", "probability", "probabilities"}
    assert answers[-1] == {
        "row": 12,
        "image": str(others / "z.png"),
        "prediction": None,
        "probability": None,
        "probabilities": None,
        "note": "the image is no image",
    }
    assert lines.notes == ["1 of the 13 rows is answered by null: the image is no image."]

    given = {line["image"]: line["prediction"] for line in answers}
    paths = [Path(path).relative_to(tmp_path) for path in list(given)[:3]]
    (tmp_path / "a.csv").write_text("id,photo\n" + "".join(f"1,{path}\n" for path in paths) + "2,\n")
    (tmp_path / "a.txt").write_text("\n".join(map(str, paths)))
    table = list(predict(finished, str(tmp_path / "a.csv"), ["data.image=photo"]))
    assert [line["prediction"] for line in table] == [*(given[str(tmp_path / path)] for path in paths), None]
    assert table[-1]["note"] == "there is no image" and "image" not in table[-1]
    assert [line["prediction"] for line in predict(finished, str(tmp_path / "a.txt"), chunk=2)] == [
        line["prediction"] for line in table[:3]
    ]
    (one,) = predict(finished, str(tmp_path / paths[0]))
    assert one == answers[0]
    with pytest.raises(GeodistillError, match=r"Name it with data\.image"):
        list(predict(finished, str(tmp_path / "a.csv")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeodistillError, match="holds no files"):
        predict(finished, str(tmp_path / "empty"))
    with pytest.raises(GeodistillError, match=r"'data\.limit' cannot be overridden here.*Valid: data\.image"):
        predict(finished, str(others), ["data.limit=1"])


@pytest.mark.parametrize(("name", "rows"), [("resnet", "pooled"), ("vit", "positions")])
def test_each_side_reads_in_its_own_size(folders: dict[str, str], tmp_path: Path, name: str, rows: str) -> None:
    """The ResNet reads 16 × 16 in colour, and the teacher 8 × 8 in grey; the ViT's patches are a map."""
    features = [{"loss": "gram", "rows": rows, "layers": "last"}]
    recipe = make_recipe(student={"model": folders[name]}, objective={"label": {}, "features": features})
    results = train(recipe, tmp_path, progress=False)
    assert results is not None
    content = json.loads((tmp_path / "results.json").read_text())
    converted = "each channel is the grey image" in str(content["notes"])
    assert converted == (name == "resnet")
    assert evaluate(tmp_path, progress=False)["metrics"] == pytest.approx(content["metrics"])


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a teacher beside the student, and images that vary from epoch to epoch."""
    changes = {
        "data": {"source": "bundled:digits", "limit": 60, "augmentation": "crop"},
        "teacher": {"model": "new:resnet8", "training": STEPS, "cache": False},
        "training": {"epochs": 2, "batch_size": 20, "save_steps": 2},
    }
    whole = train(make_recipe(**changes), tmp_path / "whole", shared=tmp_path, progress=False)
    step = DistillationTrainer.training_step

    def interrupted(self: DistillationTrainer, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == 4 and self.terms[0] != LabelTerm():
            raise KeyboardInterrupt
        return step(self, *arguments, **more)

    monkeypatch.setattr(DistillationTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(make_recipe(**changes), tmp_path / "parts", shared=tmp_path, progress=False)
    monkeypatch.undo()
    parts = train(make_recipe(**changes), tmp_path / "parts", shared=tmp_path, progress=False)
    assert whole is not None and parts is not None
    states = [
        AutoModelForImageClassification.from_pretrained(tmp_path / name / "student").state_dict()
        for name in ("whole", "parts")
    ]
    for first, second in zip(*(state.values() for state in states), strict=True):
        torch.testing.assert_close(first, second)


def test_both_sides_see_one_view(digits: ImageExamples, folders: dict[str, str]) -> None:
    task = Images(digits, "crop", cached=False)
    small, large = (task.load_reader(ModelSource(name)) for name in ("new:resnet8", folders["resnet"]))
    model = task.load_model(ModelSource("new:resnet8"), new_head=True)
    pair = ExamplePairs(task.encode(model, small)["train"], task.encode(model, large)["train"])  # type: ignore[arg-type]
    varied = task.varied(pair, seed=3)
    assert isinstance(varied.student, AugmentedImages) and varied.student.seed == varied.teacher.seed == 3
    views = [varied[0]["pixel_values"]]
    varied.set_epoch(1)
    assert varied.teacher.epoch == 1
    views += [varied[place]["pixel_values"] for place in range(5)]
    assert any((view != varied.student.images[0]["pixel_values"]).any() for view in views)


def test_a_cache_turns_augmentation_off_and_says_so(digits: ImageExamples) -> None:
    cached, online, plain = Images(digits, "crop"), Images(digits, "crop", cached=False), Images(digits)
    assert "not augmented" in cached.notes[-1] and online.notes == plain.notes
    assert plain.fingerprint == digits.fingerprint != online.fingerprint
    assert cached.fingerprint == online.fingerprint, "teachers of both are fine-tuned alike"


def test_whether_a_student_is_augmented_makes_another_run_and_no_other_teacher(digits: ImageExamples) -> None:
    data = {"source": "bundled:digits", "limit": 60}
    runs, teachers = [], []
    for augmentation in ("none", "crop"):
        for cache in (False, True):
            teacher = {"model": "new:resnet8", "training": STEPS, "cache": cache}
            recipe = make_recipe(data={**data, "augmentation": augmentation}, teacher=teacher)
            task = Images(digits, augmentation, cached=cache)
            runs.append(run_fingerprint(recipe, {"task": task}))
            teachers.append(teacher_fingerprint(recipe.teacher, task))
    assert runs[0] == runs[1] and len(set(runs)) == 3
    assert teachers[0] == teachers[1] != teachers[2] == teachers[3]


def test_a_new_model_has_the_labels_and_reads_the_images_of_the_data(digits: ImageExamples) -> None:
    task = Images(digits)
    torch.manual_seed(1)
    first = task.load_model(ModelSource("new:wrn_16_1"), new_head=True)
    torch.manual_seed(1)
    second = task.load_model(ModelSource("new:wrn_16_1"), new_head=True)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert first.config.num_labels == 10 and first.config.num_channels == 1 and first.config.image_size == 8
    assert first.config.problem_type == "single_label_classification"
    with pytest.raises(GeodistillError, match="resnet8"):
        task.load_model(ModelSource("new:resnt8"), new_head=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"width": 8, "layers": 2}}, "new:resnet8"),
        ({"student": {"teacher_layers": 1}}, "new:resnet8"),
        ({"teacher": {"model": "new:resnet8"}}, "random weights"),
        ({"task": "classification", "data": {}}, "task: images"),
        ({"data": {"max_length": 8}}, "an image has none"),
    ],
)
def test_what_images_do_not_have_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((GeodistillError, ValueError), match=said):
        make_recipe(**changes)


def test_rows_are_positions_unless_the_recipe_names_others() -> None:
    losses = [{"loss": "gram"}, {"loss": "gram", "rows": "pooled"}, {"loss": "rcka"}, {"loss": "pcka"}]
    terms = make_recipe(objective={"features": losses}).objective.features
    assert [term.rows for term in terms] == ["positions", "pooled", "samples", "map"]
    with pytest.raises(GeodistillError, match=r"tokens.*positions, pooled"):
        make_recipe(objective={"features": [{"loss": "gram", "rows": "tokens"}]})
    with pytest.raises(GeodistillError, match=r"positions.*cls, mean"):
        check_recipe(
            {"student": {"teacher_layers": 1}, "objective": {"features": [{"loss": "cka", "rows": "positions"}]}}
        )


class Net(torch.nn.Module):
    """A module of the user's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(1, channels, 3)
        self.head = torch.nn.Linear(channels, 10)

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.body(pixel_values).mean((2, 3)))}


def test_a_plain_module_teaches(digits: ImageExamples, tmp_path: Path) -> None:
    task = Images(digits)
    source = ModelSource("new:resnet8")
    student, reader = task.load_model(source, new_head=True), task.load_reader(source)
    encoded = task.encode(student, reader)
    trainer = DistillationTrainer(
        student,
        DistillationConfig(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True),
        teacher_model=Net(6),
        terms=[LabelTerm(), FeatureTerm(loss="projection", rows="positions", layers=[("stages.2", "body")])],
        train_dataset=encoded["train"],
        data_collator=reader.collate,
        probe=reader.probe(),
    )
    assert trainer.train().global_step == 2
    with pytest.raises(GeodistillError, match="a Net, which is no model of transformers"):
        DistillationTrainer(Net(6), teacher_model=student, terms=[LabelTerm()])  # type: ignore[arg-type]
