"""How a segment of a recording becomes what a neural transformer reads: one modality of it, with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geodistill.data.neural import Segments
from geodistill.distillation.sides import LazyExamples, WithoutTokens
from geodistill.files import fingerprint_of, write_json

COLUMNS = ("values", "value_mask", "attention_mask", "session")
READER_FILE = "neural_reader.json"
Modality = Literal["spikes", "lfp"]


class NeuralReader(WithoutTokens):
    """Reads spikes or potentials of segments.

    A batch is `values` (b, t, c), `value_mask` (b, t, c) with the values that are there, `attention_mask` (b, t) with
    the bins that both modalities have, `session` (b, t) with the number of the session in each bin, and `labels`, which
    are the values again: what a model reconstructs. Sessions of fewer channels than the largest, and shorter segments,
    are padded with zeros.

    Args:
        modality: which of the two is read.
        sessions: names of all sessions that the model knows, in the order of its config → number of channels.
    """

    names: tuple[str, ...] = (*COLUMNS, "labels")

    def __init__(self, modality: Modality, sessions: Mapping[str, int]) -> None:
        self.modality, self.sessions = modality, dict(sessions)

    @property
    def column(self) -> str:
        return self.modality

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(type(self).__name__, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What is written beside a model that reads so."""
        return {"modality": self.modality, "sessions": self.sessions}

    def encode(self, split: Segments) -> ReadSegments:
        """Return the examples of a split, made when they are asked for."""
        return ReadSegments(self, split)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return a batch, padded at the end of time."""
        longest = max(len(each["values"]) for each in examples)
        batch = {}
        for name in COLUMNS:
            columns = [
                np.pad(each[name], [(0, longest - len(each[name]))] + [(0, 0)] * (each[name].ndim - 1))
                for each in examples
            ]
            batch[name] = torch.from_numpy(np.stack(columns))
        batch["labels"] = batch["values"].clone()
        batch["example_id"] = torch.tensor([each["example_id"] for each in examples])
        return batch

    def length(self, example: Mapping[str, Any]) -> int:
        """How many bins a segment has."""
        return len(example["values"])

    def probe(self) -> dict[str, Tensor]:
        """Two bins of zeros of the first session."""
        values = torch.zeros(1, 2, max(self.sessions.values()))
        ones = torch.ones(1, 2, dtype=torch.long)
        return {"values": values, "value_mask": values == 0, "attention_mask": ones, "session": 0 * ones}

    def pairs_with(self, other: object) -> bool:
        """Tell whether another reader makes the same of every segment."""
        return isinstance(other, NeuralReader) and other.fingerprint == self.fingerprint

    def save(self, folder: Path) -> None:
        """Write `neural_reader.json`, which says what the model reads."""
        write_json(folder / READER_FILE, self.settings)


class ReadSegments(LazyExamples):
    """The examples of a split as one reader reads them."""

    def __init__(self, reader: NeuralReader, split: Segments) -> None:
        self.reader, self.split = reader, split
        known = list(reader.sessions)
        self.numbers = [known.index(session.name) for session in split.sessions]

    def __len__(self) -> int:
        return len(self.split)

    def at(self, place: int) -> dict[str, Any]:
        segment = self.split.segments[place]
        found = getattr(self.split.sessions[segment.session], self.reader.modality)[segment.start : segment.stop]
        missing = max(self.reader.sessions.values()) - found.shape[1]
        values = np.pad(found, [(0, 0), (0, missing)], constant_values=np.nan)
        mask = np.isfinite(values)
        return {
            "values": np.where(mask, values, np.float32(0)),
            "value_mask": mask,
            "attention_mask": self.split.there(segment).astype(np.int64),
            "session": np.full(len(values), self.numbers[segment.session]),
            "example_id": place,
        }
