"""The two sides of a distillation: each is a model and a reader, and the reader alone knows what the inputs are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, overload

from torch import Tensor, nn

from geodistill.distillation.signals import TEACHER_PREFIX, teacher_view
from geodistill.errors import GeodistillError

Example = Mapping[str, Any]
Whose = Literal["student", "teacher"]


class Reader(Protocol):
    """From the rows of a split to tensors that a model reads. Texts, images and signals have different readers.

    fingerprint: identifies all that decides what it makes of a row
    names: the columns that it makes
    column: the column of a split that it reads, the first if it reads several
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def column(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def encode(self, split: Any) -> Sequence[Example]:
        """Make an example of each row of a split: the reader's columns, and `example_id`, its place."""

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Make a batch of examples, padded if they differ in length."""

    def length(self, example: Example) -> int | None:
        """How long an example is, so that batches hold examples of like length; None if all have one size."""

    def probe(self) -> dict[str, Tensor]:
        """Make the smallest batch that a model of this side reads, to measure the widths of its features."""

    def pairs_with(self, other: Any) -> bool:
        """Tell whether another reader reads the same column and makes the same of every row, so that one batch serves
        both sides."""

    def within(self, positions: int) -> Any:
        """Return the same reader for models that have so many positions for tokens."""

    def configure(self, model: Any, *, always: bool = False) -> None:
        """Write into a model's config what it has to know of the reader, such as the padding token: if it says
        nothing yet or, with `always`, in any case."""

    def save(self, folder: Path) -> None:
        """Write the files from which plain transformers makes the same reader."""


class WithoutTokens:
    """What readers of images, arrays and recordings answer to what concerns readers of tokens."""

    def within(self, positions: int) -> Any:
        """Return the same reader: its inputs take no positions for tokens."""
        return self

    def configure(self, model: Any, *, always: bool = False) -> None:
        """Do nothing: a model's config holds nothing of such a reader."""


@dataclass(frozen=True)
class Side:
    """A model and its reader; the columns of a batch that are this side's alone begin with its prefix."""

    model: Any
    reader: Reader
    prefix: str = ""


def two_sides(student: nn.Module, reader: Reader, teacher: nn.Module, teacher_reader: Reader) -> tuple[Side, Side]:
    """Return the student's and the teacher's side: with one batch if their readers make the same of every row, else
    the teacher's columns carry its prefix."""
    prefix = "" if reader.pairs_with(teacher_reader) else TEACHER_PREFIX
    return Side(student, reader), Side(teacher, teacher_reader, prefix)


@dataclass(frozen=True)
class SideCollator:
    """Collates what both sides read of the examples: one batch, or the columns of each side by the side's reader."""

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


class LazyExamples(Sequence[Any]):
    """Examples that are made when they are asked for, by `at`."""

    @abstractmethod
    def at(self, place: int) -> dict[str, Any]:
        """The example at a place from 0 to the last."""

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        places = range(len(self))[index]  # which raises IndexError, as a sequence must
        return self.at(places) if isinstance(places, int) else [self.at(place) for place in places]


class ExamplePairs(LazyExamples):
    """The examples of a split as the readers of both sides read them, the teacher's columns under its prefix.

    If examples vary from epoch to epoch (`set_epoch`), both sides are told which epoch it is.

    Raises GeodistillError if the sides have not as many examples.
    """

    def __init__(self, student: Sequence[Any], teacher: Sequence[Any]) -> None:
        if len(student) != len(teacher):
            raise GeodistillError(
                f"The student has {len(student):,} examples and the teacher {len(teacher):,}, so they are not paired.",
                "Give both sides an input in every row.",
            )
        self.student, self.teacher = student, teacher

    def set_epoch(self, epoch: int) -> None:
        """Show the examples of this epoch from now on."""
        for side in (self.student, self.teacher):
            if hasattr(side, "set_epoch"):
                side.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.student)

    def at(self, place: int) -> dict[str, Any]:
        return {**self.student[place], **prefixed(self.teacher[place])}


def prefixed(columns: Mapping[str, Any], prefix: str = TEACHER_PREFIX) -> dict[str, Any]:
    """Return columns under names that begin with a prefix."""
    return {prefix + name: value for name, value in columns.items()}


def numbered(example: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return an example with another `example_id`, on both sides if the teacher has columns under its prefix."""
    names = [name for name in example if name.removeprefix(TEACHER_PREFIX) == "example_id"]
    return {**example, **dict.fromkeys(["example_id", *names], number)}


def place_of(example: Example) -> int:
    """Return the place of an example's row in its split."""
    return int(example.get("row", example["example_id"]))
