"""Spikes to field potentials, from a recipe to a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from geodistill.errors import GeodistillError
from geodistill.files import read_lines
from geodistill.models import NeuralModel
from geodistill.recipe import Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.folder import TEST_PREDICTIONS
from geodistill.runs.predict import predict
from geodistill.runs.recipe_file import check_recipe, merge
from geodistill.runs.train import train
from geodistill.studies.compare import compare
from geodistill.studies.report.made_of import Origin
from geodistill.studies.report.run_page import run_page
from geodistill.tasks.choose import task_of
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.neural import Neural, adapt


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions with one slow latent behind spikes, potentials and behaviour."""
    place, draw = tmp_path_factory.mktemp("sessions"), np.random.default_rng(0)
    for number, neurons in enumerate((5, 3, 4)):
        latent = np.convolve(draw.normal(size=660), np.ones(20) / 4, mode="same")
        lfp = latent[:, None] * draw.normal(size=3) + draw.normal(size=(660, 3))
        lfp[100:104] = np.nan
        spikes = draw.poisson(np.exp(latent[:, None] * draw.normal(size=neurons)).clip(max=20))
        np.savez(place / f"day-{number}.npz", spikes=spikes, lfp=lfp, behaviour=latent, behaviour_names=["x"])
    return place


@pytest.fixture
def make(folder: Path) -> Any:
    content = {
        "task": "neural",
        "data": {
            "source": str(folder),
            "sessions": {"bins": 10, "block_seconds": 0.2, "unseen": ["day-2"], "adaptation_steps": 2},
        },
        "teacher": {"model": "new:spikes", "training": {"max_steps": 2, "batch_size": 8, "bf16": False}},
        "student": {"model": "new:lfp"},
        "objective": {"label": {}, "features": [{"loss": "procrustes"}, {"loss": "cosine"}]},
        "training": {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 2, "save_steps": 2},
    }
    return lambda **changes: check_recipe(merge(content, changes))


def test_a_student_of_potentials_learns_from_a_teacher_of_spikes(make: Any, tmp_path: Path) -> None:
    recipe: Recipe = make()
    results = train(recipe, tmp_path / "whole", progress=False)
    assert results is not None
    assert set(results.metrics) == {"r2", "r2_unseen", "retrieval@1", "retrieval@10"}
    assert set(results.teacher.metrics) == {"r2", "r2_unseen"}
    assert 0 <= results.geometry[-1]["cka"]["value"] <= 1
    assert results.starved_terms == 0

    card = (tmp_path / "whole" / "student" / "README.md").read_text(encoding="utf-8")
    assert f"| r2 | {results.metrics['r2']:.4f} |" in card and "import geodistill" in card
    student = AutoModel.from_pretrained(tmp_path / "whole" / "student")
    assert isinstance(student, NeuralModel) and list(student.config.sessions or {}) == ["day-0", "day-1", "day-2"]
    found = evaluate(tmp_path / "whole", progress=False)
    assert found["metrics"] == pytest.approx(results.metrics)
    (first, *others) = read_lines(tmp_path / "whole" / TEST_PREDICTIONS)
    stretch = first["stretch"]
    assert len(stretch["seconds"]) == len(stretch["true"]) == len(stretch["decoded"]) == 20
    assert not any("stretch" in line for line in others)
    page = run_page(results, Origin.read(results.folder), title="A run")
    assert "Behaviour over time" in page and "student, R" in page and "teacher, R" in page
    check_other_data(tmp_path / "whole", recipe, results.metrics, tmp_path)

    class Interrupted(Exception): ...

    from geodistill.distillation.trainer import DistillationTrainer

    step = DistillationTrainer.compute_loss

    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3 and self.teacher.requests:
            raise Interrupted
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillationTrainer, "compute_loss", stop)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "cut", shared=tmp_path / "whole", progress=False)
    train(recipe, tmp_path / "cut", shared=tmp_path / "whole", progress=False)
    resumed = AutoModel.from_pretrained(tmp_path / "cut" / "student").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in student.state_dict().items())


