"""Embeddings of paired inputs: a student reads one column, its teacher another, and both are to say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from geodistill.data.cells import IN_WORDS, Cells, Kind
from geodistill.data.examples import DEFAULT_METRICS
from geodistill.data.overlap import HeldOut
from geodistill.data.paired import PairedExamples, PairedRows, load_pairs
from geodistill.data.record import Record
from geodistill.data.scoring import pairs_to_score
from geodistill.distillation.sides import LazyExamples, Reader, Side
from geodistill.distillation.signals import model_inputs
from geodistill.distillation.students.build import Head
from geodistill.distillation.students.head_labels import output_names
from geodistill.errors import GeodistillError
from geodistill.features import Capture, select_rows
from geodistill.files import fingerprint_of
from geodistill.models import ImageClassifiers
from geodistill.recipe import DataRecipe, Recipe
from geodistill.tasks.array_reader import ArrayReader
from geodistill.tasks.classification import load_classifier, predict
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.heads import head_settings
from geodistill.tasks.image_reader import ImageReader, image_reader
from geodistill.tasks.loading import ModelSource, load_tokenizer, with_quantizers
from geodistill.tasks.metrics import METRICS as METRICS_OF_LABELS
from geodistill.tasks.metrics import chosen_metrics, compute_metrics
from geodistill.tasks.predictions import decide, never_predicted, prediction
from geodistill.tasks.retrieval import Alignment, nearest, ranks, similarity_structure
from geodistill.tasks.task import Encoded, EncodedExamples, Scores, TaskDefaults, in_order, parts_of, spread
from geodistill.tasks.text_reader import TextReader, position_limit

METRICS = ("retrieval@1", "retrieval@10", "similarity_structure")
MOST_FITTED = 2048  # training rows that the alignment is fitted on
EMBEDDING = "mean"
INPUTS: dict[str, Kind] = {"input_ids": "text", "pixel_values": "image"}  # all other inputs are arrays


class Embeddings(TaskDefaults):
    """Paired inputs: an embedding is the mean of the last hidden state; see `Task` for the members.

    A student is scored against its teacher on rows that neither was trained on: retrieval@k is the share of the
    student's rows whose own teacher row is among the k most similar ones, and `similarity_structure` is Spearman's ρ of
    the similarities within both sides. Both are taken after the rotation that fits training rows best (`Alignment`).
    Labels, if the data has any, are for a label term: the student gets a head for them, and is scored by it too.

    Args:
        examples: what is scored, and what a student is trained on.
        metrics: names of the reported metrics; all by default.
        fitted_on: the examples whose training rows the rotation is fitted on, if `examples` is other data.
    """

    rows = compares = EMBEDDING
    kinds: tuple[str, ...] = ("mean", "cls", "last", "tokens", "pooled", "samples")
    measured = 2048
    labelled = False
    asks_teacher = True
    own_keys: tuple[str, ...] = ("data.max_length", "data.metrics")
    other_keys: tuple[str, ...] = (
        *own_keys,
        "data.configuration",
        "data.columns.student",
        "data.columns.teacher",
        "data.label",
    )

    def __init__(
        self,
        examples: PairedExamples,
        metrics: Sequence[str] | None = None,
        *,
        fitted_on: PairedExamples | None = None,
    ) -> None:
        self.examples = examples
        problem = examples.problem if self.student_head is not None else "unlabelled"
        of_labels = METRICS_OF_LABELS.get(problem, {})
        usual = [*METRICS, *DEFAULT_METRICS[problem]]
        self.metrics = chosen_metrics(metrics or usual, [*METRICS, *of_labels], "embeddings")
        self.fitting = None if fitted_on is None else Embeddings(fitted_rows(fitted_on))
        self.fingerprint, self.held_out = examples.fingerprint, examples.held_out
        self.scoring = fingerprint_of(examples.fingerprint, self.metrics)
        self.notes = list(examples.notes)
        self._asked: dict[str, np.ndarray] = {}

    @classmethod
    def load(cls, data: DataRecipe, recipe: Recipe, held_out: HeldOut | None = None) -> Embeddings:
        return cls(load_pairs(data, held_out), data.metrics)

    @classmethod
    def of_other_data(cls, run: FinishedRun, split: str | None, own: Callable[[], Any]) -> Embeddings:
        data, examples = run.recipe.data, own().examples
        length = min(examples.max_length, run.positions or examples.max_length)
        pairs = pairs_to_score(data, examples, split=split, named=run.named)
        return cls(pairs, data.metrics, fitted_on=replace(examples, max_length=length))

    @property
    def record(self) -> Record:
        return replace(self.examples.record, notes=list(self.notes))

    @property
    def student_head(self) -> Head | None:
        """The head for the labels, if there are some; a student of arrays is a class that has a head already."""
        kind = self.examples.cells(self.examples.sides.student).kind
        if self.examples.problem == "unlabelled" or kind == "array":
            return None
        auto_class = AutoModelForSequenceClassification if kind == "text" else ImageClassifiers
        return Head(auto_class, head_settings(self.examples))

    def load_model(self, source: ModelSource, *, new_head: bool) -> PreTrainedModel:
        if source.whose == "student" and self.student_head is not None:
            return load_classifier(source, self.examples, self.student_head.auto_class, new_head=new_head).eval()
        return with_quantizers(source.load_model(AutoModel), source.name).eval()

    def load_reader(self, source: ModelSource, *, like: Reader | None = None) -> Reader:
        """Load the reader of a model for the column of its side.

        Raises GeodistillError for a model that reads something else than the column holds.
        """
        column = getattr(self.examples.sides, source.whose)
        cells = self.examples.cells(column)
        config = source.config
        input_name = main_input(config)
        reads = cells.kind if input_name is None else INPUTS.get(input_name, "array")
        if reads != cells.kind:
            raise GeodistillError(
                f"The {source.whose} '{source.name}' reads {IN_WORDS[reads]}, and its column '{column}' holds "
                f"{IN_WORDS[cells.kind]}.",
                f"Name a column of {IN_WORDS[reads]} with data.columns.{source.whose}, or choose another model.",
            )
        if cells.kind == "text":
            return TextReader(load_tokenizer(source), column=column, pair=None)
        if cells.kind == "array":
            return ArrayReader(input_name or "input_values", cells.width, column=column, series=cells.axes == 2)
        theirs = like if isinstance(like, ImageReader) else None
        images = self.examples.images[column]
        found = image_reader(source, config, images, like=theirs, column=column)
        self.notes += [note for note in found.notes if note not in self.notes]
        return found

    def encode(
        self, model: PreTrainedModel, reader: Any, *, words: bool = False, positions: int | None = None
    ) -> Encoded:
        if isinstance(reader, TextReader):
            length = min(self.examples.max_length, positions or position_limit(model))
            encoded: Any = self._encode_texts(reader.within(length), words)
        else:
            encoded = {name: reader.encode(split) for name, split in self.examples.splits.items()}
        if reader.column != self.examples.sides.student or self.examples.problem == "unlabelled":
            return encoded
        return {name: WithLabels(rows, self.examples.splits[name]["label"]) for name, rows in encoded.items()}  # type: ignore[misc]

    def _encode_texts(self, reader: TextReader, words: bool) -> Encoded:
        cut: dict[str, int] = {}
        splits = self.examples.splits.items()
        encoded = {name: reader.encode(split, words=words, cut=cut, part=name) for name, split in splits}
        notes = [
            f"{count:,} of the {len(encoded[name]):,} {name} texts of the column '{reader.column}' are longer than "
            f"{reader.max_length} tokens and were cut."
            for name, count in cut.items()
            if count
        ]
        self.notes += [note for note in notes if note not in self.notes]
        return encoded

    def ask(self, teacher: Side, encoded: Encoded) -> None:
        self._asked = {
            name: embed(teacher.model, teacher.reader, self._chosen(name, examples))
            for name, examples in encoded.items()
        }
        if self.fitting is not None:
            self.fitting.ask(teacher, self.fitting.encode(teacher.model, teacher.reader))

    def validate(self, model: PreTrainedModel, reader: Reader, encoded: Encoded) -> Scores:
        return self.score(model, reader, encoded, "validation")

    def score(
        self,
        model: PreTrainedModel,
        reader: Reader,
        encoded: Encoded,
        split: str,
        *,
        progress: bool = False,
    ) -> Scores:
        """Score the student against what its teacher said (`ask`).

        A line holds the split, the row, what the student read, what the teacher read of this row (`paired`, if the
        sides read different columns) and its rank; if the rank is not 1, also what the teacher read of the row that is
        nearest (`retrieved`); and, of data with labels, what the student predicts and the reference. Of arrays, and of
        images that are no files, the number of the row is told.
        """
        alignment = self._alignment(model, reader, encoded)
        scored: list[Any] = []
        read, sides = [], []
        for part in parts_of(encoded, split):
            examples = self._chosen(part, encoded[part])
            sides.append((embed(model, reader, examples), self._asked[part]))
            read += [read_of(self.examples.splits[part], part, int(example["example_id"])) for example in examples]
            scored += list(examples)
        student, teacher = alignment.apply(*(np.concatenate(side) for side in zip(*sides, strict=True)))
        found, near = ranks(student, teacher), nearest(student, teacher)
        values = {
            "retrieval@1": float((found <= 1).mean()),
            "retrieval@10": float((found <= 10).mean()),
            "similarity_structure": similarity_structure(student, teacher),
        }
        lines: list[dict[str, Any]] = [
            {**own, "rank": int(rank)} | ({"retrieved": paired_of(read[place])} if rank > 1 else {})
            for own, rank, place in zip(read, found, near, strict=True)
        ]
        notes: list[str] = []
        if self.student_head is not None:
            more, said = self._labelled(model, reader, scored)
            values |= more
            lines = [{**line, **each} for line, each in zip(lines, said, strict=True)]
            notes = [] if self.examples.problem == "regression" else never_predicted(lines)
        return Scores({name: values[name] for name in self.metrics}, lines=lines, notes=notes)

    def _alignment(self, model: PreTrainedModel, reader: Reader, encoded: Encoded) -> Alignment:
        """Fit the rotation on training rows: of the run, if other data is scored."""
        if self.fitting is not None:
            return self.fitting._alignment(model, reader, self.fitting.encode(model, reader))
        return Alignment.fit(embed(model, reader, self._chosen("train", encoded["train"])), self._asked["train"])

    def _labelled(
        self, model: PreTrainedModel, reader: Reader, examples: EncodedExamples
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Return the metrics of the student's head, and what it predicts of each example."""
        problem, names = self.examples.problem, output_names(model.config)
        logits = predict(model, examples, reader)
        labels = [example["labels"] for example in examples]
        chosen = [name for name in self.metrics if name not in METRICS]
        metrics = compute_metrics(chosen, decide(logits, problem), np.asarray(labels), problem=problem)
        said = [prediction({}, label, outputs, problem, names) for label, outputs in zip(labels, logits, strict=True)]
        return metrics, said

    def _chosen(self, split: str, examples: EncodedExamples) -> EncodedExamples:
        """Return the examples of a split that are embedded for scores: all, but of the run's train split some."""
        return spread(examples, MOST_FITTED if split == "train" and self.fitting is None else None)


