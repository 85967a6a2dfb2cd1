"""From hidden states or feature maps to feature rows: which vectors of a batch are compared.

Rows of tokens are chosen by masks of the tokens alone, so the padding side and the padded length change nothing, and
whatever padding positions hold, NaN and infinity included, reaches neither values nor gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from geodistill.errors import GeodistillError, suggest
from geodistill.features.words import NO_WORD

IGNORED_LABEL = -100  # what transformers writes for a token without a label
MOST_SPECIAL_PATCHES = 2  # a vision transformer has a class token, and DeiT a distillation token as well
Batch = Mapping[str, Tensor | None]


class Rows(NamedTuple):
    """The feature rows of a batch.

    Args:
        values: (b, …, d), a vector for each row; of the kind `map` the maps (b, c, h, w) themselves.
        mask: (b, k) boolean, which of k places of each example hold a row. None: all do, the same number in each.

    Example:
        values, mask = select_rows(hidden_states[-1], batch, kind="tokens")
    """

    values: Tensor
    mask: Tensor | None = None

    def packed(self) -> Rows:
        """The same rows, those that count first in each example, in their order."""
        if self.mask is None:
            return self
        order = self.mask.logical_not().int().argsort(dim=1, stable=True)
        values = self.values.gather(1, order.unsqueeze(-1).expand_as(self.values))
        return Rows(values, self.mask.gather(1, order))

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        return Rows(self.values.to(device), None if self.mask is None else self.mask.to(device))


@dataclass(frozen=True)
class RowKind:
    """One way to choose rows.

    select: of hidden states (b, t, d) or maps (b, c, h, w), the batch that they came from, and whether special tokens
        count
    of_tokens: whether each row is a token, so that both sides must split a text alike
    special_tokens: whether `special_tokens` changes anything
    of_maps: whether rows come from feature maps, and not from texts
    """

    select: Callable[[Tensor, Batch, bool], Rows]
    of_tokens: bool = False
    special_tokens: bool = False
    of_maps: bool = False


def select_rows(features: Tensor, batch: Batch, *, kind: str, special_tokens: bool = True) -> Rows:
    """Return the feature rows of one point of a model.

    Of hidden states (b, t, d):

    - `"cls"`: the first attended token of each sentence, (b, d), no mask.
    - `"last"`: the last attended token of each sentence, (b, d), no mask.
    - `"mean"`: the mean over the attended tokens of each sentence, (b, d), no mask; in float32 at least. If special
      tokens do not count, a sentence of nothing else keeps them, so that an empty text still has a row. Of feature maps
      it is the mean over all positions, and features (b, d) are taken unchanged: one row for each example, whatever the
      model reads.
    - `"tokens"`: every token, (b, t, d), with a boolean mask (b, t) of the tokens that count; the others are zero.
    - `"response"`: the attended tokens with a label, so the response without the prompt; (b, t, d) and a mask as above.
    - `"words"`: the mean over the attended tokens of each word, (b, w, d) with w the most words of any sentence, at
      least 1, and a boolean mask (b, w) of the words that there are; in float32 at least, the others are zero.

    Of feature maps (b, c, h, w); the patch tokens of a vision transformer (b, t, d) are a square map of d channels:

    - `"positions"`: the channels at each position, (b, h, w, c), no mask.
    - `"pooled"`: the mean over all positions, (b, c), no mask; in float32 at least.
    - `"map"`: the maps themselves, (b, c, h, w), for a loss that compares maps.

    Of features of any shape (b, …): `"samples"`, all numbers of a sample as one row, (b, …), no mask.

    Args:
        features: one point of a model, with the examples first.
        batch: what the model read, by name. `attention_mask` (b, t) is non-zero if a token is attended; without it
            every token is. `special_tokens_mask` (b, t) is non-zero at special tokens. `labels` (b, t) are the labels
            of a language model, −100 where there is none. `word_ids` (b, t) number the words of each sentence from 0,
            as `align_words` does, and are −1 for a token without a word. Other entries are not read.
        kind: a key of `KINDS`.
        special_tokens: False leaves special tokens out of `"mean"` and `"tokens"`, and does nothing to other kinds.

    Returns:
        The rows and their mask. A sentence with no attended token at all gives zeros.

    Raises:
        GeodistillError: an unknown kind, features of a shape that the kind does not take, or a mask or labels that have
            another shape, or are missing and needed.

    Example:
        values, mask = select_rows(hidden_states[-1], batch, kind="tokens")
    """
    if kind not in KINDS:
        raise GeodistillError(f"Unknown kind of rows '{kind}'.", suggest(kind, KINDS))
    return KINDS[kind].select(features, batch, special_tokens)


def match_rows(student: Rows, teacher: Rows) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bring the rows of both sides together.

    The first row that counts on one side meets the first that counts on the other, example by example, whatever the
    padding of each side; a pair counts if both sides have a row. Grids (b, h, w, c) of different sizes are brought to
    the coarser grid by average pooling.

    Args:
        student: rows of the student.
        teacher: rows of the teacher, of the same examples.

    Returns:
        Values (b, …, d_s), values (b, …, d_t), and a mask of the pairs that count, or None if all do.

    Raises:
        GeodistillError: the rows have no common shape.

    Example:
        loss(*match_rows(student_rows, teacher_rows))
    """
    if student.mask is None and teacher.mask is None:
        if student.values.ndim == 4 == teacher.values.ndim:
            return (*_on_one_grid(student.values, teacher.values), None)
        if student.values.shape[:-1] != teacher.values.shape[:-1]:
            raise GeodistillError(
                f"The student has rows {tuple(student.values.shape)}, and the teacher {tuple(teacher.values.shape)}: "
                "they are not the same inputs.",
                "Compare rows that both sides have as many of, such as 'mean', 'pooled' or 'samples'.",
            )
        return student.values, teacher.values, None
    student, teacher = (_with_mask(side) for side in (student, teacher))
    assert student.mask is not None and teacher.mask is not None
    # To learn that the masks are equal would block until the accelerator has finished.
    alike = student.mask.device.type == "cpu" and torch.equal(student.mask, teacher.mask)
    if not alike:
        student, teacher = student.packed(), teacher.packed()
        most = min(student.values.shape[1], teacher.values.shape[1])
        student, teacher = (Rows(side.values[:, :most], side.mask[:, :most]) for side in (student, teacher))  # type: ignore[index]
    assert student.mask is not None and teacher.mask is not None
    return student.values, teacher.values, student.mask & teacher.mask


