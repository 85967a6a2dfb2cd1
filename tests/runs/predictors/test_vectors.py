from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from geodistill.data.streams import Stream
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError
from geodistill.runs.predictors.vectors import EmbeddingPredictor, latent_lines, vector_or_note
from geodistill.runs.recipe_file import check_recipe
from geodistill.tasks.array_reader import ArrayReader
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.image_reader import default_processor

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def finished(folder: Path, column: str) -> FinishedRun:
    data = {"source": "rows.npz", "columns": {"student": column, "teacher": "other"}}
    student = {"model": "some/student"}
    objective = {"features": [{"loss": "procrustes", "rows": "mean"}]}
    recipe = check_recipe({"task": "embeddings", "data": data, "student": student, "objective": objective})
    return FinishedRun(folder, recipe, {}, {})


def answers(predictor: EmbeddingPredictor, values: list[Any], folder: Path | None = None) -> list[dict[str, Any]]:
    return predictor.answer(Table({predictor.column: values}, folder=folder), 10)


@pytest.fixture
def of_arrays(tmp_path: Path) -> EmbeddingPredictor:
    """A student of series of eight channels."""
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=9, **SIZES)).save_pretrained(tmp_path / "student")
    ArrayReader("inputs_embeds", 8).save(tmp_path / "student")
    return EmbeddingPredictor(finished(tmp_path, "signal"))


def test_an_array_is_embedded_as_the_model_embeds_it_alone(of_arrays: EmbeddingPredictor, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    long, short = (draw.normal(size=(bins, 8)).astype(np.float32) for bins in (5, 3))
    np.save(tmp_path / "short.npy", short)
    lines = answers(of_arrays, [long.tolist(), " short.npy "], tmp_path)
    assert [line["row"] for line in lines] == [10, 11] and lines[1]["array"] == "short.npy"
    with torch.no_grad():
        for line, array in zip(lines, (long, short), strict=True):
            expected = of_arrays.model(inputs_embeds=torch.from_numpy(array)[None]).last_hidden_state.mean(dim=1)[0]
            assert line["embedding"] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (None, "there is no array"),
        ("", "there is no array"),
        ("missing.npy", "the file of the array is missing or damaged"),
        ([["a"]], "something else than numbers"),
        ([[1.0] * 8, [1.0] * 7], "rows of different lengths"),
        ([[1.0] * 7], r"not the shape \(time, 8\)"),
        ([1.0] * 8, r"not the shape \(time, 8\)"),
        ([[float("nan")] * 8], "NaN or infinite"),
    ],
)
def test_an_array_that_cannot_be_read_is_null(of_arrays: EmbeddingPredictor, value: Any, note: str) -> None:
    (line,) = answers(of_arrays, [value], Path("nowhere"))
    assert line["row"] == 10 and line["embedding"] is None
    with pytest.raises(AssertionError, match=note):
        raise AssertionError(line["note"])


def test_a_chunk_without_the_column_has_no_answers(of_arrays: EmbeddingPredictor) -> None:
    lines = of_arrays.answer(Table({"other": [1, 2]}), 0)
    assert [line["note"] for line in lines] == ["there is no array"] * 2


def test_the_column_is_found_or_named(of_arrays: EmbeddingPredictor) -> None:
    stream = Stream("rows.jsonl", False, iter(()))
    of_arrays.find(stream, Table({"signal": [None]}), [])
    with pytest.raises(GeodistillError, match=r"rows.jsonl has no column 'signal'.*columns.student=COLUMN.*'signals'"):
        of_arrays.find(stream, Table({"signals": [None]}), [])
    of_arrays.find(Stream("standard input", True, iter(())), Table({"line": ["a.npy"]}), [])
    assert of_arrays.column == of_arrays.reader.column == "line"


def test_images_are_read_as_the_folder_of_the_student_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ViTModel(ViTConfig(image_size=8, patch_size=4, **SIZES)).save_pretrained(tmp_path / "student")
    default_processor((8, 8), (0.2,) * 3, (0.7,) * 3).save_pretrained(tmp_path / "student")
    Image.new("RGB", (20, 30), (9, 99, 199)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    predictor = EmbeddingPredictor(finished(tmp_path, "picture"))
    first, damaged, none = answers(predictor, ["a.png", "b.png", None], tmp_path)
    pixels = (torch.tensor([9, 99, 199]) / 255 - 0.2) / 0.7
    with torch.no_grad():
        image = pixels[None, :, None, None].expand(1, 3, 8, 8)
        hidden = predictor.model(pixel_values=image, output_hidden_states=True).hidden_states[-1]
    assert first["embedding"] == pytest.approx(hidden.mean(dim=1)[0].tolist(), rel=1e-4, abs=1e-5)
    assert damaged["embedding"] is None and damaged["note"].startswith("the image ")
    assert none["embedding"] is None and none["note"] == "there is no image"


def test_a_vector_has_the_digits_of_float32_or_a_note() -> None:
    assert vector_or_note("latent", np.array([1 / 3, -2e-9])) == {"latent": [0.3333333, -2e-09]}
    for bad in (np.nan, np.inf):
        found = vector_or_note("latent", np.array([1.0, bad]))
        assert found == {"latent": None, "note": "the student's output is not a finite number"}


def test_recordings_are_no_stream(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="not read from standard input"):
        next(latent_lines(finished(tmp_path, "signal"), "-", []))
