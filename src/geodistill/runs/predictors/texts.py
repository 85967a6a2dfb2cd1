"""What `geodistill predict` answers to texts, and to pairs of texts."""

from __future__ import annotations

import numpy as np
from datasets import DatasetDict

from geodistill.data.columns import Columns
from geodistill.data.examples import MAX_LENGTH, Examples, split_dataset
from geodistill.data.scoring import text_columns
from geodistill.data.streams import LINE, Stream
from geodistill.data.tables import Table
from geodistill.data.texts import Rows, as_text
from geodistill.errors import GeodistillError
from geodistill.runs.arguments import run_device, send
from geodistill.runs.predictors.predictor import NOT_FINITE, Line, Predictor
from geodistill.tasks.classification import Classification
from geodistill.tasks.classification import predict as logits_of
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.predictions import ANSWER, answer

PART = "rows"
EMPTY = "the text is empty"
EMPTY_PAIR = "one text of the pair is empty"


class TextPredictor(Predictor):
    """Labels with their probabilities, or numbers, for texts or pairs of texts."""

    keys = ("data.text", "data.text_pair", "data.max_length")

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        self.problem, self.names = run.head
        self.columns: Columns | None = None
        self.reader = Classification.load_reader(run.student)
        model = self._task(Rows([], [], None, None)).load_model(run.student, new_head=False)
        self.model = send(model, run_device())

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        pairs = self.run.reads_pairs
        if stream.plain:
            if pairs:
                raise GeodistillError(
                    f"The student reads pairs of texts, and a line of {stream.name} is one text.",
                    "Give a file with both columns, or a JSON object with both in each line.",
                )
            self.columns = Columns(LINE, None, None)
            return
        data, named = self.run.recipe.data, self.run.named
        self.columns = text_columns(table.columns, data, named=named, pairs=pairs, labels=False, notes=notes)

    def answer(self, table: Table, start: int) -> list[Line]:
        assert self.columns is not None
        texts = _texts(table, self.columns.text, start)
        pairs = _texts(table, self.columns.text_pair, start) if self.columns.text_pair else None
        rows = Rows(list(range(start, start + len(texts))), texts, pairs, None)
        kept = [place for place, text in enumerate(texts) if text.strip() and (pairs is None or pairs[place].strip())]
        outputs: dict[int, np.ndarray] = {}
        if kept:
            task = self._task(rows.take(kept))
            encoded = task.encode(self.model, self.reader, positions=self.run.positions)[PART]
            outputs = dict(zip(kept, logits_of(self.model, encoded, self.reader), strict=True))
        lines = []
        for place, text in enumerate(texts):
            line: Line = {"row": rows.ids[place], "text": text}
            if pairs is not None:
                line["text_pair"] = pairs[place]
            lines.append({**line, **self._prediction(outputs.get(place), EMPTY if pairs is None else EMPTY_PAIR)})
        return lines

    def _task(self, rows: Rows) -> Classification:
        """The rows as examples without labels, so that they are encoded as the rows of the run."""
        length = self.run.recipe.data.max_length or MAX_LENGTH
        splits = DatasetDict({PART: split_dataset(rows, "unlabelled")})
        return Classification(Examples(splits, "unlabelled", [], [], length, "", []))

    def _prediction(self, logits: np.ndarray | None, empty: str) -> Line:
        if logits is None or not np.isfinite(logits).all():
            return {**dict.fromkeys(ANSWER[self.problem]), "note": empty if logits is None else NOT_FINITE}
        return answer(logits, self.problem, self.names)


def _texts(table: Table, name: str, start: int) -> list[str]:
    """A column of texts. A chunk whose JSON objects all lack the key has none, so its texts are empty.

    Raises GeodistillError for a value that is a list or an object.
    """
    values = table.columns.get(name)
    if values is None:
        return [""] * len(next(iter(table.columns.values())))
    for place, value in enumerate(values):
        if isinstance(value, list | dict):
            raise GeodistillError(
                f"Row {start + place} has a {type(value).__name__} in the column '{name}'.", "Give one text a row."
            )
    return [as_text(value) for value in values]
