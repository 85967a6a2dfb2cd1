"""The command line from end to end, on the bundled weights cut to two layers."""

from __future__ import annotations

import ctypes
import json
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from geodistill import api
from geodistill.cli import main
from geodistill.files import read_lines

TEXT = "Who wrote the book of hours ?"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run `geodistill ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["geodistill", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code or 0
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_process_keeps_its_warnings_filter(cli: Cli) -> None:
    before = list(warnings.filters)
    assert cli("train", "absent.yaml").code == 2
    assert list(warnings.filters) == before


def test_help_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["geodistill", "--help"])
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module("geodistill", run_name="__main__")
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("demo", "train", "compare", "evaluate", "predict", "report"))


def test_train_then_evaluate(cli: Cli, content: dict[str, Any], tmp_path: Path) -> None:
    stage = {
        "name": "geometry",
        "data": {"source": "bundled:sentences", "limit": 40, "max_length": 16},
        "objective": {"features": [{"loss": "procrustes"}]},
        "training": {"max_steps": 2, "batch_size": 8, "logging_steps": 1},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, "stages": [stage]}))
    said = cli("train", "mine.yaml", "training.epochs=2", "--onnx")
    assert said.code == 0, said.err
    assert said.out.split()[:2] == ["accuracy", "macro_f1"] and "student on test  " in said.out
    assert "1 ↔ 2 " in said.out and "Report: runs/mine/report.html" in said.out
    folder = tmp_path / "runs" / "mine"
    expected = {"recipe.yaml", "environment.json", "metrics.jsonl", "results.json", "student", "report.html"}
    expected |= {"checkpoints", ".lock", "test_predictions.jsonl"}
    assert files(folder) == expected | {"teacher"}

    assert yaml.safe_load((folder / "recipe.yaml").read_text())["training"]["epochs"] == 2
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["transformers"]
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [entry for entry in entries if "loss" in entry]
    assert [entry["stage"] for entry in losses] == ["geometry"] * 2 + ["task"] * 4
    for entry in losses:
        assert entry["procrustes_1_2"] > 0 and entry["chance/procrustes_1_2"] > 0
    assert all({"label", "logits"} <= set(entry) for entry in losses if entry["stage"] == "task")
    results = json.loads((folder / "results.json").read_text())
    assert set(results["metrics"]) == {"accuracy", "macro_f1"} and results["split"] == "test"
    assert results["onnx_difference"] <= 1e-4 and results["training_seconds"] > 0 and results["latency_ms"] > 0
    assert results["parameters"] < results["teacher"]["parameters"]
    assert "procrustes" in results["geometry"][0]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "mine" in page and "bundled:trec" in page

    student = AutoModelForSequenceClassification.from_pretrained(folder / "student")
    tokenizer = AutoTokenizer.from_pretrained(folder / "student")
    assert sum(weight.numel() for weight in student.parameters()) == results["parameters"]
    answer = pipeline("text-classification", model=student, tokenizer=tokenizer)(TEXT)[0]
    assert answer["label"] in {"ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"}

    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "student" / "model.onnx")
    inputs = tokenizer([TEXT, "Where ?"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = student.eval()(**inputs).logits
    names = {node.name for node in session.get_inputs()}
    given = {name: value.numpy() for name, value in inputs.items() if name in names}
    assert torch.allclose(torch.from_numpy(session.run(None, given)[0]), logits, atol=1e-4)

    said = cli("evaluate", "runs/mine")
    assert said.code == 0 and f"accuracy {results['metrics']['accuracy']:.4f}" in said.out
    assert "Predictions: runs/mine/predictions.jsonl" in said.out and "replaced" not in said.out
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 64
    own, theirs = (read_lines(place / "test_predictions.jsonl") for place in (folder, folder / "teacher"))
    assert own == lines and [line["row"] for line in theirs] == [line["row"] for line in lines]
    (folder / "report.html").unlink()
    assert cli("report", "runs/mine").out == "Report: runs/mine/report.html\n" and (folder / "report.html").is_file()
    (tmp_path / "one.csv").write_text("text,label\nWho wrote it ?,HUM\n")
    said = cli("evaluate", "runs/mine", "data.source=one.csv", "--output", "one.jsonl")
    assert said.code == 0 and "student on one.csv (1 example): accuracy" in said.out, said.err
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 64
    assert json.loads((tmp_path / "one.jsonl").read_text())["row"] == 0
    (tmp_path / "one.jsonl").unlink()

    (tmp_path / "lines.txt").write_text("Who wrote it ?\n\nWhere is it ?\n")
    said = cli("predict", "runs/mine", "lines.txt")
    answers = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0 and [answer["row"] for answer in answers] == [0, 1, 2], said.err
    assert answers[0]["prediction"] in answers[0]["probabilities"] and answers[1]["prediction"] is None
    assert "1 of the 3 rows is answered by null: the text is empty." in said.err
    said = cli("predict", "runs/mine", "lines.txt", "--output", "answers.jsonl")
    assert said.code == 0 and said.out == ""
    assert [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == answers
    refused = cli("predict", "runs/mine", "none.txt")
    assert refused.code == 2 and "There is no file 'none.txt'. Give the path" in refused.err

    stamp = (folder / "results.json").stat().st_mtime_ns
    again = cli("train", "mine.yaml", "training.epochs=2")
    assert again.code == 0 and (folder / "results.json").stat().st_mtime_ns == stamp
    other = cli("train", "mine.yaml", "training.epochs=1")
    assert other.code == 2 and "holds another run" in other.err
    (folder / "results.json").write_text("{")
    damaged = cli("train", "mine.yaml", "training.epochs=2")
    assert damaged.code == 2 and "results.json cannot be read" in damaged.err
    (folder / "notes.txt").write_text("mine")
    fresh = cli("train", "mine.yaml", "stages=[]", "training.max_steps=1", "--fresh")
    assert fresh.code == 0, fresh.err
    assert files(folder) == expected | {"teacher", "notes.txt"} and not (folder / "student" / "model.onnx").exists()


def test_demo_takes_overrides(cli: Cli, encoder: Path, tmp_path: Path) -> None:
    tiny = ["data.limit=48", "data.max_length=16", f"teacher.model={encoder}", "teacher.training.max_steps=1"]
    tiny += ["teacher.training.bf16=false", "student.width=16", "training.max_steps=1"]
    tiny += ["compare.seeds=[1]", "compare.jobs=1", "compare.variants.stage, then KD + Procrustes.stages=[]"]
    said = cli("demo", *tiny, "--output", "out")
    assert said.code == 0, said.err
    assert all(name in said.out for name in ("labels only", "KD", "KD + Procrustes", "KD + CKA", "teacher"))
    assert "no test" in said.out.lower()
    assert {"recipe.yaml", "environment.json", "results.json", "report.html", "scores.svg"} <= files(tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["runs"]) == 7


def test_compare_with_a_sweep(
    cli: Cli, write_recipe: Callable[..., Path], without_workers: None, tmp_path: Path
) -> None:
    kd = {"label": {}, "logits": {}}
    variants = {"KD": {"objective": kd}, "Gram": {"objective": {**kd, "features": [{"loss": "gram"}]}}}
    write_recipe(training={"max_steps": 1}, compare={"seeds": [1], "variants": variants, "jobs": 1})
    said = cli("compare", "recipe.yaml", "objective.features.0.weight=1,5")
    assert said.code == 0, said.err
    assert "objective.features.0.weight" in said.out or "weight=5" in said.out or "weight 5" in said.out
    assert len(list((tmp_path / "runs" / "recipe" / "runs").iterdir())) == 3
    refused = cli("evaluate", "runs/recipe")
    assert refused.code == 2 and "not the folder of a finished run" in refused.err


def test_an_interruption_says_how_to_go_on(
    cli: Cli, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    write_recipe()
    monkeypatch.setattr(api, "train_run", interrupted)
    said = cli("train", "recipe.yaml")
    assert said.code == 130 and "Run the same command again" in said.err


def test_a_defect_of_ours_is_not_hidden(
    cli: Cli, write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe()
    monkeypatch.setattr(api, "train_run", lambda *arguments, **options: {"unexpected": 1})
    with pytest.raises(AttributeError):
        cli("train", "recipe.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "There is no recipe file 'none.yaml'"),
        (["train", "recipe.yaml", "training.epochs"], "'training.epochs' is no override"),
        (["train", "recipe.yaml", "training.epoch=1"], "Did you mean 'epochs'"),
        (["train", "recipe.yaml", "training.epochs=1,2"], "'training.epochs'"),
        (["train", "recipe.yaml", "objective.features.0.loss=procrustez"], "Did you mean 'procrustes'"),
        (["train", "recipe.yaml", "objective.features.0.rows=tokns"], "Did you mean 'tokens'"),
        (["train", "recipe.yaml", "objective.features.0.layers=unifrom"], "Did you mean 'uniform'"),
        (["train", "recipe.yaml", "objective.features.0.layers=[[4, 1]]"], "Layer 4 of the student"),
        (["train", "recipe.yaml", "objective.features.0.layers=[[1, -4]]"], "Layer -4 of the teacher"),
        (["train", "recipe.yaml", "training.arguments.adam_betta2=1"], "Did you mean 'adam_beta2'"),
        (["train", "recipe.yaml", "data.source=bundled:trek"], "Did you mean 'bundled:trec'"),
        (["train", "recipe.yaml", "data.source=none.csv"], "There is no file or folder 'none.csv'"),
        (["train", "recipe.yaml", "data.source=empty.csv"], "empty.csv is empty"),
        (["train", "recipe.yaml", "data.source=two.csv"], "the data has 2 ('a', 'b')"),
        (["train", "recipe.yaml", "data.source=odd"], "validation split has labels that training lacks: 'c'"),
        (["train", "recipe.yaml", "data.source=two.csv", "data.label=stars"], "the columns are 'text', 'label'"),
        (["train", "recipe.yaml", "data.source=two.csv", "data.text=words"], "There is no column 'words'"),
        (["train", "recipe.yaml", "data.source=two.csv", "data.metrics=[acuracy]"], "Did you mean 'accuracy'"),
        (["train", "recipe.yaml", "teacher.model=ENCODER"], "has no trained head"),
        (["train", "recipe.yaml", "teacher.model=./none"], "There is no model folder './none'"),
        (["train", "recipe.yaml", "student={model: STRANGER}"], "different vocabularies"),
        (["train", "recipe.yaml", "student={teacher_layers: 7}"], "layers 1 to 2"),
        (["train", "recipe.yaml", "student.heads=5"], "does not divide into 5 heads"),
        (["train", "recipe.yaml", "--output", "mine"], "is not empty and not a run"),
        (["train", "recipe.yaml", "--output", "recipe.yaml"], "is a file, not a folder"),
        (["evaluate", "mine"], "is not the folder of a finished run"),
        (["predict", "mine", "two.csv"], "is not the folder of a finished run"),
        (["compare", "recipe.yaml", "objective.label.wieght=1,2"], "Did you mean 'weight'"),
        (["compare", "recipe.yaml", "objective.features.7.weight=1,2"], "No variant has the swept field"),
        (["compare", "recipe.yaml", "data.limit=5,6"], "scored alike, on one task, data set and teacher"),
        (["compare", "recipe.yaml", "compare={baseline: KB, variants: {KD: {}}}"], "Did you mean 'KD'"),
        (["demo", "training.epoch=1"], "Did you mean 'epochs'"),
        (["demo", "--task", "trek"], "trek"),
        (["trian", "recipe.yaml"], "trian"),
    ],
)
def test_a_mistake_ends_with_code_2_and_no_traceback(
    cli: Cli,
    write_recipe: Callable[..., Path],
    write_csv: Callable[..., Path],
    encoder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    write_recipe()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "empty.csv").write_text("")
    two = [(f"text {place}", "ab"[place % 2]) for place in range(40)]
    write_csv(two, "two.csv")
    write_csv(two, "odd/train.csv")
    write_csv([*two[:9], ("text", "c")], "odd/validation.csv")
    stranger = tmp_path / "stranger"
    if any("STRANGER" in argument for argument in arguments):
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        tokenizer.add_tokens(["geodistill"])
        tokenizer.save_pretrained(stranger)
    places = {"ENCODER": str(encoder), "STRANGER": str(stranger)}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    said = cli(*arguments)
    assert said.code == 2, said
    shown = " ".join(said.err.split())
    assert message in shown and "Traceback" not in said.err
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    assert not list(tmp_path.glob("runs/*/results.json"))


# In a separate process: here earlier tests have left holes of that size in memory.
BLOCKS = """
import ctypes
from geodistill.cli import _return_large_blocks

class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype, library.malloc.restype = Memory, ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]
_return_large_blocks()
library.free(library.malloc(30_000_000))  # after which glibc would keep blocks of this size by default
before = library.mallinfo2().hblkhd
library.malloc(8_000_000)
print(library.mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library, or an old glibc"
)
def test_large_blocks_are_given_back_to_the_system() -> None:
    printed = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True).stdout
    assert int(printed) >= 8_000_000
