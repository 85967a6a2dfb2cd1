from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from geodistill.features import select_rows
from geodistill.tasks.array_reader import ArrayReader

DRAW = np.random.default_rng(0)
SERIES = {"ankle": [DRAW.normal(size=(length, 3)) for length in (5, 2, 4)]}


def test_a_batch_of_series_is_padded_and_masked() -> None:
    reader = ArrayReader("input_values", 3, column="ankle")
    examples = reader.encode(SERIES)
    assert [reader.length(example) for example in examples] == [5, 2, 4]
    batch = reader.collate(examples[:2])
    assert batch["input_values"].shape == (2, 5, 3) and batch["input_values"].dtype == torch.float32
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
    assert batch["example_id"].tolist() == [0, 1]
    assert not batch["input_values"][1, 2:].any()
    assert np.allclose(batch["input_values"][1, :2], SERIES["ankle"][1])


def test_features_have_no_mask() -> None:
    reader = ArrayReader("values", 2, column="a", series=False, dtype="int64")
    batch = reader.collate(reader.encode({"a": [[1, 2], [3, 4]]}))
    assert set(batch) == {"values", "example_id"} == {*reader.names, "example_id"}
    assert batch["values"].tolist() == [[1, 2], [3, 4]] and batch["values"].dtype == torch.int64
    assert reader.length(reader.encode({"a": [[1, 2]]})[0]) is None


@pytest.mark.parametrize("kind", ["mean", "cls", "last", "tokens"])
def test_padding_changes_no_row_of_a_model(kind: str) -> None:
    from sensors import sensor

    reader, model = ArrayReader("input_values", 3, column="ankle"), sensor(3).eval()
    examples = reader.encode(SERIES)
    batch = reader.collate(examples)
    with torch.no_grad():
        together = select_rows(model(**_inputs(batch)).last_hidden_state, batch, kind=kind)
        for place, example in enumerate(examples):
            alone = reader.collate([example])
            rows = select_rows(model(**_inputs(alone)).last_hidden_state, alone, kind=kind).values[0]
            found = together.values[place]
            if together.mask is not None:
                found = found[together.mask[place]]
            assert torch.allclose(rows, found, atol=1e-6)


def test_what_pairs_and_what_is_written(tmp_path: Path) -> None:
    reader = ArrayReader("input_values", 3, column="ankle")
    assert reader.pairs_with(ArrayReader("input_values", 3, column="ankle"))
    assert not reader.pairs_with(ArrayReader("input_values", 3, column="trunk"))
    assert not reader.pairs_with(ArrayReader("input_values", 4, column="ankle"))
    assert reader.within(2) is reader and reader.probe()["input_values"].shape == (1, 2, 3)
    reader.save(tmp_path)
    assert json.loads((tmp_path / "array_reader.json").read_text())["width"] == 3


def _inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_values", "attention_mask")}
