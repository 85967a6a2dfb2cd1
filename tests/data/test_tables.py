from __future__ import annotations

import datasets
import pyarrow
import pytest

from geodistill.data.tables import ColumnsOnDemand, from_dataset, table_of_objects


def test_columns_of_a_dataset() -> None:
    turns = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    columns = {"text": ["a"], "answers": [["a", "b"]], "messages": turns, "label": [1]}
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "answers": datasets.Sequence(datasets.Value("string")),
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    table = from_dataset(datasets.Dataset.from_dict(columns, features=features))
    assert table.columns == columns
    assert table.class_names == {"label": ["no", "yes"]}


def test_rows_of_a_dataset_that_were_chosen_keep_their_order() -> None:
    data = datasets.Dataset.from_dict({"text": list("abcd")}).select([2, 0])
    assert from_dataset(data).columns == {"text": ["c", "a"]}


def test_a_column_is_read_once_and_only_when_it_is_asked_for() -> None:
    asked: list[str] = []

    def read(name: str) -> pyarrow.Array:
        asked.append(name)
        return pyarrow.array([name])

    columns = ColumnsOnDemand([f"column {i}" for i in range(30)], read)
    assert "column 3" in columns and "text" not in columns and len(list(columns)) == len(columns) == 30
    with pytest.raises(KeyError):
        columns["text"]
    assert asked == []
    assert columns["column 3"] is columns["column 3"] and asked == ["column 3"]


def test_objects_may_have_other_keys() -> None:
    table = table_of_objects([{"text": "a", "label": 1}, {"text": "b", "extra": [2]}])
    assert table.columns == {"text": ["a", "b"], "label": [1, None], "extra": [None, [2]]}
