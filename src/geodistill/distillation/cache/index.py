"""Which rows of a cache belong to which example, and where they go in a padded batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geodistill.distillation.cache.format import RowsPer
from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL, NO_WORD, count_word_tokens, response_logits_mask

Examples = Sequence[Mapping[str, Any]]
Collate = Callable[[list[Mapping[str, Any]]], Mapping[str, Tensor]]

# What the teacher may see of an example; of labels only where they are.
_TEACHER_INPUTS = ("input_ids", "attention_mask", "special_tokens_mask", "token_type_ids", "position_ids", "word_ids")
_CHUNK = 4096


class ExampleIndex:
    """Where each example's rows lie, and a checksum of its tokens by which a batch of other data is recognised."""

    def __init__(
        self,
        attended: Tensor,
        content: Tensor,
        response: Tensor,
        scored: Tensor,
        words: Tensor,
        checksum: Tensor,
        word_checksum: Tensor,
    ) -> None:
        self.attended, self.content, self.response = attended, content, response
        self.scored, self.words = scored, words
        self.checksum, self.word_checksum = checksum, word_checksum
        self.order = attended.argsort(descending=True, stable=True)
        self._counts: dict[RowsPer, Tensor] = {
            "example": torch.ones_like(attended),
            "attended": attended,
            "content": content,
            "response": response,
            "scored": scored,
            "words": words,
        }
        self.starts = {per: self._starts(counts) for per, counts in self._counts.items()}

    def __len__(self) -> int:
        return len(self.attended)

    def _starts(self, counts: Tensor) -> Tensor:
        starts = torch.empty_like(counts)
        starts[self.order] = counts[self.order].cumsum(0) - counts[self.order]
        return starts

    def rows(self, per: RowsPer, examples: int | None = None) -> int:
        """How many rows the first `examples` in the order of the tables have; all when absent."""
        return int(self._counts[per][self.order[:examples]].sum())

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        tokens = {"attended": self.attended, "content": self.content, "response": self.response, "scored": self.scored}
        return {**tokens, "words": self.words, "checksum": self.checksum, "word_checksum": self.word_checksum}


class BatchRows:
    """Which rows of the tables the examples of one padded batch are, and where they go in it."""

    def __init__(self, index: ExampleIndex, positions: Tensor, inputs: Mapping[str, Tensor]) -> None:
        ids = inputs["input_ids"].cpu()
        mask = inputs.get("attention_mask")
        self.index, self.positions = index, positions
        self.attended = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu() != 0
        self._special, self._labels = inputs.get("special_tokens_mask"), inputs.get("labels")
        self._words = inputs.get("word_ids")
        wrong = self._checksum(ids) != index.checksum[positions]
        if wrong.any():
            example = int(positions[wrong.int().argmax()])
            raise GeodistillError(
                f"The tokens of example {example} in the batch are not those that the teacher cache holds for it.",
                "Give each example its position in the cached data as 'example_id', and read no other data from it.",
            )

    def _checksum(self, values: Tensor) -> Tensor:
        rank = self.attended.cumsum(1) - 1
        return ((values + 1) * _mix(rank) * self.attended).sum(1)

    def kept(self, per: RowsPer) -> Tensor:
        """The tokens (b, t) of the batch that have a row, or its words (b, w)."""
        if per == "attended":
            return self.attended
        if per in ("response", "scored"):
            return self._labelled(per)
        if per == "words":
            return self._existing_words()
        if self._special is None:
            raise GeodistillError(
                "Leaving special tokens out needs the special-token mask, and the batch has none.",
                "Tokenise with return_special_tokens_mask=True.",
            )
        kept = self.attended & (self._special.cpu() == 0)
        if not torch.equal(kept.sum(1), self.index.content[self.positions]):
            raise GeodistillError(
                "The special-token mask of the batch differs from that of the cached data.",
                "Use the same collator and tokenizer as when the cache was written.",
            )
        return kept

    def _labelled(self, per: RowsPer) -> Tensor:
        labels = self._labels.cpu() if self._labels is not None and self._labels.ndim == 2 else None
        kept: Tensor | None
        if per == "scored":
            kept = self.attended if labels is None else response_logits_mask(labels, self.attended)
        else:
            kept = None if labels is None else self.attended & (labels != IGNORED_LABEL)
        counts = self.index.scored if per == "scored" else self.index.response
        if kept is None or not torch.equal(kept.sum(1), counts[self.positions]):
            raise GeodistillError(
                "The labels of the batch mark other tokens as the response than those of the cached data.",
                "Use the same collator and data as when the cache was written.",
            )
        return kept

    def _existing_words(self) -> Tensor:
        words = None if self._words is None else self._words.cpu()
        if words is None or not torch.equal(self._checksum(words), self.index.word_checksum[self.positions]):
            raise GeodistillError(
                "The tokens of the batch are of other words than those of the cached data.",
                "Use the same tokenizers, collator and data as when the cache was written.",
            )
        return count_word_tokens(words.where(self.attended, NO_WORD)) > 0

    def gather(self, per: RowsPer, data: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """Read this batch's rows of every tensor of `data` (rows, …): (b, …), or of tokens (b, t, …) or words (b, w, …)
        with zeros as padding; those per scored token without padding, (r, …), as a `Teacher` gives them."""
        starts = self.index.starts[per][self.positions]
        if per == "example":
            return {key: rows.index_select(0, starts) for key, rows in data.items()}
        kept = self.kept(per)
        where = starts.unsqueeze(1) + kept.cumsum(1) - 1
        if per == "scored":
            return {key: rows.index_select(0, where[kept]) for key, rows in data.items()}
        where = where.masked_fill_(~kept, 0).flatten()
        padding = (~kept).flatten().nonzero().squeeze(1)
        return {
            key: rows.index_select(0, where).index_fill_(0, padding, 0).view(*kept.shape, *rows.shape[1:])
            for key, rows in data.items()
        }


def scan(dataset: Examples) -> tuple[ExampleIndex, str]:
    """Read every encoded example once: the index of them, and the SHA-256 of all that the teacher may see."""
    digest = hashlib.sha256()
    parts: list[tuple[np.ndarray, ...]] = []
    examples = iter(dataset)
    columns: list[str] | None = None
    position = 0
    # Many at a time, because a call of numpy for each short sentence would take longer than opening the cache.
    while chunk := list(islice(examples, _CHUNK)):
        for example in chunk:
            if example.get("example_id", position) != position:
                raise GeodistillError(
                    f"Example {position} of the data to be cached has the 'example_id' {example['example_id']}.",
                    "Number the encoded examples 0, 1, 2, … in the order of the data set.",
                )
            found = [name for name in _TEACHER_INPUTS if name in example]
            columns = columns or found
            if found != columns:
                raise GeodistillError(
                    f"Example {position} of the data to be cached has the inputs {', '.join(found)}, "
                    f"and the first has {', '.join(columns)}.",
                    "Tokenise all examples alike.",
                )
            position += 1
        parts.append(_scan_chunk(chunk, digest))
    if not parts:
        raise GeodistillError("There are no examples for the teacher to read.", "Give a data set that is not empty.")
    index = ExampleIndex(*(torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)))
    return index, digest.hexdigest()


