from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from geodistill.data.streams import LINE, open_stream
from geodistill.errors import GeodistillError


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], io.BytesIO]:
    """Put something on standard input."""

    def put(content: bytes) -> io.BytesIO:
        given = io.BytesIO(content)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
        return given

    return put


def lines(source: object, size: int = 2) -> list[list[str]]:
    stream = open_stream(str(source), size)
    assert stream.plain
    return [list(table.columns[LINE]) for table in stream.chunks]


def test_a_text_file_has_a_row_in_each_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffé\r\n\n  b \n{}".encode())
    assert lines(path) == [["é", ""], ["  b ", "{}"]]
    assert open_stream(str(path), 2).name == "a.txt"


def test_standard_input_is_plain_text(typed: Callable[[bytes], io.BytesIO]) -> None:
    typed(b'\nWho ?\n{"text": "b"}\n')
    assert lines("-") == [["", "Who ?"], ['{"text": "b"}']]


def test_standard_input_is_objects_where_the_first_line_is_one(typed: Callable[[bytes], io.BytesIO]) -> None:
    typed(b'\n{"text": "a", "id": 1}\n\n{"text": "b"}\n{"id": 3}\n')
    stream = open_stream("-", 2)
    assert not stream.plain
    assert [table.columns for table in stream.chunks] == [{"text": ["a", "b"], "id": [1, None]}, {"id": [3]}]
    typed(b'{"text": "a"}\nb\n')
    with pytest.raises(GeodistillError, match="Line 2 of standard input is not a JSON object"):
        list(open_stream("-", 2).chunks)


def test_a_chunk_is_read_when_it_is_asked_for(typed: Callable[[bytes], io.BytesIO]) -> None:
    given = typed(b"a\n" * 10)
    chunks = open_stream("-", 3).chunks
    assert len(next(chunks).columns[LINE]) == 3 and given.tell() == 6


def test_what_cannot_be_read(tmp_path: Path, typed: Callable[[bytes], io.BytesIO]) -> None:
    for content in (b"", b"\n \n"):
        typed(content)
        with pytest.raises(GeodistillError, match="standard input is empty"):
            open_stream("-", 2)
    typed(b"a\n\xff\n")
    with pytest.raises(GeodistillError, match="Line 2 of standard input is not UTF-8"):
        lines("-")
    with pytest.raises(GeodistillError, match="There is no file"):
        open_stream(str(tmp_path / "none.csv"), 2)
    with pytest.raises(GeodistillError, match="is a folder"):
        open_stream(str(tmp_path), 2)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(GeodistillError, match="is empty"):
        open_stream(str(tmp_path / "empty.txt"), 2)
