from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from geodistill.data.tables import from_dataset, read_table
from geodistill.errors import GeodistillError


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_keeps_text_as_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", '\ufefftext,label\r\n"one, ""two""\nthree",1\r\nNA,0\r\n007,1\r\n')
    assert read_table(path).columns == {"text": ['one, "two"\nthree', "NA", "007"], "label": ["1", "0", "1"]}


def test_tsv_without_quoting(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'text\tlabel\n"Go, he said.\t1\nplain\t0\nHe" said "go\t1\n')
    assert read_table(path).columns["text"] == ['"Go, he said.', "plain", 'He" said "go']


def test_tsv_with_quoting(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", 'text\tlabel\n"with\ttab, and\na ""line"""\t1\nplain\t0\n"another\nline"\t1\n')
    assert read_table(path).columns["text"] == ['with\ttab, and\na "line"', "plain", "another\nline"]


def test_jsonl_and_json_agree(tmp_path: Path) -> None:
    rows = [{"text": "é", "label": 1}, {"text": "b", "label": None, "extra": "x"}]
    expected = {"text": ["é", "b"], "label": [1, None], "extra": [None, "x"]}
    lines = "\n".join(json.dumps(row) for row in rows)
    assert read_table(written(tmp_path / "a.jsonl", lines + "\n\n")).columns == expected
    assert read_table(written(tmp_path / "lines.json", lines)).columns == expected
    assert read_table(written(tmp_path / "list.json", json.dumps(rows, indent=1))).columns == expected
    assert read_table(written(tmp_path / "data.json", json.dumps({"version": 1, "data": rows}))).columns == expected


def test_parquet_keeps_class_names(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    pyarrow.parquet.write_table(data.data.table, tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.columns == {"text": ["a", "b"], "label": [1, 0]}
    assert table.class_names == {"label": ["no", "yes"]}


def test_plain_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "score": [0.5]}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").columns == {"text": ["a"], "score": [0.5]}


def test_lists_and_objects_of_a_dataset_are_read_and_images_are_not() -> None:
    turns = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    columns = {"text": ["a"], "answers": [["a", "b"]], "messages": turns, "image": [None]}
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "answers": datasets.Sequence(datasets.Value("string")),
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
            "image": datasets.Image(),
        }
    )
    table = from_dataset(datasets.Dataset.from_dict(columns, features=features))
    assert table.columns == {name: values for name, values in columns.items() if name != "image"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.json", "[]", "has no rows"),
        ("a.csv", "text,label\na,1\nb\n", "line 3: 1 fields where the header has 2"),
        ("a.csv", 'label,text\n1,"open\n0,b\n', "line 3: unexpected end of data"),
        ("a.csv", "text,text\na,b\n", "several columns are named 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2"),
        ("a.json", '{"text": ', "cannot be read as json"),
        ("a.jsonl", "[1, 2]\n", "not JSON objects"),
        ("a.csv", "text\n\u00e9\n".encode("latin-1"), "not UTF-8"),
        ("a.parquet", b"PAR1 and then not", "cannot be read"),
        ("a.xlsx", "x", "'.xlsx'"),
        ("noformat", "x", "known by its suffix"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        read_table(written(tmp_path / name, content))


def test_truncated_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(GeodistillError, match="cannot be read"):
        read_table(path)
