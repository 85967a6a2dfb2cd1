"""What a run needs to know of its task, and nothing of how the task does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from geodistill.data.overlap import HeldOut
from geodistill.data.parts import ALL
from geodistill.data.record import Record
from geodistill.distillation.sides import Reader, Side
from geodistill.distillation.students.build import Head
from geodistill.features import KINDS, evaluation_mode
from geodistill.recipe import DataRecipe, Recipe
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.metrics import Constant

OF_TEXTS = tuple(name for name, kind in KINDS.items() if not kind.of_maps or name == "samples")
OF_IMAGES = tuple(name for name, kind in KINDS.items() if kind.of_maps)
"""The kinds of rows that texts and images have."""
EncodedExamples = list[dict[str, Any]]
Encoded = dict[str, EncodedExamples]
Collator = Callable[[list[Any]], dict[str, Any]]
# Of the held-out geometry: their token rows are many times any width, so more would cost time and move no digit that is
# shown.
MOST_EXAMPLES = 512


@dataclass(frozen=True)
class Scores:
    """The metrics of a model on a split; details of how they came about; a line for each example.

    notes: what the metrics hide, each the end of a sentence that begins with the model
    """

    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Task(Protocol):
    """One kind of work on one data section: its model, its batches, its scores.

    fingerprint: of the rows, and of all else that decides what a model is trained on
    scoring: the fingerprint of all that a model's scores depend on, the model aside
    metrics: names of the reported metrics, the main one first; empty if nothing can be scored
    notes: what was done to the data that its owner should know, one sentence each
    record: what is known so far of what was read
    held_out: the texts that are measured on, which no stage of the task is trained on
    labelled: whether there is something to learn from the examples themselves, by which a teacher is scored too
    rows: the kind of rows that the held-out geometry is measured on
    compares: the kind of rows that a feature term compares if neither the recipe nor its loss names one
    kinds: all kinds of rows that a feature term may compare
    measured: of how many examples at most
    scores_tokens: whether logits are of tokens, so that both sides have to split texts alike
    asks_teacher: whether scores compare a student with its teacher, which is asked first (`ask`)
    student_head: the head of a student, if it is not its teacher's
    loads_students: whether `load_model` loads a student or makes it by its name, because the data says what it reads;
        else it has the class and the head of its teacher
    own_keys: keys of a recipe that change the scores on a run's own data, beside data.limit; `section.*` stands for all
        keys of a section
    other_keys: keys of a recipe that say how other data is read and scored, beside data.source and data.limit
    cuts_other_data: whether other data is cut into splits as a run's own is; else the split that is scored is read
    """

    fingerprint: str
    scoring: str
    metrics: list[str]
    held_out: HeldOut
    labelled: bool
    rows: str
    compares: str
    kinds: tuple[str, ...]
    measured: int
    scores_tokens: bool
    asks_teacher: bool
    loads_students: bool
    own_keys: tuple[str, ...]
    other_keys: tuple[str, ...]
    cuts_other_data: bool

    @property
    def student_head(self) -> Head | None: ...

    @classmethod
    def load(cls, data: DataRecipe, recipe: Recipe, held_out: HeldOut | None = None) -> Any:
        """Load the examples of a data section, and return the task on them; see `task_of`."""

    @classmethod
    def of_other_data(cls, run: FinishedRun, split: str | None, own: Callable[[], Any]) -> Any:
        """Return the task on the data that the recipe of a run now names, to score its student on it; `split` is to be
        scored, and `own` loads the task on the data that the run was trained on.

        Nothing of this data is learned from, so labels are the student's.
        """

    @property
    def notes(self) -> list[str]: ...

    @property
    def record(self) -> Record: ...

    def load_model(self, source: ModelSource, *, new_head: bool) -> PreTrainedModel:
        """Load a model of this task; `new_head` for one to be trained."""

    def load_reader(self, source: ModelSource, *, like: Reader | None = None) -> Reader:
        """Load the reader of a model. `like` is the teacher's, for a student that may bring none."""

    def encode(
        self,
        model: PreTrainedModel,
        reader: Reader,
        *,
        words: bool = False,
        positions: int | None = None,
    ) -> Encoded:
        """Read every split once, up to what the model has positions for, or up to `positions`, if given; with
        `words`, which a fast tokenizer can find, each example says under this name what it has as `TokenWords`."""

    def ask(self, teacher: Side, encoded: Encoded) -> None:
        """Let the teacher answer the examples, as it reads them, that a student is later scored against."""

    def vocabulary(self, student: PreTrainedModel, teacher: Side) -> int | None:
        """How many logits of both models stand for a token of their common tokenizer; None if logits are no tokens'.

        Raises GeodistillError if a model has fewer.
        """

    def learnt(
        self,
        encoded: EncodedExamples,
        teacher: Side,
        *,
        positions: int,
        teacher_side: str,
        folder: Path,
        progress: bool,
    ) -> EncodedExamples:
        """Return the train split as a student learns it; what the teacher adds to it is kept in `folder`, under the
        teacher's fingerprint `teacher_side`, and ends where `positions` do."""

    def varied(self, encoded: Any, seed: int) -> Any:
        """Return training examples as they vary from epoch to epoch, by `set_epoch`; unchanged if they do not vary."""

    def score(
        self,
        model: PreTrainedModel,
        reader: Reader,
        encoded: Encoded,
        split: str,
        *,
        progress: bool = False,
    ) -> Scores:
        """Score a model as it is reported, on a split or on `ALL` of them together.

        Raises GeodistillError for examples without labels.
        """

    def validate(self, model: PreTrainedModel, reader: Reader, encoded: Encoded) -> Scores:
        """Score a model on the validation split by what choices are made on; no metrics without labels."""

    def constant(self, split: str) -> Constant | None:
        """Score the predictor that gives every example of a split the same answer; None if there is no such one."""

    def compute_metrics(self, encoded: EncodedExamples) -> Callable[[Any], dict[str, float]] | None:
        """What transformers.Trainer computes of its predictions on a split while it trains; None for the loss alone."""


