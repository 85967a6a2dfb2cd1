from __future__ import annotations

import builtins
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.files import (
    fingerprint_of,
    fingerprint_of_side,
    locked,
    model_files,
    sha256,
    with_nan,
    write_json,
    write_text,
)


def test_writing_leaves_no_part_behind(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"ü": 0.1})
    write_json(path, {"ü": 0.2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": 0.2}
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()})
    write_text(tmp_path / "half.txt", "a \ud800")
    assert (tmp_path / "half.txt").read_text() == "a ?"
    assert json.loads(path.read_text(encoding="utf-8")) == {"ü": 0.2}
    assert {entry.name for entry in tmp_path.iterdir()} == {"file.json", "half.txt"}


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

    def fail(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the file was read again")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", fail)
        sha256(path)
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))  # the clock may be too coarse to tell two writes apart
    assert sha256(path).startswith("a52d159f262b2c6ddb724a61840befc36eb30c88")


def test_fingerprints_depend_on_content_and_not_on_key_order() -> None:
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 2}) != fingerprint_of({"a": "2"})
    assert fingerprint_of("ab", "c") != fingerprint_of("a", "bc")


WRITTEN = ("config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "inner/modeling.py")
ADDED = ("chat_template.jinja", "vocab.txt", "pytorch_model.bin", "inner/additional.safetensors")


def write_model(folder: Path) -> Path:
    for name in WRITTEN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def test_a_side_is_known_by_its_files_and_not_by_its_place(tmp_path: Path) -> None:
    one, two = write_model(tmp_path / "one"), write_model(tmp_path / "two")
    first = fingerprint_of_side(str(one))
    assert first == fingerprint_of_side(str(two))
    for name in (
        "README.md",
        "teacher.json",
        "student.json",
        "checkpoints/checkpoint-5/model.safetensors",
        ".git/a.py",
    ):
        path = one / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("about")
    assert fingerprint_of_side(str(one)) == first


@pytest.mark.parametrize("name", [*WRITTEN, *ADDED])
def test_a_side_whose_files_change_in_place_is_another(name: str, tmp_path: Path) -> None:
    before = fingerprint_of_side(str(write_model(tmp_path)))
    (tmp_path / name).write_text(f"another {name}")
    assert fingerprint_of_side(str(tmp_path)) != before


def test_a_file_that_goes_makes_another_side(tmp_path: Path) -> None:
    before = model_files(write_model(tmp_path))
    (tmp_path / "config.json").unlink()
    assert model_files(tmp_path).keys() == before.keys() - {"config.json"}


def test_a_side_is_known_by_how_it_is_loaded(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [{}, {"revision": "v2"}, {"weights": "8bit"}, {"precision": "float32"}]
    for name in (str(write_model(tmp_path)), "someone/model"):
        assert len({fingerprint_of_side(name, **each) for each in settings}) == 4
    assert fingerprint_of_side("someone/model") != fingerprint_of_side("someone/other")


HOLDER = """
import sys, time
from pathlib import Path
from geodistill.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(GeodistillError, match=rf"Another process writes the folder '{tmp_path}'\. Wait"):
            locked(tmp_path).__enter__()
        holder.kill()
    with locked(tmp_path):  # the lock of a killed process is free
        pass


def test_a_folder_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path):
        pass


def test_json_stays_json_where_a_number_is_not_finite(tmp_path: Path) -> None:
    content = {"loss": math.nan, "runs": [{"perplexity": math.inf, "steps": 3}], "pair": (-math.inf, 0.5), "name": "a"}
    write_json(tmp_path / "results.json", content)
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    read = json.loads(text)
    assert read == {"loss": None, "runs": [{"perplexity": None, "steps": 3}], "pair": [None, 0.5], "name": "a"}
    assert math.isnan(with_nan(read["runs"][0])["perplexity"])
