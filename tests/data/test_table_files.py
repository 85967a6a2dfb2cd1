from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from geodistill.data import table_files
from geodistill.data.table_files import read_table, stream_table
from geodistill.data.tables import from_dataset
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


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_a_stream_is_the_table_in_pieces(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"text {place}", "id": str(place)} for place in range(7)]
    path = tmp_path / name
    separator = "\t" if name == "a.tsv" else ","
    lines = "\n".join([separator.join(rows[0]), *(separator.join(row.values()) for row in rows)])
    match path.suffix:
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        case ".json":
            written(path, json.dumps(rows))
        case ".jsonl":
            written(path, "\n".join(map(json.dumps, rows)))
        case _:
            written(path, lines)
    pieces = [{key: list(values) for key, values in each.columns.items()} for each in stream_table(path, 3)]
    assert [len(piece["text"]) for piece in pieces] == [3, 3, 1]
    whole = read_table(path).columns
    assert {key: [value for piece in pieces for value in piece[key]] for key in pieces[0]} == dict(whole)


def test_a_stream_reads_no_further_than_it_must(tmp_path: Path) -> None:
    """The damage of the last line is met when its piece is asked for; the length of a field is not limited."""
    csv_file = written(tmp_path / "a.csv", f"text,id\n{'a' * 200_000},1\nb,2\nc\n")
    for path in (csv_file, written(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text":\n')):
        stream = stream_table(path, 2)
        assert len(next(stream).columns["text"]) == 2
        limit = csv.field_size_limit()
        assert limit == 131_072
        with pytest.raises(GeodistillError, match="cannot be read"):
            next(stream)
    for content, message in (("", "is empty"), ("text,id\n", "has no rows"), ("text;id\n1;2\n", "semicolons")):
        with pytest.raises(GeodistillError, match=message):
            list(stream_table(written(tmp_path / "b.csv", content), 2))


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


def test_a_column_that_nobody_asks_for_may_hold_anything(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "photo": datasets.Image()})
    photo = {"bytes": b"\xff no image", "path": None}
    data = datasets.Dataset.from_dict({"text": ["a"], "photo": [photo]}, features=features)
    assert from_dataset(data).columns["text"] == ["a"]
    data.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert list(table.columns) == ["text", "photo"] and table.columns["text"] == ["a"]


def test_text_that_was_written_as_bytes_is_decoded(tmp_path: Path) -> None:
    columns = {"text": ["é".encode(), None], "answers": [[b"a"], None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").columns == {"text": ["é", None], "answers": [["a"], None]}
    assert from_dataset(datasets.Dataset.from_dict(columns)).columns["text"] == ["é", None]


@pytest.mark.parametrize("value", [b"\xff", [b"a", b"\xff"]])
def test_bytes_that_are_no_text_are_refused(tmp_path: Path, value: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": [None, value]}), tmp_path / "a.parquet")
    with pytest.raises(GeodistillError, match=r"'text' holds bytes that are not UTF-8 text \(row 2\)"):
        read_table(tmp_path / "a.parquet").columns["text"]


def test_categories_of_pandas_are_read(tmp_path: Path) -> None:
    categories = pyarrow.array(["b", "a", "b"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"label": categories}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").columns == {"label": ["b", "a", "b"]}


def test_two_columns_of_one_name_in_parquet(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(GeodistillError, match="several columns are named 'text'"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_fields_of_any_length(tmp_path: Path, name: str) -> None:
    text, separator = "word " * 50_000, {"a.csv": ",", "a.tsv": "\t"}[name]
    before = csv.field_size_limit()
    path = written(tmp_path / name, f"text{separator}label\n{text}{separator}1\n")
    assert read_table(path).columns["text"] == [text]
    assert csv.field_size_limit() == before


def test_separated_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    words = ["NA", "null", "None", "nan", "1.0", "007", "2020-01-01", "True", " a ", "-"]
    content = "text , label\r\n\r\n" + "".join(f"{word},{word}\r\n" for word in words) + "\r\n"
    assert read_table(written(tmp_path / "a.csv", content)).columns == {"text": words, "label": words}
    content = "\ufefftext\tlabel\r\n" + "".join(f"{word}\t{word}\r\n" for word in words)
    assert read_table(written(tmp_path / "a.tsv", content)).columns == {"text": words, "label": words}


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", ",text,label,,\n0,a,1,,\n1,b,0,,\n")
    assert read_table(path).columns == {"text": ["a", "b"], "label": ["1", "0"]}
    path = written(tmp_path / "b.csv", "Unnamed: 0,text,label\n0,a,1\n")
    assert list(read_table(path).columns) == ["Unnamed: 0", "text", "label"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text;label\na;1\nb, c;0\n", "separated by semicolons.*Save it with commas"),
        ("a.csv", '"text";"label"\n"a";"1"\n', "separated by semicolons"),
        ("a.csv", "text\tlabel\na\t1\n", "separated by tabs.*Name it .tsv, or save it with commas"),
        ("a.csv", "text|label\na|1\n", "separated by bars"),
        ("a.tsv", "text,label\na,1\n", "separated by commas.*Name it .csv, or save it with tabs"),
        ("a.tsv", "text;label\n", "separated by semicolons.*Save it with tabs"),
    ],
)
def test_another_separator_is_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        read_table(written(tmp_path / name, content))


@pytest.mark.parametrize("content", ["text\na; b\nc\n", "text;\na\n", "text\none | two\nthree | four\n"])
def test_one_column_with_punctuation_is_one_column(tmp_path: Path, content: str) -> None:
    assert len(read_table(written(tmp_path / "a.csv", content)).columns) == 1


def test_not_a_number_in_json_is_kept_for_the_labels_to_judge(tmp_path: Path) -> None:
    values = read_table(written(tmp_path / "a.jsonl", '{"label": NaN}\n{"label": 1}\n')).columns["label"]
    assert values[0] != values[0] and values[1] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.json", "[]", "has no rows"),
        ("a.csv", "text,label\na,1\nb\n", "row 3 has 1 fields where the header has 2: 'b'"),
        ("a.csv", 'label,text\n1,"open\n0,b\n', "line 2: a field begins with a quotation mark and does not end"),
        ("a.csv", 'label,text\r\n0,b\r\n1,"He said "go" and left"\r\n', "line 3: a field begins with a quotation mark"),
        (
            "a.csv",
            'text\n"a\n"\n"b\n\nc""\n"",d"\n"open\nand "closed"\n',
            "line 8: a field begins with a quotation mark",
        ),
        ("a.csv", '\ufeff"text" here,label\na,1\n', "line 1: a field begins with a quotation mark"),
        ("a.csv", 'label,text\n1,"open\n0,"b\n', "line 2: a field begins with a quotation mark"),
        ("a.tsv", 'text\tlabel\n"a\nb"\t1\nc\t2\t3\n', "row 3 has 3 fields where the header has 2"),
        ("a.csv", '"a\n\n\n\n\n\nb",label\na,1\n', "names of its columns span more than"),
        ("a.csv", "te\u00e9xt\na\n".encode("latin-1"), "not UTF-8"),
        ("a.csv", "text,text\na,b\n", "several columns are named 'text'"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2"),
        ("a.json", '{"text": ', "cannot be read as json"),
        ("a.jsonl", "[1, 2]\n", "not JSON objects"),
        ("a.csv", "text\n\u00e9\n".encode("latin-1"), "not UTF-8"),
        ("a.parquet", b"PAR1 and then not", "cannot be read"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "is not UTF-8 text but UTF-16"),
        ("a.tsv", "text\tlabel\na\t1\n".encode("utf-16-le"), "zero bytes, as UTF-16 does"),
        ("a.jsonl", gzip.compress(b"{}", mtime=0), "compressed by gzip. Unpack it first"),
        ("a.csv.gz", gzip.compress(b"text", mtime=0), "'.gz'. Unpack it first"),
        ("a.csv", b"PK\x03\x04 and so on", "a zip archive or a workbook"),
        ("a.csv", b"PAR1 and so on", "a Parquet file. Name it .parquet"),
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


def test_bytes_stay_bytes_where_they_are_asked_for_so(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [b"\xff\x00", b"text"]}), path)
    table = read_table(path)
    assert table.raw("image") == [b"\xff\x00", b"text"] and table.folder == tmp_path
    with pytest.raises(GeodistillError, match="bytes that are not UTF-8"):
        table.columns["image"]
    (tmp_path / "a.csv").write_text("image\nb.png\n")
    assert read_table(tmp_path / "a.csv").raw("image") == ["b.png"]


def test_json_values_are_as_they_are_written(tmp_path: Path) -> None:
    rows = [
        {"text": "2020-01-01", "label": 1, "id": 2**60 + 1, "more": {"a": 1}},
        {"text": "2021-01-01 00:00:00", "label": 0.5, "id": 2**70 + 1, "more": {"b": [2]}},
        {"text": 7, "label": "7", "id": "007", "more": None},
    ]
    columns = read_table(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))).columns
    assert columns == {name: [row[name] for row in rows] for name in rows[0]}
    assert isinstance(columns["label"][0], int)


def test_a_file_of_many_blocks_is_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 1000)
    texts = [f'text "{place}",\n{place}' for place in range(500)]
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    path = written(tmp_path / "a.csv", "\n".join(["text", *quoted]))
    assert read_table(path).columns == {"text": texts}
    pieces = [list(each.columns["text"]) for each in stream_table(path, 7)]
    assert max(map(len, pieces)) == 7 and [text for piece in pieces for text in piece] == texts
    stream = stream_table(written(tmp_path / "b.csv", "\n".join(["text", *quoted, "a,b"])), 100)
    read = 0
    with pytest.raises(GeodistillError, match="row 502 has 2 fields where the header has 1: 'a,b'"):
        for table in stream:
            read += len(table.columns["text"])
    assert read > 400
    with pytest.raises(GeodistillError, match="a row is longer than 1000 bytes"):
        read_table(written(tmp_path / "c.csv", f"text\na\n{'b' * 5000}\nc\n"))
