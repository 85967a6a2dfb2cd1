"""Sentence and sentence-pair classification, multi-label too, or regression: examples → batches, head, metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from geodistill.data.examples import Examples, load_examples
from geodistill.data.labels import Problem
from geodistill.data.overlap import HeldOut
from geodistill.data.record import Record
from geodistill.data.scoring import rows_to_score
from geodistill.distillation.sides import Reader
from geodistill.distillation.signals import model_inputs
from geodistill.distillation.students.head_labels import LabelMatch, name_outputs, output_names
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, Recipe
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.heads import PROBLEM_TYPES, Labelled, head_settings, match_head
from geodistill.tasks.loading import ModelSource, with_quantizers
from geodistill.tasks.metrics import Constant, check_metrics, compute_metrics, constant_predictor
from geodistill.tasks.predictions import decide, never_predicted, prediction
from geodistill.tasks.task import (
    MOST_EXAMPLES,
    OF_TEXTS,
    Encoded,
    EncodedExamples,
    Scores,
    TaskDefaults,
    in_order,
    parts_of,
)
from geodistill.tasks.text_reader import TextReader, position_limit


class LabelledTask(TaskDefaults):
    """What classifications of texts and of images share: the labels of the data as a trained head has them.

    notes: what its owner should know
    outputs: label of the data → name of the output that stands for it
    by_place: whether only the order of the outputs tells which label they are
    """

    def __init__(self, examples: Labelled, notes: Sequence[str]) -> None:
        self._labelled, self.notes = examples, list(notes)
        self.outputs: dict[str, str] = {}
        self.by_place = False

    def _adopted(self, model: PreTrainedModel, name: str) -> PreTrainedModel:
        """Return a model whose trained head says what its outputs stand for; see `adopt_labels`."""
        self._match(match_head(model.config, self._labelled, name), model)  # before its outputs are renamed
        self._tell(adopt_labels(model, self._labelled, name))
        return model

    def _matched(self, model: PreTrainedModel) -> LabelMatch:
        """Match the labels to a model's head, and note what there is to know of it."""
        match = match_head(model.config, self._labelled)
        self._tell(match.notes)
        if not self.by_place:
            self._match(match, model)
        return match

    def _match(self, match: LabelMatch, model: PreTrainedModel) -> None:
        names = output_names(model.config)
        pairs = zip(self._labelled.label_names, match.numbers, strict=False)  # a regression has no names
        self.outputs, self.by_place = {label: names[number] for label, number in pairs}, match.by_place

    def _tell(self, notes: Sequence[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]


class Classification(LabelledTask):
    """Classification, multi-label or not, regression, or unlabelled sentences for a stage: see `Task` for members."""

    rows = compares = "tokens"
    measured = MOST_EXAMPLES
    kinds = OF_TEXTS
    own_keys: tuple[str, ...] = ("data.max_length", "data.metrics")
    other_keys: tuple[str, ...] = (*own_keys, "data.configuration", "data.text", "data.text_pair", "data.label")

    def __init__(self, examples: Examples) -> None:
        check_metrics(examples.metrics, examples.problem)
        super().__init__(examples, examples.notes)
        self.examples = examples
        self.fingerprint, self.metrics = examples.fingerprint, examples.metrics
        self.scoring, self.held_out = examples.fingerprint, examples.held_out
        self.labelled = examples.problem != "unlabelled"
        self.cut: dict[str, int] | None = None
        self.max_length = examples.max_length

    @classmethod
    def load(cls, data: DataRecipe, recipe: Recipe, held_out: HeldOut | None = None) -> Classification:
        return cls(load_examples(data, held_out))

    @classmethod
    def of_other_data(cls, run: FinishedRun, split: str | None, own: Callable[[], Any]) -> Classification:
        problem, names = run.head
        rows = rows_to_score(
            run.recipe.data,
            problem=problem,
            label_names=names,
            split=split,
            named=run.named,
            pairs=run.reads_pairs,
            metrics=list(run.results["metrics"]),
        )
        return cls(rows)

    @property
    def record(self) -> Record:
        return replace(
            self.examples.record,
            notes=list(self.notes),
            cut=self.cut,
            max_length=self.max_length,
            outputs=self.outputs,
            by_place=self.by_place,
        )

    def load_model(self, source: ModelSource, *, new_head: bool) -> PreTrainedModel:
        model = load_classifier(source, self.examples, new_head=new_head)
        return model if new_head else self._adopted(model, source.name)

    @staticmethod
    def load_reader(source: ModelSource, *, like: Reader | None = None) -> TextReader:
        return TextReader.load(source)

    def encode(
        self,
        model: PreTrainedModel,
        reader: Any,
        *,
        words: bool = False,
        positions: int | None = None,
    ) -> Encoded:
        self._matched(model)
        cut: dict[str, int] = {}
        length = min(self.examples.max_length, positions or position_limit(model))
        encoded = encode(model, self.examples, reader.within(length), words=words, cut=cut)
        self.cut, self.max_length = cut or None, length
        return encoded

    def validate(self, model: PreTrainedModel, reader: Reader, encoded: Encoded) -> Scores:
        return self.score(model, reader, encoded, "validation") if self.labelled else Scores()

    def score(
        self,
        model: PreTrainedModel,
        reader: Reader,
        encoded: Encoded,
        split: str,
        *,
        progress: bool = False,
    ) -> Scores:
        """Score the model; a line holds the split, the row (the example's place in it, from 0), the text, what the
        model predicts (see `prediction`), and the reference."""
        if not self.labelled:
            raise GeodistillError("Data without labels cannot be scored.", "Name the label column: data.label=COLUMN.")
        parts = parts_of(encoded, split)
        chosen = [example for part in parts for example in encoded[part]]
        logits = predict(model, chosen, reader)
        problem, names = self.examples.problem, output_names(model.config)
        given = [(part, row) for part in parts for row in self.examples.splits[part].to_list()]
        lines = [
            {
                "split": part,
                "row": row["example_id"],
                **prediction(row, example["labels"], outputs, problem, names),
            }
            for (part, row), example, outputs in zip(given, chosen, logits, strict=True)
        ]
        notes = [] if problem == "regression" else never_predicted(lines)
        return Scores(score(logits, chosen, self.examples), lines=lines, notes=notes)

    def constant(self, split: str) -> Constant | None:
        if not self.labelled:
            return None
        train, references = (list(self.examples.splits[name]["label"]) for name in ("train", split))
        return constant_predictor(
            self.metrics, train, references, problem=self.examples.problem, label_names=self.examples.label_names
        )

    def compute_metrics(self, encoded: EncodedExamples) -> Callable[[Any], dict[str, float]] | None:
        return (lambda result: score(result.predictions, encoded, self.examples)) if self.labelled else None


def load_classifier(
    source: ModelSource,
    examples: Labelled,
    auto_class: Any = AutoModelForSequenceClassification,
    *,
    new_head: bool,
) -> PreTrainedModel:
    """Load a classifier of this auto class, with a new head for these examples or with the head that it has.

    Raises GeodistillError when the model cannot be found, or, with `new_head=False`, when it has no trained head.
    """
    if new_head:
        return source.load_model(auto_class, ignore_mismatched_sizes=True, **head_settings(examples))
    model, info = source.load_model(auto_class, output_loading_info=True)
    if info["missing_keys"] and examples.problem != "unlabelled":
        missing = ", ".join(sorted(info["missing_keys"]))
        raise GeodistillError(
            f"The model '{source.name}' has no trained head: {missing} would be random.",
            "Give a fine-tuned teacher, or add teacher.training to fine-tune it on the data first.",
        )
    return with_quantizers(model, source.name)


def adopt_labels(model: PreTrainedModel, examples: Labelled, name: str) -> list[str]:
    """Let a trained head say its problem type and, if only its order tells its labels, call them as the data does.

    A student takes both from its teacher. Returns what has to be told of the mapping.
    Raises GeodistillError for a head of another problem type or of other labels than the data's.
    """
    match = match_head(model.config, examples, name)
    if match.numbers:
        model.config.problem_type = PROBLEM_TYPES[examples.problem]
    if match.by_place:
        labels = dict(zip(match.numbers, examples.label_names, strict=True))
        name_outputs(model.config, [labels[number] for number in range(len(labels))])
    return match.notes


def encode(
    model: PreTrainedModel,
    examples: Examples,
    reader: TextReader,
    *,
    words: bool = False,
    cut: dict[str, int] | None = None,
) -> Encoded:
    """Read every split once: `labels` are numbered as the model numbers them; the rest is the reader's (`TextReader`).

    `cut` receives for each split how many examples are longer and were cut, if the tokenizer tells.
    """
    order = match_head(model.config, examples).numbers
    outputs = model.config.num_labels or 0
    encoded = {}
    for name, split in examples.splits.items():
        rows = reader.encode(split, words=words, cut=cut, part=str(name))
        if "label" in split.column_names:
            labels = (numbered(label, examples.problem, order, outputs) for label in split["label"])
            rows = [{**row, "labels": label} for row, label in zip(rows, labels, strict=True)]
        encoded[str(name)] = rows
    return encoded


def numbered(label: Any, problem: Problem, order: Sequence[int], outputs: int) -> Any:
    """Return a label of the data as a head with so many outputs has it, where label i of the data is output `order[i]`.

    A class number for a classification. A 1.0 at the outputs of a list of labels and a 0.0 at all others, as
    transformers wants it, for a multi-label one. One number or, in the order of the outputs, several for a regression.
    """
    if problem == "classification":
        return order[label]
    if problem == "multi_label":
        present = {order[number] for number in label}
        return [float(output in present) for output in range(outputs)]
    if not isinstance(label, list):
        return label
    return [label[order.index(output)] for output in range(outputs)]


def predict(model: PreTrainedModel, encoded: EncodedExamples, reader: Reader, batch_size: int = 128) -> np.ndarray:
    """Return the logits (n, labels), in the order of the examples."""

    def logits(batch: Mapping[str, Tensor]) -> Tensor:
        return model(**model_inputs(model, batch)).logits.float()

    return in_order(model, encoded, reader, logits, batch_size=batch_size)


def score(logits: np.ndarray, encoded: EncodedExamples, examples: Examples) -> dict[str, float]:
    """Return the metrics of the examples for logits (n, labels)."""
    references = np.asarray([example["labels"] for example in encoded])
    return compute_metrics(examples.metrics, decide(logits, examples.problem), references, problem=examples.problem)