class TaskDefaults:
    """What a task answers by default; see `Task` for the members."""

    scores_tokens = False
    asks_teacher = False
    loads_students = False
    cuts_other_data = False

    @property
    def student_head(self) -> Head | None:
        return None  # the teacher's

    def learnt(self, encoded: EncodedExamples, *teacher: Any, **where: Any) -> EncodedExamples:
        return encoded

    def varied(self, encoded: Any, seed: int) -> Any:
        return encoded

    def ask(self, teacher: Side, encoded: Encoded) -> None:
        return None  # scores go by what the data says

    def vocabulary(self, student: PreTrainedModel, teacher: Side) -> int | None:
        return None  # logits are of no tokens

    def constant(self, split: str) -> Constant | None:
        return None  # no one answer fits all examples

    def compute_metrics(self, encoded: EncodedExamples) -> Callable[[Any], dict[str, float]] | None:
        return None  # the Trainer would keep all outputs of the split


def batches(encoded: Sequence[Any], reader: Reader, batch_size: int) -> Iterator[Mapping[str, Tensor]]:
    """Yield batches of examples of like length, longest first, so that memory runs out at once or not at all."""
    for places in batch_places(encoded, reader, batch_size):
        yield reader.collate([encoded[place] for place in places])


def batch_places(encoded: Sequence[Any], reader: Reader, batch_size: int) -> Iterator[list[int]]:
    """Yield the places of the examples of each of the `batches`."""
    order = by_length(encoded, reader)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@torch.no_grad()
def in_order(
    model: PreTrainedModel,
    encoded: Sequence[Any],
    reader: Reader,
    answer: Callable[[Mapping[str, Tensor]], Tensor],
    *,
    batch_size: int = 128,
    dtype: Any = np.float32,
) -> np.ndarray:
    """Return what `answer` makes of each example, (n, …), in the order of the examples.

    `answer` gets batches on the device of the model, which is in eval mode meanwhile.
    """
    device = next(model.parameters()).device
    found: np.ndarray | None = None
    with evaluation_mode(model):
        for places in batch_places(encoded, reader, batch_size):
            batch = reader.collate([encoded[place] for place in places])
            values = answer({name: value.to(device) for name, value in batch.items()}).to("cpu").numpy()
            found = np.empty((len(encoded), *values.shape[1:]), dtype=dtype) if found is None else found
            found[places] = values
    assert found is not None, "a split is never empty"
    return found


def by_length(encoded: Sequence[Any], reader: Reader) -> list[int]:
    """Return the places of examples, the longest first; in their order if all have one size."""
    if len(encoded) and reader.length(encoded[0]) is None:
        return list(range(len(encoded)))
    return sorted(range(len(encoded)), key=lambda place: reader.length(encoded[place]) or 0, reverse=True)


def spread(encoded: EncodedExamples, most: int | None) -> EncodedExamples:
    """Return at most so many examples, evenly spread over all: data often come sorted, by task or by label."""
    if most is None or most >= len(encoded):
        return encoded
    return [encoded[place * len(encoded) // most] for place in range(most)]


def measured_split(task: Task) -> str:
    """Return the split that a student is measured on: validation if there is nothing to score it by."""
    return "test" if task.metrics else "validation"


def parts_of(encoded: Encoded, split: str) -> list[str]:
    """Return the splits that a name stands for."""
    return list(encoded) if split == ALL else [split]
