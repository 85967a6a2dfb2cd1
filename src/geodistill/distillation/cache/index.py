"""Which rows of a cache belong to which example, and a checksum by which a batch of other data is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL, Rows

Examples = Sequence[Mapping[str, Any]]
Collate = Callable[[list[Mapping[str, Any]]], Mapping[str, Tensor]]

EXAMPLE = "example"
"""The table has one entry for each example."""
NUMBERS = ("example_id", "row")  # they say which example it is, and nothing of what it holds
IN_WORDS = {"input_ids": "tokens", "pixel_values": "pixels", "word_ids": "words", "labels": "labelled tokens"}
_MOST_CHECKED = 4096  # numbers of an image that its checksum looks at
_CHUNK = 4096


class ExampleIndex:
    """How long each example is, how many rows it has in each table, and checksums of its columns.

    lengths: (n,) tokens that are attended; 1 for an example that has none
    checksums: column → (n,)
    counts: what a table has a row for → (n,) how many of them each example has
    """

    def __init__(
        self, lengths: Tensor, checksums: Mapping[str, Tensor], counts: Mapping[str, Tensor] | None = None
    ) -> None:
        self.lengths, self.checksums = lengths, dict(checksums)
        self.order = lengths.argsort(descending=True, stable=True)
        self.counts: dict[str, Tensor] = {EXAMPLE: torch.ones_like(lengths), **(counts or {})}
        self._starts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def starts(self, per: str) -> Tensor:
        """Where the rows of each example begin in a table, (n,)."""
        if per not in self._starts:
            counts = self.counts[per][self.order]
            starts = self._starts[per] = torch.empty_like(counts)
            starts[self.order] = counts.cumsum(0) - counts
        return self._starts[per]

    def rows(self, per: str, examples: int | None = None) -> int:
        """How many rows the first `examples` in the order of the tables have; all when absent."""
        return int(self.counts[per][self.order[:examples]].sum())

    def tokens(self, examples: int | None = None) -> int:
        """How many tokens the first `examples` in the order of the tables have; all when absent."""
        return int(self.lengths[self.order[:examples]].sum())

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """The index as a safetensors file holds it."""
        return {
            "lengths": self.lengths,
            **{f"checksum.{name}": values for name, values in self.checksums.items()},
            **{f"count.{name}": values for name, values in self.counts.items() if name != EXAMPLE},
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ExampleIndex:
        """The index that `tensors` gave."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        return cls(tensors["lengths"], under("checksum."), under("count."))


class BatchRows:
    """Where the rows of a batch's examples are in the tables. The batch may be padded on either side, to any length.

    Raises GeodistillError if an example of the batch is not the one that the index has at its position.
    """

    def __init__(self, index: ExampleIndex, positions: Tensor, inputs: Mapping[str, Tensor]) -> None:
        self.index, self.positions = index, positions
        self.attended = attended_tokens(inputs)
        for name, expected in index.checksums.items():
            if name in inputs:
                self._compare(name, checksum(name, inputs[name].cpu(), self.attended), expected[positions])

    def _compare(self, name: str, found: Tensor, expected: Tensor) -> None:
        wrong = found != expected
        if wrong.any():
            example = int(self.positions[wrong.int().argmax()])
            raise GeodistillError(
                f"The {IN_WORDS.get(name, name)} of example {example} in the batch are not those that the teacher "
                "cache holds for it.",
                "Give each example its position in the cached data as 'example_id', collate as when the cache was "
                "written, and read no other data from it.",
            )

    def gather(self, per: str, data: Mapping[Any, Tensor]) -> dict[Any, Rows]:
        """Read this batch's rows of every table (rows, …) of `data`.

        There is one for each example, (b, …), or there are several, (b, k, …) with k the most of any example: the rows
        first, and zeros after them.
        """
        starts, counts = self.index.starts(per)[self.positions], self.index.counts[per][self.positions]
        if per == EXAMPLE:
            return {key: Rows(rows.index_select(0, starts)) for key, rows in data.items()}
        places = torch.arange(max(1, int(counts.max())))
        kept = places < counts.unsqueeze(1)
        where = (starts.unsqueeze(1) + places).masked_fill(~kept, 0).flatten()
        padding = (~kept).flatten().nonzero().squeeze(1)
        return {
            key: Rows(rows.index_select(0, where).index_fill_(0, padding, 0).view(*kept.shape, *rows.shape[1:]), kept)
            for key, rows in data.items()
        }


