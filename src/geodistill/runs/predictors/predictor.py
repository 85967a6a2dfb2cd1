"""What all answers to rows have in common: rows are read, and answered, a chunk at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from geodistill.data.streams import Stream, open_stream
from geodistill.data.tables import Table
from geodistill.distillation.devices import telling_of_memory
from geodistill.tasks.finished_run import FinishedRun

Line = dict[str, Any]
NOT_FINITE = "the student's output is not a finite number"


class Predictor(ABC):
    """One kind of answer: it reads columns that it finds in the first chunk, and answers to each row of a chunk.

    keys: of a recipe, that say how rows are read
    """

    keys: tuple[str, ...] = ()

    @abstractmethod
    def __init__(self, run: FinishedRun) -> None:
        """Load the student of a run."""

    @abstractmethod
    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        """Find the columns. Raises GeodistillError for those that are missing."""

    @abstractmethod
    def answer(self, table: Table, start: int) -> list[Line]:
        """Return a line for each row; `start` rows came before."""

    @staticmethod
    def open(source: str, size: int) -> Stream:
        """Open rows, to be read in chunks of `size`."""
        return open_stream(source, size)

    @staticmethod
    def most(run: FinishedRun, chunk: int) -> int:
        """Return how many rows are in memory at a time, where at most `chunk` may be."""
        return chunk

    @classmethod
    def lines(cls, run: FinishedRun, source: str, chunk: int, notes: list[str]) -> Iterator[Line]:
        """Open a source now, and answer its rows when they are asked for; `notes` receives what was read."""
        return cls._answers(run, cls.open(source, cls.most(run, chunk)), notes)

    @classmethod
    def _answers(cls, run: FinishedRun, stream: Stream, notes: list[str]) -> Iterator[Line]:
        predictor: Predictor | None = None
        count = 0
        for table in stream.chunks:
            if predictor is None:
                predictor = cls(run)
                predictor.find(stream, table, notes)
            with telling_of_memory():
                lines = predictor.answer(table, count)
            yield from lines
            count += len(lines)
