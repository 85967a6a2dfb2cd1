"""`geodistill inspect`, from arrays and from models to arrays, tables and a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from geodistill.errors import GeodistillError
from geodistill.geometry import chance_level, cka, effective_rank, floor, measure
from geodistill.recipe import ObjectiveRecipe
from geodistill.studies.inspect import inspect_layers, inspection, sources
from geodistill.studies.inspect.inspect_layers import inspect

DRAW = np.random.default_rng(0)
STUDENT, TEACHER = DRAW.standard_normal((90, 5)), DRAW.standard_normal((90, 7))
TEACHER[:, :5] += 2 * STUDENT


def saved(folder: Path, name: str, array: np.ndarray) -> Path:
    np.save(folder / name, array)
    return folder / name


def test_arrays_give_what_brute_force_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK", 32)
    found = inspect(saved(tmp_path, "s.npy", STUDENT), saved(tmp_path, "t.npy", TEACHER), neighbours=4, progress=False)
    s, t = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    expected, best, chance = measure(s, t), floor(t, 5), chance_level(s, t, permutations=100)
    for name in ("procrustes", "gram", "cka"):
        assert found.matrices[name][0, 0] == pytest.approx(getattr(expected, name), abs=1e-10)
        assert found.floors[name][0, 0] == pytest.approx(getattr(best, name), abs=1e-10)
        assert found.chances[name][0, 0] == pytest.approx(getattr(chance, name), rel=0.1)
    assert found.matrices["cka_debiased"][0, 0] == pytest.approx(cka(s, t, debiased=True).item(), abs=1e-9)
    assert found.ranks[1][0] == pytest.approx(effective_rank(t))
    near = [
        np.argsort(
            [[np.inf if i == j else np.linalg.norm(x - y) for j, y in enumerate(side)] for i, x in enumerate(side)],
            axis=1,
        )[:, :4]
        for side in (STUDENT, TEACHER)
    ]
    shared = np.mean([len(set(a) & set(b)) / 4 for a, b in zip(*near, strict=True)])
    assert found.matrices["neighbours"][0, 0] == pytest.approx(shared)
    assert found.chances["neighbours"][0, 0] == pytest.approx(4 / 89)
    assert found.rows == found.examples == 90 and not found.layer_map


def test_tensors_of_a_file_are_layers_in_their_order_and_the_sample_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_layers, "SAMPLED", 20)
    layers = {f"layer_{number}": torch.randn(60, 3 + number) for number in (10, 2)}
    save_file(layers, tmp_path / "s.safetensors")
    found = inspect(tmp_path / "s.safetensors", progress=False)
    assert found.layers == (["layer_2", "layer_10"],) * 2 and found.alone
    assert found.examples == 20 and found.rows == 60
    assert np.allclose(np.diag(found.matrices["procrustes"]), 0, atol=1e-9)
    assert np.allclose(np.diag(found.matrices["neighbours"]), 1)
    assert "layers over 60 rows" in str(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"student": STUDENT[:80]}, "different numbers of rows: 80, 90"),
        ({"student": np.where(STUDENT > 1, np.nan, STUDENT)}, "student's features hold NaN"),
        ({"teacher": TEACHER[:, 0]}, r"has the shape \(90,\)"),
        ({"teacher": np.array(["a", "b"])}, "no array that can be read"),
        ({"teacher": TEACHER[:1], "student": STUDENT[:1]}, "1 rows, and geometry needs two"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    given = {"student": STUDENT, "teacher": TEACHER, **change}
    paths = [saved(tmp_path, f"{name}.npy", given[name]) for name in ("student", "teacher")]
    with pytest.raises(GeodistillError, match=said):
        inspect(*paths, progress=False)


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    good, broken = saved(tmp_path, "good.npy", STUDENT), tmp_path / "broken.safetensors"
    broken.write_text("no tensors")
    for other, said in (
        (broken, "no array that can be read"),
        (tmp_path / "absent.npy", "There is no file"),
        ("bundled:minilm-l6", "a model and a file of features"),
    ):
        with pytest.raises(GeodistillError, match=said):
            inspect(good, other, progress=False)
    with pytest.raises(GeodistillError, match="not read from data"):
        inspect(good, good, "bundled:trec", progress=False)
    with pytest.raises(GeodistillError, match="There is no data"):
        inspect("bundled:minilm-l6", progress=False)
    with pytest.raises(GeodistillError, match=r"'training\.epochs' has no effect here"):
        inspect("bundled:minilm-l6", None, "bundled:trec", overrides=["training.epochs=3"], progress=False)
    with pytest.raises(GeodistillError, match="There is no bundled model"):
        inspect("bundled:minilm-l7", None, "bundled:trec", progress=False)


def test_models_on_real_questions_give_a_map_a_page_and_centroids(encoder: Path, tmp_path: Path) -> None:
    found = inspect(
        encoder,
        encoder,
        "bundled:trec",
        overrides=["data.limit=24", "data.max_length=12"],
        split="test",
        folder=tmp_path / "out",
        progress=False,
    )
    assert found.alone and found.row_kind == "tokens" and found.examples == 24 and found.rows > 100
    assert np.allclose(np.diag(found.matrices["procrustes"]), 0, atol=1e-6)
    assert np.allclose(np.diag(found.matrices["cka"]), 1) and found.matrices["cka"].shape == (3, 3)
    assert found.centroids is not None and found.centroids.student[0].shape == (len(found.centroids.names), 384)
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert '"heatmap"' in page and "class centroids" in page and found.lead in page
    assert json.loads((tmp_path / "out" / "inspect.json").read_text())["layers"] == [["0", "1", "2"]] * 2


def test_a_map_is_written_as_a_part_of_a_recipe(llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "texts.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"Which number is {number} of a few?"}) for number in range(40)))
    small = tmp_path / "small"
    AutoModelForCausalLM.from_pretrained(llama, num_hidden_layers=2).save_pretrained(small)
    AutoTokenizer.from_pretrained(llama).save_pretrained(small)
    found = inspect(small, llama, str(text), progress=False)
    assert [s for s, _ in found.layer_map] == [1, 2] and len(found.reasons) == 2
    objective = ObjectiveRecipe.model_validate(yaml.safe_load(found.recipe)["objective"])
    assert objective.features[0].layers == found.layer_map
    assert "Layer map" in str(found) and found.centroids is None


def test_new_models_of_images_have_the_weights_of_a_seed() -> None:
    first, again = (
        inspect(
            "new:resnet8",
            "new:resnet14",
            "bundled:digits",
            task="images",
            overrides=["data.limit=40"],
            split="test",
            progress=False,
        )
        for _ in range(2)
    )
    assert first.row_kind == "pooled" and first.layers == (["0", "1", "2", "3"],) * 2 and first.rows == 40
    assert np.array_equal(first.matrices["procrustes"], again.matrices["procrustes"])
    assert first.centroids is not None and len(first.centroids.names) == 10


def test_two_tokenizers_are_compared_by_words_unless_rows_are_named(encoder: Path, llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "texts.csv"
    text.write_text("text\n" + "\n".join(f"Which number is {number} of a few?" for number in range(30)))
    found = inspect(encoder, llama, str(text), progress=False)
    assert found.row_kind == "words" and found.layer_map and "rows: words" in found.recipe
    with pytest.raises(GeodistillError, match="different vocabularies"):
        inspect(encoder, llama, str(text), rows="tokens", progress=False)


def test_matrices_too_wide_for_a_terminal_are_left_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "SHOWN", 2)
    save_file({f"layer_{place}": torch.tensor(STUDENT) for place in range(3)}, tmp_path / "deep.safetensors")
    found = inspect(tmp_path / "deep.safetensors", neighbours=2, progress=False)
    assert "3 × 3 layers are in the report" in str(found) and "neighbour" not in str(found)
    assert len(found.tables) == 1 + len(found.matrices)