def attended_tokens(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Which tokens (b, t) of a batch are no padding, on the CPU; None if the batch has no tokens."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        return mask.cpu() != 0
    ids = inputs.get("input_ids")
    return None if ids is None else torch.ones(ids.shape, dtype=torch.bool)


def checksum(name: str, values: Tensor, attended: Tensor | None) -> Tensor:
    """A number (b,) for each example's values in one column, which no padding changes."""
    if attended is None or values.shape[:2] != attended.shape:
        numbers = _as_integers(name, values).flatten(1)
        return _mixed(numbers[:, :: -(-numbers.shape[1] // _MOST_CHECKED)])
    numbers = _token_numbers(name, values.flatten(0, 1)).view_as(attended)
    return (numbers * _mix(attended.cumsum(1) - 1) * attended).sum(1)


def scan(dataset: Examples, names: Collection[str] | None = None) -> tuple[ExampleIndex, str]:
    """Read every encoded example once: the index of them, and the SHA-256 of all columns that the teacher reads.

    Args:
        dataset: encoded examples, one after the other.
        names: the columns that the teacher reads; by default all that hold numbers, except for class labels.

    Raises GeodistillError for no examples, for examples that are not numbered 0, 1, 2, …, and for columns that some of
    them lack.
    """
    digest = hashlib.sha256()
    lengths: list[Tensor] = []
    checksums: list[dict[str, Tensor]] = []
    examples = iter(dataset)
    columns: list[str] | None = None
    position = 0
    # Many at a time, because a call of torch for each short sentence would take longer than opening the cache.
    while chunk := list(islice(examples, _CHUNK)):
        for example in chunk:
            if example.get("example_id", position) != position:
                raise GeodistillError(
                    f"Example {position} of the data to be cached has the 'example_id' {example['example_id']}.",
                    "Number the encoded examples 0, 1, 2, … in the order of the data set.",
                )
            found = [name for name in example if _is_read(name, example, names)]
            columns = columns or found
            if sorted(found) != sorted(columns):
                raise GeodistillError(
                    f"Example {position} of the data to be cached has the inputs {', '.join(found)}, "
                    f"and the first has {', '.join(columns)}.",
                    "Tokenise all examples alike.",
                )
            position += 1
        assert columns is not None
        long, sums = _scan_chunk(chunk, sorted(columns), digest)
        lengths.append(long)
        checksums.append(sums)
    if columns is None:
        raise GeodistillError("There are no examples for the teacher to read.", "Give a data set that is not empty.")
    index = ExampleIndex(
        torch.cat(lengths), {name: torch.cat([part[name] for part in checksums]) for name in checksums[0]}
    )
    return index, digest.hexdigest()


def _is_read(name: str, example: Mapping[str, Any], names: Collection[str] | None) -> bool:
    if name in NUMBERS:
        return False
    if name == "labels":  # of tokens they say which rows count; those of examples the teacher never sees
        return _length(example[name]) is not None and _length(example[name]) == _tokens(example)
    if names is not None:
        return name in names
    return isinstance(example[name], Tensor | np.ndarray | list) and np.asarray(example[name]).dtype.kind in "biuf"


def _scan_chunk(chunk: list[Mapping[str, Any]], columns: list[str], digest: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Each example's length, and the checksums of its columns; `digest` takes all of them in."""
    tokens = [_tokens(example) for example in chunk]
    if tokens[0] is None:
        sums: dict[str, list[Tensor]] = {name: [] for name in columns}
        for example in chunk:
            for name in columns:
                values = np.ascontiguousarray(example[name])
                digest.update(f"{name} {values.dtype} {values.shape};".encode() + values.tobytes())
                sums[name].append(checksum(name, torch.as_tensor(values).unsqueeze(0), None))
        return torch.ones(len(chunk), dtype=torch.long), {name: torch.cat(each) for name, each in sums.items()}
    # All tokens of the chunk in one row, so that a few calls serve thousands of examples.
    lengths = torch.tensor(tokens)
    digest.update(lengths.numpy().tobytes())
    owner = torch.arange(len(chunk)).repeat_interleave(lengths)
    flat: dict[str, Tensor] = {}
    for name in columns:
        joined = np.concatenate([np.asarray(example[name]) for example in chunk])
        values = joined != IGNORED_LABEL if name == "labels" else joined
        digest.update(f"{name} {values.shape[1:]} {values.dtype.kind};".encode())
        digest.update((values if values.dtype.kind == "f" else values.astype(np.int64)).tobytes())
        flat[name] = torch.as_tensor(joined)
    mask = flat.get("attention_mask")
    attended = torch.ones(len(owner), dtype=torch.bool) if mask is None else mask != 0
    count = torch.zeros(len(chunk), dtype=torch.long).index_add_(0, owner, attended.long())
    rank = attended.cumsum(0) - 1 - (count.cumsum(0) - count)[owner]
    found = {}
    for name in [name for name in columns if name != "attention_mask"]:  # it says which numbers the others count
        weighed = _token_numbers(name, flat[name]) * _mix(rank) * attended
        found[name] = torch.zeros(len(chunk), dtype=torch.long).index_add_(0, owner, weighed)
    return count, found


def _tokens(example: Mapping[str, Any]) -> int | None:
    """How many tokens an example has, padding included; None for one that is no sequence."""
    return next((_length(example[name]) for name in ("input_ids", "attention_mask") if name in example), None)


def _length(values: Any) -> int | None:
    return len(values) if np.ndim(values) else None


def _token_numbers(name: str, values: Tensor) -> Tensor:
    """One number (n,) for what each token has in a column, (n,) or (n, …)."""
    numbers = _as_integers(name, values)
    return numbers if numbers.ndim == 1 else _mixed(numbers.flatten(1))


def _mixed(numbers: Tensor) -> Tensor:
    """One number (n,) for each row (n, d) of numbers, which depends on their order."""
    return (numbers * _mix(torch.arange(numbers.shape[1]))).sum(1)


def _as_integers(name: str, values: Tensor) -> Tensor:
    """Each number as one that is compared exactly: an integer plus one, so that a zero counts, a float by its bits."""
    if name == "labels":
        return (values != IGNORED_LABEL).long() + 1  # the teacher is told which tokens count, not what they are
    if values.is_floating_point():
        return values.float().contiguous().view(torch.int32).long() + 1
    return values.long() + 1


def _mix(rank: Tensor) -> Tensor:
    # Weights below 2³¹ by position, so that a checksum notices two numbers changing places.
    return (rank * 2654435761 + 974593) % 2147483647