def counted_rows(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the rows that count as two matrices, from what `match_rows` returns.

    Args:
        student: (b, …, d_s).
        teacher: (b, …, d_t).
        mask: (b, …), boolean; None: all rows count.

    Returns:
        Matrices (n, d_s) and (n, d_t).

    Example:
        student, teacher = counted_rows(*match_rows(student_rows, teacher_rows))
    """
    if mask is None:
        return student.flatten(0, -2), teacher.flatten(0, -2)
    return student[mask], teacher[mask]


def row_width(features: Tensor, kind: str) -> int:
    """Return how wide the rows of a kind are, from the features of a point.

    Args:
        features: one point of a model, with the examples first.
        kind: a key of `KINDS`.

    Returns:
        The number of columns; of `map` the number of channels.

    Raises:
        GeodistillError: the kind has no rows of these features.

    Example:
        row_width(hidden_states[-1], "tokens")
    """
    if kind == "samples":
        return features[0].numel()
    if kind in KINDS and features.ndim != 2 and (KINDS[kind].of_maps or (kind == "mean" and features.ndim == 4)):
        return _as_map(features, kind).shape[1]
    return features.shape[-1]


def count_word_tokens(word_ids: Tensor) -> Tensor:
    """Return how many tokens each word has.

    Args:
        word_ids: (b, t), the word of each token, −1 for a token without a word, such as padding.

    Returns:
        Counts (b, w); w is the most words of any example, at least 1.

    Example:
        count_word_tokens(torch.tensor([[-1, 0, 0, 1, -1]]))  # [[2, 1]]
    """
    # Waits for the device: the number of words is the one size that the shapes of a batch do not tell.
    words = int(word_ids.max().clamp(min=0)) + 1
    tokens = (word_ids != NO_WORD).long()
    return tokens.new_zeros(len(word_ids), words).scatter_add_(1, word_ids.clamp(min=0), tokens)


def response_logits_mask(labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return which logits of a causal language model are scored.

    The logits at a position predict the next token, so a position counts if the label after it does. The last position
    never counts. A position that is not attended does not count either: with padding on the left, that is the position
    before the text.

    Args:
        labels: (b, t), −100 where a token is not scored.
        attention_mask: (b, t), non-zero if a token is attended; without it every token is.

    Returns:
        A boolean mask (b, t).

    Example:
        logits[response_logits_mask(batch["labels"], batch["attention_mask"])]
    """
    mask = functional.pad(labels[:, 1:] != IGNORED_LABEL, (0, 1), value=False)
    return mask if attention_mask is None else mask & (attention_mask != 0)


def find_special_tokens(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the special-token mask of token ids, for a batch that came without one.

    Prefer the tokenizer's own `return_special_tokens_mask=True`, which knows the tokens that it added. Here the ids
    alone decide, except that the unknown word stands for text and is therefore not special, unless the tokenizer uses
    the same id for another purpose, as GPT-2 does.

    Args:
        input_ids: (b, t).
        tokenizer: the tokenizer that made them.

    Returns:
        A mask (b, t) of the special tokens.

    Example:
        batch["special_tokens_mask"] = find_special_tokens(batch["input_ids"], tokenizer)
    """
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id")
    unknown = {tokenizer.unk_token_id} - {getattr(tokenizer, name) for name in names}
    special = sorted(set(tokenizer.all_special_ids) - unknown)
    return torch.isin(input_ids, torch.tensor(special, dtype=input_ids.dtype, device=input_ids.device))


def _cls(hidden: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    attended = _attended(hidden, batch)
    return Rows(_take(hidden, attended.int().argmax(dim=1), attended))


def _last(hidden: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    attended = _attended(hidden, batch)
    return Rows(_take(hidden, attended.shape[1] - 1 - attended.flip(1).int().argmax(dim=1), attended))


def _tokens(hidden: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    kept = _content(hidden, batch, special_tokens)
    if batch.get("attention_mask") is None and special_tokens:
        return Rows(hidden)  # every example has all of them
    return Rows(_zero_outside(hidden, kept), kept)


def _mean(hidden: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    if hidden.ndim != 3:
        return _pooled(hidden, batch, special_tokens)
    kept = _content(hidden, batch, special_tokens)
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, _attended(hidden, batch))
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    total = _zero_outside(hidden, kept).sum(dim=1, dtype=dtype)
    return Rows(total / kept.sum(dim=1, keepdim=True).clamp(min=1))


def _response(hidden: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    labels = batch.get("labels")
    if labels is None:
        raise GeodistillError(
            "The rows 'response' need a label for each token, and the batch has none.",
            "Use them with instruction data, or choose rows=tokens.",
        )
    kept = _attended(hidden, batch) & (_aligned("labels", labels, hidden) != IGNORED_LABEL)
    return Rows(_zero_outside(hidden, kept), kept)


def _words(hidden: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    word_ids = batch.get("word_ids")
    if word_ids is None:
        raise GeodistillError(
            "The rows 'words' need the word of each token, and the batch has none.",
            "Give it 'word_ids' (geodistill.features.align_words), or choose rows=tokens.",
        )
    attended = _attended(hidden, batch)
    word_ids = torch.where(attended, _aligned("word_ids", word_ids, hidden), NO_WORD)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    tokens = count_word_tokens(word_ids)
    # Tokens of no word add their zero to the first one.
    place = word_ids.clamp(min=0).unsqueeze(-1).expand_as(hidden)
    kept = _zero_outside(hidden, word_ids != NO_WORD).to(dtype)
    total = kept.new_zeros(*tokens.shape, hidden.shape[-1]).scatter_add(1, place, kept)
    return Rows(total / tokens.clamp(min=1).unsqueeze(-1), tokens > 0)


def _positions(features: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    return Rows(_as_map(features, "positions").permute(0, 2, 3, 1))


def _pooled(features: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    if features.ndim == 2:
        return Rows(features)  # pooled by the model
    dtype = torch.promote_types(features.dtype, torch.float32)
    return Rows(_as_map(features, "pooled").mean((2, 3), dtype=dtype))


def _map(features: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    return Rows(_as_map(features, "map"))


def _samples(features: Tensor, batch: Batch, special_tokens: bool) -> Rows:
    return Rows(features.flatten(1))


KINDS: dict[str, RowKind] = {
    "cls": RowKind(_cls),
    "mean": RowKind(_mean, special_tokens=True),
    "tokens": RowKind(_tokens, of_tokens=True, special_tokens=True),
    "last": RowKind(_last),
    "response": RowKind(_response, of_tokens=True),
    "words": RowKind(_words),
    "positions": RowKind(_positions, of_maps=True),
    "pooled": RowKind(_pooled, of_maps=True),
    "samples": RowKind(_samples, of_maps=True),
    "map": RowKind(_map, of_maps=True),
}
"""Every kind of rows by its name: the one place that decides which vectors of a batch are rows."""


def _attended(hidden: Tensor, batch: Batch) -> Tensor:
    if hidden.ndim != 3:
        raise GeodistillError(
            f"Features of shape {tuple(hidden.shape)} have no tokens.",
            "Choose rows of maps: positions, pooled, samples or map.",
        )
    return _as_mask("attention_mask", batch.get("attention_mask"), hidden)


def _content(hidden: Tensor, batch: Batch, special_tokens: bool) -> Tensor:
    """Which tokens (b, t) are attended and, without special tokens, not special."""
    attended = _attended(hidden, batch)
    if special_tokens:
        return attended
    special = batch.get("special_tokens_mask")
    if special is None:
        raise GeodistillError(
            "Leaving special tokens out needs the special-token mask, and the batch has none.",
            "Tokenise with return_special_tokens_mask=True.",
        )
    return attended & ~_as_mask("special_tokens_mask", special, hidden)


def _as_map(features: Tensor, kind: str) -> Tensor:
    """Maps (b, c, h, w) unchanged, and the patch tokens (b, t, d) of a square image as a map (b, d, √t, √t)."""
    if features.ndim == 4:
        return features
    if features.ndim == 3:
        side = math.isqrt(features.shape[1])
        special = features.shape[1] - side**2
        if side and special <= MOST_SPECIAL_PATCHES:
            return features[:, special:].mT.unflatten(2, (side, side))
    raise GeodistillError(
        f"The rows '{kind}' need feature maps (samples, channels, height, width), and these features have the shape "
        f"{tuple(features.shape)}.",
        "Choose a point that yields a map, such as a stage of a CNN, or other rows: samples for any features.",
    )


def _on_one_grid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (b, h, w, c) of both sides on the coarser of their grids, by average pooling."""
    grid = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])

    def pooled(rows: Tensor) -> Tensor:
        if rows.shape[1:3] == grid:
            return rows
        return functional.adaptive_avg_pool2d(rows.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)

    return pooled(student), pooled(teacher)


