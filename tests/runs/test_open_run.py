from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import BertConfig

from geodistill.errors import GeodistillError
from geodistill.runs.open_run import open_run, refuse_others
from geodistill.tasks.loading import ModelSource

RECIPE = {"student": {"width": 8, "layers": 1}, "objective": {"label": {}}, "data": {"limit": 5, "max_length": 9}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    results = {"metrics": {}, "read": {"task": {"columns": {"text": "a", "text_pair": "b"}}}, "positions": 7}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    BertConfig(num_labels=3, id2label={0: "a", 1: "b", 2: "c"}).save_pretrained(tmp_path / "student")
    return tmp_path


def test_overrides_are_laid_over_the_recipe(folder: Path) -> None:
    run = open_run(folder, ["data.source=a.csv", "data={text: words}"])
    assert (run.recipe.data.source, run.recipe.data.text, run.recipe.data.limit) == ("a.csv", "words", 5)
    assert run.given == {"data.source": "a.csv", "data.text": "words"} and run.named == ["source", "text"]
    assert (run.positions, run.reads_pairs, run.student) == (7, True, ModelSource(str(folder / "student")))


def test_what_only_training_reads_is_refused(folder: Path) -> None:
    for section in ("training.epochs=1", "teacher={}", "compare.seeds=[1]", "stages=[]", "task=instructions"):
        with pytest.raises(GeodistillError, match=r"has no effect here.* Leave it out"):
            open_run(folder, [section])
    with pytest.raises(GeodistillError, match="Did you mean 'source'"):
        open_run(folder, ["data.sorce=a.csv"])
    run = open_run(folder, ["data.text=a"])
    refuse_others(run, ["data.text"])
    with pytest.raises(
        GeodistillError, match=r"'data.text' cannot be overridden here: nobody asks\. Valid: data.label\."
    ):
        refuse_others(run, ["data.label"], {"data.text": "nobody asks"})


def test_a_folder_that_is_no_finished_run(folder: Path, tmp_path: Path) -> None:
    (folder / "results.json").unlink()
    for each in (folder, tmp_path / "none"):
        with pytest.raises(GeodistillError, match="is not the folder of a finished run"):
            open_run(each)
