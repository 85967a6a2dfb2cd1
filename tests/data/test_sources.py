from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from geodistill.data import sources
from geodistill.data.sources import Source, choose_splits, open_source
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).write_text("text,label\na,1\n" if name.endswith("csv") else "nothing")
    return tmp_path


def test_file_is_a_train_split(tmp_path: Path) -> None:
    folder_with(tmp_path, "mine.csv")
    source = open_source(DataRecipe(source=str(tmp_path / "mine.csv")))
    assert list(source.splits) == ["train"]
    assert source.splits["train"]().columns == {"text": ["a"], "label": ["1"]}


@pytest.mark.parametrize("name", ["mine.csv", ""])
def test_a_configuration_is_of_hub_data(tmp_path: Path, name: str) -> None:
    folder_with(tmp_path, "mine.csv")
    with pytest.raises(GeodistillError, match=r"data\.configuration is for data sets on the hub"):
        open_source(DataRecipe(source=str(tmp_path / name), configuration="main"))


@pytest.mark.parametrize("name", ["validation", "dev", "val", "valid"])
def test_names_of_the_validation_file(tmp_path: Path, name: str) -> None:
    source = open_source(DataRecipe(source=str(folder_with(tmp_path, "train.csv", f"{name}.csv", "readme.md"))))
    assert source.find("validation", required=False) == name
    assert source.find("dev", required=False) == name
    assert source.find("test", required=False) is None


def test_files_are_read_on_demand(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "train.csv")
    (folder / "extra.jsonl").write_text("damaged")
    assert open_source(DataRecipe(source=str(folder))).splits["train"]().columns["text"] == ["a"]


def test_unknown_split_lists_those_present(tmp_path: Path) -> None:
    source = open_source(DataRecipe(source=str(folder_with(tmp_path, "training.csv", "test.csv"))))
    with pytest.raises(GeodistillError, match=r"no split 'train'. Did you mean 'training'\? Valid: test, training"):
        source.find("train", required=True)


def hub(monkeypatch: pytest.MonkeyPatch, splits: list[str]) -> list[tuple]:
    """A stand-in for the hub; returns the list of what was asked of it."""
    asked: list[tuple] = []

    def load_dataset(name: str, configuration: str | None) -> datasets.DatasetDict:
        asked.append((name, configuration))
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_dict({"text": [split], "label": [1]}) for split in splits}
        )

    monkeypatch.setattr(sources, "load_dataset", load_dataset)
    return asked


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, ["train", "test"])
    source = open_source(DataRecipe(source="owner/set", configuration="plain"))
    assert asked == [("owner/set", "plain")]
    assert list(source.splits) == ["train", "test"] and source.metrics is None


def test_glue_task(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = hub(monkeypatch, ["train", "validation", "test"])
    assert open_source(DataRecipe(source="glue/cola")).metrics == ["matthews_correlation"]
    assert asked == [("nyu-mll/glue", "cola")]


def test_mnli_is_validated_on_the_matched_part(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ["train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"])
    source = open_source(DataRecipe(source="glue/mnli"))
    found = source.find("validation", required=True)
    assert found is not None and source.splits[found]().columns["text"] == ["validation_matched"]
    assert source.find("test", required=False) is None


def test_offline_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, configuration: str | None) -> None:
        raise ConnectionError("Couldn't reach the Hub\nand more lines")

    monkeypatch.setattr(sources, "load_dataset", unreachable)
    with pytest.raises(GeodistillError, match=r"'imdb' could not be loaded from the hub \(Couldn't reach the Hub\)"):
        open_source(DataRecipe(source="imdb"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bundled:trek", "Did you mean 'bundled:trec'"),
        ("glue/colla", "Did you mean 'glue/cola'"),
        ("missing.csv", "no file or folder"),
        ("missing.csv.gz", "no file or folder"),
        ("./missing", "no file or folder"),
        ("a/b/c", "no file or folder"),
    ],
)
def test_unknown_sources(source: str, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        open_source(DataRecipe(source=source)).splits["train"]()


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="holds no data files"):
        open_source(DataRecipe(source=str(folder_with(tmp_path, "readme.md"))))


def test_a_compressed_file_in_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match=r"holds test.csv.gz, and compressed files are not read\. Unpack"):
        open_source(DataRecipe(source=str(folder_with(tmp_path, "train.csv", "test.csv.gz", "photos.zip"))))


def test_two_files_of_one_split(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="two files named 'train'"):
        open_source(DataRecipe(source=str(folder_with(tmp_path, "train.csv", "train.jsonl"))))


def source(*names: str) -> Source:
    return Source({name: lambda: Table({}) for name in names})


def test_parts_are_found_under_their_names() -> None:
    assert choose_splits(source("train", "dev"), DataRecipe()) == {"train": "train", "validation": "dev"}
    named = DataRecipe(train_split="fit", test_split="held")
    assert choose_splits(source("fit", "held", "more"), named) == {"train": "fit", "test": "held"}


def test_one_split_is_not_trained_and_measured_on() -> None:
    with pytest.raises(GeodistillError, match="used twice"):
        choose_splits(source("train"), DataRecipe(test_split="train"))


def test_validation_and_test_by_one_name_are_a_validation_split() -> None:
    recipe = DataRecipe(test_split="validation")
    assert choose_splits(source("train", "validation"), recipe) == {"train": "train", "validation": "validation"}
