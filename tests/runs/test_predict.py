from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.runs.evaluate import evaluate
from geodistill.runs.predict import predict, write_predictions
from geodistill.runs.predictors import texts as module
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train

LABELS = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]


@pytest.fixture(scope="module")
def run(content: dict[str, Any], classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predicting") / "run"
    train(check_recipe({**content, "teacher": {"model": str(classifier)}}), folder, progress=False)
    return folder


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | str], None]:
    """Put something on standard input."""

    def put(text: bytes | str) -> None:
        given = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))

    return put


def lines(run: Path, source: object, *overrides: str, **options: Any) -> list[dict[str, Any]]:
    return list(predict(run, str(source), overrides, **options))


def test_every_row_is_answered_in_order(run: Path, write_csv: Any, questions: list[tuple[str, str]]) -> None:
    path = write_csv(questions)
    found = lines(run, path, chunk=7)
    assert [line["row"] for line in found] == list(range(60))
    assert [line["text"] for line in found] == [text for text, _ in questions]
    for line in found:
        assert list(line["probabilities"]) == LABELS
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert line["probability"] == max(line["probabilities"].values())
        assert line["probabilities"][line["prediction"]] == line["probability"]
    evaluate(run, [f"data.source={path}"], output=path.with_suffix(".jsonl"))
    scored = [json.loads(line) for line in path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["prediction"] for line in scored] == [line["prediction"] for line in found]
    assert lines(run, path) == lines(run, path, chunk=60)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl", "rows.json", "rows.parquet", "rows.txt", "-"])
def test_formats(run: Path, tmp_path: Path, typed: Callable[..., None], name: str) -> None:
    from datasets import Dataset

    texts = ["Who wrote it ?", "Where is Bern ?"]
    objects = [{"text": text} for text in texts]
    path = tmp_path / name
    match path.suffix:
        case ".csv" | ".tsv":
            path.write_text("\n".join(["text", *texts]) + "\n", encoding="utf-8")
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(objects), encoding="utf-8")
        case ".parquet":
            Dataset.from_list(objects).to_parquet(path)
        case ".txt":
            path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        case _:
            typed("\n".join(texts))
    found = lines(run, "-" if name == "-" else path)
    assert [line["text"] for line in found] == texts and all(line["prediction"] in LABELS for line in found)


def test_an_empty_text_is_answered_by_null_in_its_place(run: Path, typed: Callable[..., None]) -> None:
    typed("Who ?\r\n\n   \nWhere ?")
    found = predict(run, "-", chunk=2)
    said = list(found)
    assert [line["prediction"] is None for line in said] == [False, True, True, False]
    assert said[1] | {"text": ""} == {
        "row": 1,
        "text": "",
        "prediction": None,
        "probability": None,
        "probabilities": None,
        "note": "the text is empty",
    }
    assert said[0]["text"] == "Who ?"
    assert found.notes == ["2 of the 4 rows are answered by null: the text is empty."]


def test_standard_input_of_json_objects(run: Path, typed: Callable[..., None]) -> None:
    typed('\n{"text": "Who ?", "id": 7}\n\n{"id": 8}\n{"text": "Where ?"}\n')
    found = predict(run, "-", chunk=1)
    assert [(line["row"], line["text"], line["prediction"] is None) for line in found] == [
        (0, "Who ?", False),
        (1, "", True),
        (2, "Where ?", False),
    ]
    typed('{"text": "Who ?"}\nWhere ?\n')
    with pytest.raises(GeodistillError, match="Line 2 of standard input is not a JSON object"):
        lines(run, "-")
    typed('"Who ?"\n[1]\n')
    assert [line["text"] for line in lines(run, "-")] == ['"Who ?"', "[1]"]


def test_columns_are_those_of_the_run_or_usual_or_named(run: Path, write_csv: Any) -> None:
    path = write_csv([("Who ?", "Where ?")], header="text,question")
    assert lines(run, path)[0]["text"] == "Who ?"
    assert lines(run, path, "data.text=question")[0]["text"] == "Where ?"
    with pytest.raises(GeodistillError, match="There is no column 'words'; the columns are 'text', 'question'"):
        lines(run, path, "data.text=words")
    with pytest.raises(GeodistillError, match="No text column is found"):
        lines(run, write_csv([("Who ?", 1)], header="words,number"))


