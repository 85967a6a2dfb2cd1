"""The two sides of a distillation: each is a model and a reader, and the reader alone knows what the inputs are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from geodistill.distillation.signals import TEACHER_PREFIX, teacher_view

Example = Mapping[str, Any]


class Reader(Protocol):
    """From the rows of a split to tensors that a model reads. Texts, images and signals each have readers of their own.

    fingerprint: identifies all that decides what it makes of a row
    names: the columns that it makes
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def encode(self, split: Any) -> Sequence[Example]:
        """Make an example of each row of a split: the reader's columns, and `example_id`, its place."""

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Make a batch of examples, padded where they differ in length."""

    def length(self, example: Example) -> int | None:
        """How long an example is, so that batches hold examples of like length; None where all have one size."""

    def probe(self) -> dict[str, Tensor]:
        """Make the smallest batch that a model of this side reads, to measure the widths of its features."""

    def pairs_with(self, other: Any) -> bool:
        """Tell whether another reader makes the same of every row, so that one batch serves both sides."""

    def within(self, positions: int) -> Any:
        """Return the same reader for models that have so many positions for tokens."""

    def configure(self, model: Any, *, always: bool = False) -> None:
        """Write into a model's config what it has to know of the reader, such as the padding token: where it says
        nothing yet or, with `always`, in any case."""

    def save(self, folder: Path) -> None:
        """Write the files from which plain transformers makes the same reader."""


@dataclass(frozen=True)
class Side:
    """A model and its reader; the columns of a batch that are this side's alone begin with its prefix."""

    model: Any
    reader: Reader
    prefix: str = ""


def two_sides(student: nn.Module, reader: Reader, teacher: nn.Module, teacher_reader: Reader) -> tuple[Side, Side]:
    """Return the student's and the teacher's side: with one batch where their readers make the same of every row, else
    the teacher's columns carry its prefix."""
    prefix = "" if reader.pairs_with(teacher_reader) else TEACHER_PREFIX
    return Side(student, reader), Side(teacher, teacher_reader, prefix)


@dataclass(frozen=True)
class SideCollator:
    """Collates what both sides read of the examples: one batch, or the columns of each by its own reader."""

    student: Reader
    teacher: Reader
    prefix: str = ""

    def __call__(self, examples: Sequence[Any]) -> dict[str, Any]:
        if not self.prefix:
            return self.student.collate(examples)
        own = [{name: value for name, value in each.items() if not name.startswith(self.prefix)} for each in examples]
        others = [dict(teacher_view(each)) for each in examples]
        return {**self.student.collate(own), **prefixed(self.teacher.collate(others), self.prefix)}

    def probe(self) -> dict[str, Any]:
        """Make the smallest batch that both sides read."""
        own = self.student.probe()
        return {**own, **prefixed(self.teacher.probe(), self.prefix)} if self.prefix else own


def prefixed(columns: Mapping[str, Any], prefix: str = TEACHER_PREFIX) -> dict[str, Any]:
    """Return columns under names that begin with a prefix."""
    return {prefix + name: value for name, value in columns.items()}


def place_of(example: Example) -> int:
    """Return the place of an example's row in its split."""
    return int(example.get("row", example["example_id"]))