def _scan_chunk(chunk: list[Mapping[str, Any]], digest: Any) -> tuple[np.ndarray, ...]:
    """Each example's attended tokens, those of them that are content, response and scored, its words and checksums, in
    the order of `ExampleIndex`; `digest` takes in all columns."""
    lengths = np.array([len(example["input_ids"]) for example in chunk])
    digest.update(lengths.astype(np.int64).tobytes())
    columns = {}
    for name in _TEACHER_INPUTS:
        if name in chunk[0]:
            columns[name] = np.concatenate([np.asarray(example[name]) for example in chunk]).astype(np.int64)
            digest.update(name.encode() + columns[name].tobytes())
    tokens = np.ones(lengths.sum(), dtype=np.int64)
    kept = columns.get("attention_mask", tokens) != 0
    content = kept & (columns.get("special_tokens_mask", 0 * tokens) == 0)
    owner = np.repeat(np.arange(len(chunk)), lengths)
    response, scored = np.zeros_like(kept), kept
    if np.ndim(chunk[0].get("labels", 0)):
        labelled = np.concatenate([_labelled(example) for example in chunk])
        response = kept & labelled
        # The logits at one token are about the next one of the same example.
        scored = kept & np.append(labelled[1:] & (owner[1:] == owner[:-1]), False)
        digest.update(b"response" + response.tobytes())
    attended, content, answer, predicted = (
        np.bincount(owner[chosen], minlength=len(chunk)) for chosen in (kept, content, response, scored)
    )
    before = np.repeat(attended.cumsum() - attended, lengths)
    word_ids = columns.get("word_ids", NO_WORD * tokens)
    most = word_ids.max(initial=0) + 1
    each = np.unique((owner * most + word_ids)[kept & (word_ids != NO_WORD)])
    words = np.bincount(each // most, minlength=len(chunk))
    checksums = np.zeros((2, len(chunk)), dtype=np.int64)
    for checksum, values in zip(checksums, (columns["input_ids"], word_ids), strict=True):
        np.add.at(checksum, owner, (values + 1) * _mix(kept.cumsum() - 1 - before) * kept)
    return attended, content, answer, predicted, words, *checksums


def _labelled(example: Mapping[str, Any]) -> np.ndarray:
    """Which tokens have a label; none where the labels are not those of tokens."""
    labels, tokens = np.asarray(example.get("labels")), len(example["input_ids"])
    return labels != IGNORED_LABEL if labels.shape == (tokens,) else np.zeros(tokens, dtype=bool)


def _mix(rank: Any) -> Any:
    # Weights below 2³¹ by position, so that a checksum notices two tokens changing places and never overflows.
    return (rank * 2654435761 + 974593) % 2147483647
