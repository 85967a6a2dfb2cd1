"""How an array becomes what a model reads: features unchanged, series padded to one length with a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodistill.data.cells import load_array
from geodistill.distillation.sides import LazyExamples, WithoutTokens
from geodistill.files import fingerprint_of, write_json

READER_FILE = "array_reader.json"
MASK = "attention_mask"


class ArrayReader(WithoutTokens):
    """Reads the arrays of a column: features (features,), or series (time, channels).

    A batch of series is padded with zeros at its end, and `attention_mask` (b, t) is 1 in time bins that there are: a
    model leaves the others out by it, and rows `mean`, `tokens`, `cls` and `last` go by it.

    Args:
        name: the model's input (`main_input_name`), such as `input_values`.
        width: how many features or channels an array has.
        column: that is read of a split.
        series: whether arrays are series (time, channels).
        dtype: of what the model reads.

    Example:
        reader = ArrayReader("input_values", 3, column="ankle")
        batch = reader.collate(reader.encode(split)[:2])  # input_values (2, t, 3), attention_mask (2, t)
    """

    def __init__(
        self, name: str, width: int, *, column: str = "array", series: bool = True, dtype: str = "float32"
    ) -> None:
        self.name, self.width, self.column, self.series, self.dtype = name, width, column, series, dtype

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, MASK) if self.series else (self.name,)

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(type(self).__name__, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What is written beside a model that reads so."""
        return {"name": self.name, "width": self.width, "series": self.series, "dtype": self.dtype}

    def encode(self, split: Any) -> ReadArrays:
        """Return the examples of a split; an array that lies in a file is read when it is asked for."""
        return ReadArrays(self, split[self.column])

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return a batch: the input (b, t, channels) with `attention_mask` (b, t), or (b, features), and what else the
        examples have."""
        arrays = [np.asarray(each[self.name]) for each in examples]
        longest = max(len(array) for array in arrays)
        values = np.zeros((len(arrays), *((longest, self.width) if self.series else (self.width,))), dtype=self.dtype)
        mask = np.zeros((len(arrays), longest), dtype=np.int64)
        for place, array in enumerate(arrays):
            values[place, : len(array)] = array
            mask[place, : len(array)] = 1
        batch = {self.name: torch.from_numpy(values)}
        if self.series:
            batch[MASK] = torch.from_numpy(mask)
        others = {name: torch.tensor([each[name] for each in examples]) for name in examples[0] if name not in batch}
        return {**batch, **others}

    def length(self, example: Mapping[str, Any]) -> int | None:
        """How many time bins a series has; features have none."""
        return len(example[self.name]) if self.series else None

    def probe(self) -> dict[str, Tensor]:
        """One array of zeros; of a series, of two time bins."""
        array = np.zeros((2, self.width) if self.series else (self.width,), dtype=self.dtype)
        return self.collate([{self.name: array}])

    def pairs_with(self, other: object) -> bool:
        """Tell whether another reader makes the same of every row."""
        return isinstance(other, ArrayReader) and (other.fingerprint, other.column) == (self.fingerprint, self.column)

    def save(self, folder: Path) -> None:
        """Write `array_reader.json`, which says what the model reads."""
        write_json(folder / READER_FILE, self.settings)


class ReadArrays(LazyExamples):
    """The examples of a column of arrays: the reader's input, of series its mask, and `example_id`, its place."""

    def __init__(self, reader: ArrayReader, values: Sequence[Any]) -> None:
        self.reader, self.values = reader, values

    def __len__(self) -> int:
        return len(self.values)

    def at(self, place: int) -> dict[str, Any]:
        array = load_array(self.values[place]).astype(self.reader.dtype, copy=False)
        mask = {MASK: np.ones(len(array), dtype=np.int64)} if self.reader.series else {}
        return {self.reader.name: array, **mask, "example_id": place}
