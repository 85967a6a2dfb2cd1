"""`geodistill evaluate`: a finished run's student on a split of its data, or on other data of the same task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geodistill.data.examples import load_examples
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe_file import load_recipe
from geodistill.tasks.classification import collator, encode, load_classifier, load_tokenizer, predict, score
from geodistill.tasks.run_folder import RECIPE, RESULTS, write_text

PREDICTIONS = "predictions.jsonl"
ALL = "all"


def evaluate(folder: Path, overrides: Sequence[str] = (), *, split: str | None = None) -> dict[str, Any]:
    """Score the student on a split, write a line for each example to predictions.jsonl, and return the scores.

    `split` is `train`, `validation`, `test` or `all`; by default `test`, and `all` of another file
    (`data.source=FILE`). A line holds the text, the predicted label (or value) and, for a classification, its
    probability; beside it the reference. The labels of other data are matched to the student's by name.

    Raises GeodistillError when the folder is no finished run of a single student, or there is no such split.
    """
    if not (folder / RESULTS).is_file() or not (folder / "student").is_dir():
        raise GeodistillError(
            f"'{folder}' is not the folder of a finished run.",
            f"Give a folder with {RESULTS} and student/, as 'geodistill train' writes it; a comparison has one for "
            "each run under runs/.",
        )
    recipe = load_recipe(folder / RECIPE, overrides)
    examples = load_examples(recipe.data)
    names = [str(name) for name in examples.splits]
    if split is None:
        other = any(override.startswith("data.source=") for override in overrides)
        split = ALL if other and Path(recipe.data.source).expanduser().is_file() else "test"
    if split not in (*names, ALL):
        raise GeodistillError(f"There is no split '{split}'.", suggest(split, [*names, ALL]))
    parts = names if split == ALL else [split]
    if examples.problem == "unlabelled":
        raise GeodistillError("Data without labels cannot be scored.", "Name the label column: data.label=COLUMN.")
    student = load_classifier(str(folder / "student"), examples, new_head=False)
    tokenizer = load_tokenizer(str(folder / "student"))
    by_split = encode(student, examples, tokenizer, recipe.data.max_length)
    chosen = [example for part in parts for example in by_split[part]]
    encoded = [{**example, "example_id": place} for place, example in enumerate(chosen)]
    logits = predict(student, encoded, collator(tokenizer))
    metrics = score(logits, encoded, examples)
    given = [row for part in parts for row in examples.splits[part].to_list()]
    rows = zip(given, encoded, logits, strict=True)
    labels = student.config.id2label if examples.problem == "classification" else None
    lines = [json.dumps(_line(row, example, values, labels), ensure_ascii=False) for row, example, values in rows]
    write_text(folder / PREDICTIONS, "\n".join(lines) + "\n")
    return {"split": split, "examples": len(encoded), "metrics": metrics, "predictions": str(folder / PREDICTIONS)}


def _line(row: dict[str, Any], example: dict[str, Any], logits: np.ndarray, names: Any) -> dict[str, Any]:
    texts: dict[str, Any] = {key: row[key] for key in ("text", "text_pair") if key in row}
    if names is None:
        return {**texts, "prediction": float(logits[0]), "reference": float(example["labels"])}
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    return {
        **texts,
        "prediction": names[best],
        "probability": round(float(shares[best] / shares.sum()), 6),
        "reference": names[example["labels"]],
    }
