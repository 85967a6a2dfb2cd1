from __future__ import annotations

import json
from typing import Any

from geodistill.data.overlap import LeftOut
from geodistill.data.record import ImageRecord, PartRecord, Record, count_labels, part_records, summarize_values


def record(**more: Any) -> Record:
    left_out = LeftOut("train", 100, {"test": 4})
    return Record(
        **{
            "source": "rows.csv",
            "parts": {
                "train": PartRecord(64, 96, "train"),
                "test": PartRecord(20, 20),
                "validation": PartRecord(9, 9, "dev"),
            },
            "columns": {"text": "Review", "label": "stars"},
            "found": ["The text is the column 'Review'.", "The label is the column 'stars'."],
            "problem": "classification",
            "reason": "A classification, since a test says it.",
            "labels": {"1": {"train": 40, "test": 10}, "2": {"train": 24, "test": 10, "validation": 9}},
            "left_out": [left_out],
            "notes": [left_out.note],
            "max_length": 128,
            **more,
        }
    )


def test_each_fact_has_a_line() -> None:
    assert record(cut={"train": 3, "test": 0}).lines() == [
        "source: rows.csv",
        "rows: train 64 of 96, test 20 (cut from train), validation 9 (split 'dev')",
        "columns: The text is the column 'Review'. The label is the column 'stars'.",
        "problem: A classification, since a test says it.",
        "labels (train, test, validation): '1' 40, 10, 0; '2' 24, 10, 9",
        "3 of the 64 train texts are longer than 128 tokens and were cut.",
        "4 of the 100 train rows were left out: their texts are also in the held-out data (4 in the test part).",
    ]


def test_labels_may_be_left_to_a_table() -> None:
    assert not any(line.startswith("labels") for line in record().lines(labels=False))


def test_labels_of_the_teacher() -> None:
    def told(**outputs: str) -> str:
        return record(outputs=outputs).lines()[5]

    assert told(ham="ham", spam="spam") == "the teacher's labels, by name: the same"
    assert told(ham="ham", spam="SPAM") == "the teacher's labels, by name: 'spam' is 'SPAM'"
    assert told(**{f"l{i}": f"L{i}" for i in range(12)}).endswith("'l9' is 'L9', and 2 more")
    assert record(outputs={"ham": "LABEL_0"}, by_place=True).lines() == record().lines(), "a note tells it"


def test_many_labels_are_counted() -> None:
    (line,) = [line for line in record(labels={f"l{i}": {} for i in range(25)}).lines() if line.startswith("labels")]
    assert "'l9' 0, 0, 0; and 15 more labels" in line and "l10" not in line


def test_values_of_a_regression() -> None:
    values = {"train": {"minimum": -1.0, "mean": 0.25, "maximum": 5.0}}
    assert "labels (train): from -1 to 5, 0.25 on average" in record(labels={}, values=values).lines()


def test_a_record_comes_back_from_json() -> None:
    images = ImageRecord((1, 2), (3, 3), {"RGB": 4})
    for each in (record(), record(cut={"train": 3}), record(images=images), Record()):
        back = Record.from_dict(json.loads(json.dumps(each.to_dict())))
        assert back.lines() == each.lines() and json.dumps(back.to_dict()) == json.dumps(each.to_dict())


def test_rows_before_and_after_the_limit() -> None:
    found = part_records({"train": "ab", "test": "a"}, {"train": "abc", "test": "a"}, {"train": "fit", "test": None})
    assert found == {"train": PartRecord(2, 3, "fit"), "test": PartRecord(1, 1, None)}


def test_labels_are_counted_by_name() -> None:
    counts = count_labels({"train": [0, 1, 1], "test": None}, ["no", "yes"])
    assert counts == {"no": {"train": 1, "test": 0}, "yes": {"train": 2, "test": 0}}
    several = count_labels({"train": [[0, 1], [1], []]}, ["no", "yes"])
    assert several == {"no": {"train": 1}, "yes": {"train": 2}}


def test_values_are_summarized() -> None:
    assert summarize_values({"train": [1.0, 2.0, 6.0], "test": None}, []) == {
        "train": {"minimum": 1.0, "mean": 3.0, "maximum": 6.0}
    }
    assert summarize_values({"train": [0, 1]}, ["no", "yes"]) == {}
    assert summarize_values({"train": [[1.0, 3.0]]}, [])["train"]["mean"] == 2.0


def test_images_are_described() -> None:
    one, several = ImageRecord((8, 8), (6, 6), {"L": 1797}), ImageRecord((8, 90), (6, 6), {"RGB": 2000, "L": 3})
    assert (one.one_size, several.one_size) == (True, False)
    assert one.described() == "8 × 6 pixels; L 1,797"
    assert several.described() == "8 to 90 pixels wide and 6 pixels high; RGB 2,000, L 3"
    assert "images: 8 × 6 pixels; L 1,797" in record(images=one).lines()