def _with_mask(rows: Rows) -> Rows:
    if rows.mask is not None:
        return rows
    if rows.values.ndim != 3:
        raise GeodistillError(
            f"One side has a row for each token, and the other rows of shape {tuple(rows.values.shape)}.",
            "Choose points of one kind on both sides.",
        )
    return Rows(rows.values, torch.ones(rows.values.shape[:2], dtype=torch.bool, device=rows.values.device))


def _as_mask(name: str, mask: Tensor | None, hidden: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    return _aligned(name, mask, hidden) != 0


def _aligned(name: str, values: Tensor, hidden: Tensor) -> Tensor:
    if values.shape != hidden.shape[:2]:
        raise GeodistillError(
            f"The shape of the {name} is {tuple(values.shape)}, but that of the hidden states {tuple(hidden.shape)}.",
            f"Give {name} of shape {tuple(hidden.shape[:2])}, one entry a token.",
        )
    return values.to(hidden.device)


def _take(hidden: Tensor, position: Tensor, attended: Tensor) -> Tensor:
    rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), position]
    return _zero_outside(rows, attended.any(dim=1))


def _zero_outside(hidden: Tensor, kept: Tensor) -> Tensor:
    # Not a product with the mask: 0 × NaN is NaN, in the value and in the gradient.
    return torch.where(kept.unsqueeze(-1), hidden, torch.zeros((), dtype=hidden.dtype, device=hidden.device))
