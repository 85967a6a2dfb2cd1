from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from geodistill.distillation.signals import model_inputs
from geodistill.distillation.students.build import build_student
from geodistill.errors import GeodistillError
from geodistill.features import Capture
from geodistill.geometry import procrustes_distance
from geodistill.recipe import Recipe
from geodistill.runs.folder import read_json
from geodistill.runs.student import STUDENT_FILE, start_student
from geodistill.runs.teacher import PreparedTeacher, prepare_teacher
from geodistill.runs.train import train
from geodistill.tasks.choose import task_of

MakeRecipe = Callable[..., Recipe]
TRAINING = {"max_steps": 3, "batch_size": 16, "learning_rate": 1e-3, "seed": 5}


def taught_by(recipe: Recipe, folder: Path) -> PreparedTeacher:
    return prepare_teacher(recipe.teacher, task_of(recipe), folder, progress=False)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def alike(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_it_is_fine_tuned_once_whatever_the_seed_of_the_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipes = [make_recipe(student={"training": TRAINING}, training={"seed": seed}) for seed in (1, 2)]
    taught = taught_by(recipes[0], tmp_path / "teacher")
    first = weights(start_student(recipes[0], taught, None, tmp_path / "students", progress=False))
    (folder,) = (tmp_path / "students").iterdir()
    assert read_json(folder / STUDENT_FILE)["training_seconds"] > 0
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    again = start_student(recipes[1], taught, None, tmp_path / "students", progress=False)
    assert alike(weights(again), first)
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert alike(weights(AutoModelForSequenceClassification.from_pretrained(folder)), first)

    untrained = build_student(recipes[0].student, taught.model, seed=5)
    assert isinstance(untrained, PreTrainedModel) and not alike(weights(untrained), first)

    other = make_recipe(student={"training": {**TRAINING, "max_steps": 2}})
    assert not alike(weights(start_student(other, taught, None, tmp_path / "students", progress=False)), first)
    assert len(list((tmp_path / "students").iterdir())) == 2


def test_adapters_are_put_on_what_was_fine_tuned(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    student = {"width": None, "layers": None, "teacher_layers": 1, "training": TRAINING}
    plain, adapted = make_recipe(student=student), make_recipe(student={**student, "lora": {"rank": 2}})
    taught = taught_by(plain, tmp_path / "teacher")
    whole = weights(start_student(plain, taught, None, tmp_path / "students", progress=False))
    with_adapters: Any = start_student(adapted, taught, None, tmp_path / "students", progress=False)
    assert len(list((tmp_path / "students").iterdir())) == 1
    name = "bert.encoder.layer.0.attention.self.query"
    base = with_adapters.get_submodule(f"base_model.model.{name}.base_layer").weight
    assert torch.equal(base, whole[f"{name}.weight"])


def test_a_run_begins_with_it(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "max_steps": 1, "epochs": 1, "weight_decay": 0.0}
    recipe = make_recipe(student={"training": TRAINING}, training=still)
    train(recipe, tmp_path / "run", progress=False)
    (started,) = (tmp_path / "run" / "students").iterdir()
    before = weights(AutoModelForSequenceClassification.from_pretrained(started))
    after = weights(AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "student"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_without_labels_it_cannot_be_fine_tuned(make_recipe: MakeRecipe, write_csv: Any, tmp_path: Path) -> None:
    source = str(write_csv([(f"text {number}", "") for number in range(40)]))
    data = {"source": source, "label": None, "problem": "unlabelled"}
    recipe = make_recipe(
        data=data, student={"training": TRAINING}, objective={"label": None, "features": [{"loss": "gram"}]}
    )
    with pytest.raises(GeodistillError, match=r"A student cannot be fine-tuned .* Leave student\.training out"):
        train(recipe, tmp_path / "run", progress=False)


def test_one_with_a_tokenizer_of_its_own_is_fine_tuned_on_its_own_tokens(
    make_recipe: MakeRecipe, llama: Path, tmp_path: Path
) -> None:
    student = {"model": str(llama), "training": TRAINING}
    features = [{"loss": "procrustes", "rows": "words"}]
    recipe = make_recipe(student=student, objective={"label": {}, "features": features})
    results = train(recipe, tmp_path / "run", progress=False)
    (started,) = (tmp_path / "run" / "students").iterdir()
    tokenizer = AutoTokenizer.from_pretrained(llama)
    assert tokenizer.pad_token is None
    for folder in (started, tmp_path / "run" / "student"):
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
        assert AutoModelForSequenceClassification.from_pretrained(folder).config.pad_token_id == tokenizer.eos_token_id
    assert results.geometry[0]["rows"] == "words"


def test_a_new_students_embeddings_keep_the_directions_of_the_training_text(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(student={"width": 64, "heads": 1})
    taught = taught_by(recipe, tmp_path / "teacher")
    distances = []
    for student in (
        start_student(recipe, taught, None, tmp_path / "students", progress=False),
        build_student(recipe.student, taught.model, seed=recipe.training.seed),  # the word table alone
    ):
        held_out = taught.encoded["validation"]
        collate = taught.reader.collate
        (own, theirs) = (_embeddings(model, held_out, collate) for model in (student, taught.model))
        distances.append(float(procrustes_distance(own, theirs, squared=True)))
    assert distances[0] < distances[1]


def _embeddings(model: Any, examples: list[dict[str, Any]], collate: Any) -> torch.Tensor:
    """The embedding layer's output for every attended token of some examples."""
    batch = collate(examples)
    with torch.no_grad():
        _, hidden = Capture(model, [0])(**model_inputs(model, batch))
    return hidden[0][batch["attention_mask"] != 0]
