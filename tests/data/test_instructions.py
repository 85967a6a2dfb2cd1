from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from geodistill.data import sources
from geodistill.data.instructions import Instructions, load_instructions
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Say {i}.", "input": f"{i}", "output": f"number {i}", **more}
        for i in range(start, start + count)
    ]


def jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content))
    return path


def load(path: Path, **recipe: Any) -> Instructions:
    return load_instructions(DataRecipe(source=str(path), **recipe))


def sizes(instructions: Instructions) -> dict[str, int]:
    return {name: len(split) for name, split in instructions.splits.items()}


def test_one_file_is_cut_in_three(tmp_path: Path) -> None:
    instructions = load(jsonl(tmp_path / "a.jsonl", rows(100)))
    assert sizes(instructions) == {"train": 70, "validation": 10, "test": 20}
    assert (instructions.max_length, instructions.notes) == (512, [])
    for split in instructions.splits.values():
        assert split.column_names == ["example_id", "instruction", "input", "references", "task"]
        assert list(split["example_id"]) == list(range(len(split)))
        assert all(row["references"] == [f"number {row['input']}"] for row in split)
    assert len({row["input"] for split in instructions.splits.values() for row in split}) == 100


def test_equal_prompts_are_on_one_side(tmp_path: Path) -> None:
    content = [{"instruction": f"Say {i % 50}.", "output": f"answer {i}"} for i in range(150)]
    splits = load(jsonl(tmp_path / "a.jsonl", content)).splits.values()
    prompts = [set(split["instruction"]) for split in splits]
    assert not (prompts[0] & prompts[1]) and not (prompts[0] & prompts[2]) and not (prompts[1] & prompts[2])


def test_a_split_of_unseen_instructions_is_kept_as_it_is(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(100))
    jsonl(tmp_path / "unseen.jsonl", [*rows(10, 200), {"instruction": "a", "output": None}])
    instructions = load(tmp_path)
    assert sizes(instructions) == {"train": 70, "validation": 10, "test": 20, "unseen": 10}
    assert instructions.notes == ["1 of the 11 unseen rows have an empty response and were dropped."]


def test_validation_is_reported_on_where_there_is_no_test(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(100))
    jsonl(tmp_path / "dev.jsonl", rows(10, 100))
    instructions = load(tmp_path)
    assert sizes(instructions) == {"train": 90, "validation": 10, "test": 10}
    assert "reported on as test" in instructions.notes[0]


def test_formats_agree(tmp_path: Path) -> None:
    content = rows(20)
    jsonl(tmp_path / "a.jsonl", content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [separator.join(content[0]), *(separator.join(row.values()) for row in content)]
        (tmp_path / name).write_text("\n".join(lines))
    datasets.Dataset.from_list([{**row, "output": [row["output"]]} for row in content]).to_parquet(
        tmp_path / "a.parquet"
    )
    loaded = [load(tmp_path / f"a.{suffix}") for suffix in ("jsonl", "json", "csv", "tsv", "parquet")]
    assert len({instructions.fingerprint for instructions in loaded}) == 1


def test_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    content = [
        {"messages": [*turns, {"role": "user", "content": f"{i}?"}, {**turns[1], "content": f"{i}!"}]}
        for i in range(40)
    ]
    datasets.Dataset.from_list(content).to_parquet(tmp_path / "a.parquet")
    loaded = [load(jsonl(tmp_path / "a.jsonl", content)), load(tmp_path / "a.parquet")]
    row = loaded[0].splits["train"][0]
    assert row["messages"] == [*turns, {"role": "user", "content": row["instruction"]}]
    assert row["references"] == [row["instruction"].replace("?", "!")]
    assert loaded[0].fingerprint == loaded[1].fingerprint


def test_dolly_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("instruction", "context", "response", "category")
    data = datasets.Dataset.from_list(
        [dict(zip(names, (f"Ask {i}", "", "Yes", "open"), strict=True)) for i in range(50)]
    )
    monkeypatch.setattr(sources, "load_dataset", lambda name, configuration: datasets.DatasetDict(train=data))
    instructions = load_instructions(DataRecipe(source="databricks/dolly"))
    assert sizes(instructions) == {"train": 35, "validation": 5, "test": 10}
    assert instructions.splits["test"]["task"][0] == "open"


def test_limit(tmp_path: Path) -> None:
    assert sizes(load(jsonl(tmp_path / "a.jsonl", rows(100)), limit=15)) == {"train": 15, "validation": 10, "test": 15}


def test_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(60))
    base = load(path).fingerprint
    assert load(path, max_length=512).fingerprint == base
    changes = [
        load(jsonl(tmp_path / "b.jsonl", [*rows(59), *rows(1, 70)])),
        load(path, seed=1),
        load(path, prompt="plain"),
        load(path, max_length=64),
        load(path, max_prompt_length=64),
        load(jsonl(tmp_path / "c.jsonl", rows(60, task="a"))),
    ]
    assert len({base, *(changed.fingerprint for changed in changes)}) == 7


def test_a_test_split_without_responses_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(20))
    jsonl(tmp_path / "test.jsonl", [{"instruction": "a", "input": "b"}])
    with pytest.raises(
        GeodistillError, match="test split has no column 'output'; its columns are 'instruction', 'input'"
    ):
        load(tmp_path)
    jsonl(tmp_path / "test.jsonl", [{"instruction": "a", "input": "b", "Response": "c"}])
    with pytest.raises(GeodistillError, match="'output' in the train split and 'Response' in the test split"):
        load(tmp_path)
    jsonl(tmp_path / "test.jsonl", rows(3, 30, output=""))
    with pytest.raises(GeodistillError, match="test split is empty: none of its 3 rows has a response"):
        load(tmp_path)