def test_a_diverged_student_is_null(run: Path, typed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.logits_of
    monkeypatch.setattr(module, "logits_of", lambda *given: original(*given) * float("nan"))
    typed("Who ?")
    (line,) = lines(run, "-")
    assert line["prediction"] is None and line["note"] == "the student's output is not a finite number"
    json.dumps(line, allow_nan=False)


def test_memory_does_not_grow_with_the_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk is read when the lines of the one before are taken."""
    path = tmp_path / "many.txt"
    path.write_text("Who ?\n" * 50, encoding="utf-8")
    sizes = []
    answer = module.TextPredictor.answer

    def counted(self: Any, table: Any, start: int) -> Any:
        sizes.append(len(table.columns["line"]))
        return answer(self, table, start)

    monkeypatch.setattr(module.TextPredictor, "answer", counted)
    found = iter(predict(run, str(path), chunk=20))
    next(found)
    assert sizes == [20]
    assert len(list(found)) == 49 and sizes == [20, 20, 10]


def test_a_file_is_written_when_it_is_complete(run: Path, tmp_path: Path, typed: Callable[..., None]) -> None:
    path, output = tmp_path / "rows.txt", tmp_path / "new" / "said.jsonl"
    path.write_text("Who ?\n\n", encoding="utf-8")
    notes = write_predictions(predict(run, str(path)), output, str(path))
    assert notes == ["1 of the 2 rows is answered by null: the text is empty."]
    assert [json.loads(line)["row"] for line in output.read_text(encoding="utf-8").splitlines()] == [0, 1]
    typed('{"text": "Who ?"}\nWhere ?\n')
    with pytest.raises(GeodistillError, match="Line 2"):
        write_predictions(predict(run, "-", chunk=1), output, "-")
    assert len(output.read_text(encoding="utf-8").splitlines()) == 2
    assert [each.name for each in output.parent.iterdir()] == ["said.jsonl"]
    with pytest.raises(GeodistillError, match="the file that is read"):
        write_predictions(predict(run, str(path)), path, str(path))
    with pytest.raises(GeodistillError, match="is a folder"):
        write_predictions(predict(run, str(path)), tmp_path, str(path))


def test_a_reader_that_stops_early_ends_it_quietly(run: Path, tmp_path: Path) -> None:
    """As `geodistill predict … | head -1` does: nothing but the notes is on standard error, and no traceback."""
    path = tmp_path / "many.txt"
    path.write_text("Who is the painter of the river ?\n" * 3000, encoding="utf-8")
    command = [sys.executable, "-m", "geodistill", "predict", str(run), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["row"] == 0
        process.stdout.close()
        said = process.stderr.read().decode()
    assert process.returncode == 0 and "Traceback" not in said and "Broken pipe" not in said, said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epochs=3"], "'training.epochs' has no effect here"),
        (["data.source=x.csv"], "the file is the argument after the run"),
        (["data.limit=3"], "every row is answered"),
        (["data.label=x"], "'data.label' cannot be overridden here"),
        (["data.prompt=chat"], "it applies only with task: instructions"),
        (["generation.seeds=[1]"], "'generation.seeds' in"),
        (["data.txt=x"], "Did you mean 'text'"),
    ],
)
def test_an_override_without_effect_is_refused(run: Path, write_csv: Any, overrides: list[str], message: str) -> None:
    with pytest.raises(GeodistillError, match=re.escape(message)):
        predict(run, str(write_csv([("Who ?", "HUM")])), overrides)


def test_what_cannot_be_read(run: Path, tmp_path: Path, typed: Callable[..., None]) -> None:
    for name, content, message in (
        ("none.csv", None, "There is no file"),
        ("empty.csv", b"", "is empty"),
        ("empty.txt", b"", "is empty"),
        ("rows.xml", b"<a>", "format of .* is not known"),
        ("latin.txt", b"Who ?\nWhere\xe9 ?\n", "Line 2 of latin.txt is not UTF-8"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(GeodistillError, match=message):
            lines(run, path)
    with pytest.raises(GeodistillError, match="is a folder"):
        lines(run, tmp_path)
    for content in (b"", b"\n\n"):
        typed(content)
        with pytest.raises(GeodistillError, match="standard input is empty"):
            lines(run, "-")
    typed('{"text": ["Who ?"]}')
    with pytest.raises(GeodistillError, match="Row 0 has a list in the column 'text'"):
        lines(run, "-")
    with pytest.raises(GeodistillError, match="is not the folder of a finished run"):
        predict(tmp_path, "-")


def test_a_regression_on_pairs(content: dict[str, Any], tmp_path: Path, typed: Callable[..., None]) -> None:
    rows = [f"river {place},the river {place},{place / 10}" for place in range(40)]
    (tmp_path / "pairs.csv").write_text("\n".join(["left,right,score", *rows]) + "\n", encoding="utf-8")
    data = {"source": str(tmp_path / "pairs.csv"), "text": "left", "text_pair": "right", "label": "score"}
    recipe = check_recipe({**content, "data": {**data, "problem": "regression", "max_length": 16}})
    train(recipe, tmp_path / "run", progress=False)
    (tmp_path / "new.csv").write_text("sentence1,sentence2\na river,the river\na boat,\n", encoding="utf-8")
    found = lines(tmp_path / "run", tmp_path / "new.csv")
    assert isinstance(found[0]["prediction"], float) and set(found[0]) == {"row", "text", "text_pair", "prediction"}
    assert found[1]["prediction"] is None and found[1]["note"] == "one text of the pair is empty"
    typed('{"left": "a river", "right": "the river"}')
    assert lines(tmp_path / "run", "-")[0]["prediction"] == pytest.approx(found[0]["prediction"], abs=1e-5)
    typed("a river")
    with pytest.raises(GeodistillError, match="reads pairs of texts, and a line of standard input is one text"):
        lines(tmp_path / "run", "-")
    (tmp_path / "single.csv").write_text("left\na river\n", encoding="utf-8")
    with pytest.raises(GeodistillError, match="The student reads pairs of texts"):
        lines(tmp_path / "run", tmp_path / "single.csv")


def test_a_regression_of_two_values(content: dict[str, Any], tmp_path: Path, typed: Callable[..., None]) -> None:
    rows = [f"river {place},{place / 10},{place / 7}" for place in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,wide,deep", *rows]) + "\n", encoding="utf-8")
    data = {"source": str(tmp_path / "rows.csv"), "label": ["wide", "deep"], "max_length": 16}
    results = train(check_recipe({**content, "data": data}), tmp_path / "run", progress=False)
    assert evaluate(tmp_path / "run", progress=False)["metrics"] == results.metrics
    (tmp_path / "new.csv").write_text("text,deep,wide\na river,1.5,2\nthe river,1,3\n", encoding="utf-8")
    other = [f"data.source={tmp_path / 'new.csv'}", "data.label=[deep, wide]"]
    scores = evaluate(tmp_path / "run", other, progress=False)
    first = json.loads(Path(scores["predictions"]).read_text(encoding="utf-8").splitlines()[0])
    assert first["reference"] == [2, 1.5]  # in the order of the student's outputs
    typed("a river")
    assert lines(tmp_path / "run", "-")[0]["prediction"] == pytest.approx(first["prediction"], abs=1e-5)


@pytest.mark.parametrize("decoder", ["opt", "llama"], indirect=True)
def test_instructions(decoder: Path, instruction_file: Path, tmp_path: Path, typed: Callable[..., None]) -> None:
    content: dict[str, Any] = {
        "task": "instructions",
        "data": {"source": str(instruction_file), "prompt": "plain", "max_length": 64, "max_prompt_length": 40},
        "teacher": {"model": str(decoder)},
        "student": {"teacher_layers": [2, 4]},
        "objective": {"label": {}},
        "training": {"max_steps": 1, "batch_size": 8},
        "generation": {"max_new_tokens": 4, "seeds": [1], "batch_size": 2, "limit": 2},
    }
    folder = tmp_path / "run"
    train(check_recipe(content), folder, progress=False)

    new = tmp_path / "new.csv"
    new.write_text("instruction,input,output\nSay it.,river,river\n,engine,engine\nSay.,,word\n", encoding="utf-8")
    found = predict(folder, str(new))
    said = list(found)
    assert [line["row"] for line in said] == [0, 1, 2]
    assert said[0]["input"] == "river" and "input" not in said[2]
    assert isinstance(said[0]["response"], str) and said[1]["response"] is None
    assert said[1]["note"] == "there is no instruction"
    assert lines(folder, new) == said and lines(folder, new, "generation.max_new_tokens=1") != said
    typed("Say the word.\n\n" + "word " * 60 + "\n")
    plain = lines(folder, "-")
    assert isinstance(plain[0]["response"], str) and plain[1]["note"] == "there is no instruction"
    assert plain[2]["response"] is None and "the prompt is over 40 tokens" in plain[2]["note"]
    turns = [{"role": "user", "content": "Say the word."}]
    answered = [*turns, {"role": "assistant", "content": "word"}]
    typed("\n".join(json.dumps({"messages": each}) for each in (turns, answered, [])))
    chat = lines(folder, "-")
    assert [line["instruction"] for line in chat] == ["Say the word.", "Say the word.", ""]
    assert isinstance(chat[0]["response"], str) and chat[2]["response"] is None
    with pytest.raises(GeodistillError, match="every row is answered"):
        predict(folder, str(new), ["generation.limit=1"])

    # A file is scored as a whole, although the run's own scores are of two examples.
    scores = evaluate(folder, [f"data.source={new}"], progress=False)
    kept = [json.loads(line) for line in Path(scores["predictions"]).read_text(encoding="utf-8").splitlines()]
    assert [line["row"] for line in kept] == [0, 2] and set(kept[0]) == {"row", "prompt", "responses", "references"}
    assert any("1 of the 3 new.csv rows have no instruction" in note for note in scores["notes"])
    own = evaluate(folder, split="train", progress=False)
    assert own["examples"] == 2 and own["metrics"]["perplexity"] > 1
    with pytest.raises(GeodistillError, match="it applies only with task: classification"):
        evaluate(folder, [f"data.source={new}", "data.text=instruction"])