class WithLabels(LazyExamples):
    """Examples with their labels."""

    def __init__(self, examples: Sequence[Any], labels: Sequence[Any]) -> None:
        self.examples, self.labels = examples, labels

    def __len__(self) -> int:
        return len(self.examples)

    def at(self, place: int) -> dict[str, Any]:
        return {**self.examples[place], "labels": self.labels[place]}


def fitted_rows(examples: PairedExamples) -> PairedExamples:
    """Return the training rows alone that a rotation is fitted on, without their labels."""
    train = examples.splits["train"]
    every: Any = list(range(len(train)))
    places: Any = spread(every, MOST_FITTED)
    return replace(examples, splits={"train": train.take(places)}, problem="unlabelled")


def read_of(rows: PairedRows, part: str, place: int) -> dict[str, Any]:
    """Return the entries of a line that tell which row of a split it is, and what both sides read of it."""
    row = rows.ids[place]
    own, theirs = (_named(cells, place) for cells in (rows.student, rows.teacher))
    told = {"image" if rows.student.kind == "image" else "text": own} if own else {}
    paired = {} if rows.sides.student == rows.sides.teacher else {"paired": theirs or f"row {row}"}
    return {"split": part, "row": row, **told, **paired}


def paired_of(line: Mapping[str, Any]) -> str:
    """Return what the teacher read of the row of a line; without text or file, the number of the row."""
    known = (line[key] for key in ("paired", "text", "image") if key in line)
    return str(next(known, f"row {line['row']}"))


def _named(cells: Cells, place: int) -> str:
    """A text, or the file of an image; nothing of an array, and of an image that is no file."""
    value = cells.values[place]
    if cells.kind == "text":
        return str(value)
    return str(value["path"] or "") if cells.kind == "image" else ""


def embed(model: PreTrainedModel, reader: Reader, examples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the embeddings (n, d) of examples, in their order: the mean of the last hidden state, in float64."""
    capture = Capture(model, [-1])

    def rows(batch: Mapping[str, Tensor]) -> Tensor:
        _, features = capture(**model_inputs(model, batch))
        return select_rows(features[-1], batch, kind=EMBEDDING).values.double()

    return in_order(model, examples, reader, rows, dtype=np.float64)


def main_input(config: PretrainedConfig) -> str | None:
    """Return the name of the input that models of a config read; None if transformers does not know the family."""
    if type(config) not in MODEL_MAPPING:
        return None
    kind: Any = MODEL_MAPPING[type(config)]
    return str((kind[0] if isinstance(kind, tuple) else kind).main_input_name)