def check_other_data(run: Path, recipe: Recipe, metrics: dict[str, float], folder: Path) -> None:
    """The run's own recordings as other data: two sessions that the student knows, and one that is new to it."""
    scores = evaluate(run, [f"data.source={recipe.data.source}"], progress=False)
    assert {name: scores["metrics"][name] for name in ("r2", "r2_unseen")} == pytest.approx(
        {name: metrics[name] for name in ("r2", "r2_unseen")}
    )
    assert scores["split"] == "test" and set(scores["metrics"]) == set(metrics)
    said = " ".join(scores["notes"])
    assert "'day-2' is new to a model: its patch embeddings alone were fitted to its train blocks in 2 steps" in said
    assert "'day-0' is taken for the session of this name" in said
    with pytest.raises(GeodistillError, match=r"'data.sessions.bin_ms' cannot be overridden here"):
        evaluate(run, [f"data.source={recipe.data.source}", "data.sessions.bin_ms=20"], progress=False)

    whole = dict(np.load(Path(recipe.data.source) / "day-0.npz"))
    np.savez(folder / "day-0.npz", lfp=whole["lfp"])  # potentials alone, which is what an implant records for years
    predictions = predict(run, str(folder / "day-0.npz"))
    lines = list(predictions)
    assert [line["row"] for line in lines] == list(range(660)) and {line["session"] for line in lines} == {"day-0"}
    assert [line["row"] for line in lines if "note" in line] == list(range(100, 104))
    assert len(lines[0]["latent"]) == 64 and "4 of the 660 rows are answered by null" in " ".join(predictions.notes)
    np.savez(folder / "new.npz", lfp=whole["lfp"])
    again = list(predict(run, str(folder / "new.npz"), ["data.sessions.adaptation_steps=1"]))
    assert again[0]["latent"] != lines[0]["latent"]
    assert again == list(predict(run, str(folder / "new.npz"), ["data.sessions.adaptation_steps=1"]))
    np.savez(folder / "day-1.npz", lfp=whole["lfp"][:, :2])
    with pytest.raises(GeodistillError, match="'day-1' has 2 channels, and the model knows it with 3"):
        list(predict(run, str(folder / "day-1.npz")))
    with pytest.raises(GeodistillError, match="has no array 'spikes'"):
        evaluate(run, [f"data.source={folder / 'day-0.npz'}"], progress=False)


def test_adaptation_changes_the_embeddings_of_unseen_sessions_alone(make: Any) -> None:
    task = task_of(make())
    assert isinstance(task, Neural)
    for name, others_move in (("new:lfp", False), ("new:lfp-separate", True)):
        torch.manual_seed(0)
        model: Any = task.load_model(ModelSource(name), new_head=True)
        reader = task.load_reader(ModelSource(name))
        state = {key: value.clone() for key, value in model.state_dict().items()}
        adapted = adapt(model, reader, task.examples.unseen_splits["train"], steps=2)
        rows = list(model.rows_of("day-2"))
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        table, before = adapted.patch_embedding.weight, state["patch_embedding.weight"]
        assert not torch.equal(table[rows], before[rows]) and torch.equal(table[: rows[0]], before[: rows[0]])
        moved = {key for key, value in adapted.state_dict().items() if not torch.equal(value, state[key])}
        assert any(key.startswith("backbones.2.") for key in moved) == others_move
        assert not any(key.startswith(("backbones.0.", "backbones.1.")) for key in moved)


def test_a_model_of_other_sessions_gets_embeddings_for_these(make: Any, folder: Path, tmp_path: Path) -> None:
    task = task_of(make())
    torch.manual_seed(0)
    from geodistill.models import new_neural_model

    new_neural_model("lfp", {"day-0": 3, "elsewhere": 2}).save_pretrained(tmp_path)
    model: Any = task.load_model(ModelSource(str(tmp_path)), new_head=False)
    reader: Any = task.load_reader(ModelSource(str(tmp_path)))
    assert list(model.config.sessions) == list(reader.sessions) == ["day-0", "elsewhere", "day-1", "day-2"]
    example = task.encode(model, reader)["train"][-1]
    assert set(example["session"]) == {2}


def test_bad_models_and_settings_are_refused(make: Any, tmp_path: Path) -> None:
    task = task_of(make())
    with pytest.raises(GeodistillError, match="No neural model is named 'new:lpf'"):
        task.load_reader(ModelSource("new:lpf"))
    with pytest.raises(GeodistillError, match="is no neural transformer"):
        task.load_reader(ModelSource("bundled:minilm-l6"))
    with pytest.raises(GeodistillError, match="no metric 'r3'"):
        task_of(make(data={"metrics": ["r3"]}))
    with pytest.raises(GeodistillError, match=r"sessions\.bins.* would change nothing"):
        make(task="classification")
    with pytest.raises(GeodistillError, match="random weights"):
        make(teacher={"training": None})


def test_students_are_compared_to_the_end(make: Any, tmp_path: Path) -> None:
    """Workers read the teacher's rows from a cache, and the teacher itself has no retrieval."""
    variants = {"seeds": [1], "baseline": "a", "variants": {"a": {}}}
    recipe = make(data={"metrics": ["retrieval@1", "r2"]}, compare=variants)
    results = compare(recipe, tmp_path, progress=False)
    (run,) = results.runs
    assert set(run.metrics) == {"retrieval@1", "r2"}
    assert [row.role for row in results.rows("r2")] == ["teacher", "baseline"]
    assert [row.role for row in results.rows("retrieval@1")] == ["baseline"]
