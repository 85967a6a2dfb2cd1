"""From hidden states to feature rows: which token vectors of a batch are compared.

Rows are chosen by masks of the tokens alone, so the padding side and the padded length change nothing, and whatever
padding positions hold, NaN and infinity included, reaches neither values nor gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from geodistill.errors import GeodistillError, suggest
from geodistill.features.words import NO_WORD

ROW_KINDS = ("cls", "mean", "tokens", "last", "response", "words")
IGNORED_LABEL = -100  # what transformers writes where a token has no label


def select_rows(
    hidden: Tensor,
    *,
    kind: str,
    attention_mask: Tensor | None,
    special_tokens_mask: Tensor | None = None,
    special_tokens: bool = True,
    labels: Tensor | None = None,
    word_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the feature rows of hidden states (b, t, d), and the mask that says which of them count.

    - `"cls"`: the first attended token of each sentence, (b, d), no mask.
    - `"last"`: the last attended token of each sentence, (b, d), no mask.
    - `"mean"`: the mean over the attended tokens of each sentence, (b, d), no mask; in float32 at least.
      Without special tokens, a sentence of nothing else keeps them, so that an empty text still has a row.
    - `"tokens"`: every token, (b, t, d), with a boolean mask (b, t) of those that count; the others are zero.
    - `"response"`: likewise the attended tokens with a label, so those of the response and none of the prompt.
    - `"words"`: the mean over the attended tokens of each word, (b, w, d) with w the most words of any sentence, at
      least 1, and a boolean mask (b, w) of the words that there are; in float32 at least, the others are zero.

    `attention_mask` (b, t) is non-zero where a token is attended; None means everywhere. `special_tokens=False` leaves
    out of `"mean"` and `"tokens"` the tokens where `special_tokens_mask` (b, t) is non-zero, and does nothing to the
    other kinds. `labels` (b, t) are those of a language model, −100 where there is none; `word_ids` (b, t) number the
    words of each sentence from 0, as `align_words` does, −1 where a token is of none. A sentence with no attended token
    at all gives zeros.

    Raises GeodistillError for an unknown kind, and for a mask or labels of another shape, or missing where needed.
    """
    attended = _as_mask("attention_mask", attention_mask, hidden)
    if kind == "cls":
        return _take(hidden, attended.int().argmax(dim=1), attended), None
    if kind == "last":
        return _take(hidden, attended.shape[1] - 1 - attended.flip(1).int().argmax(dim=1), attended), None
    if kind not in ROW_KINDS:
        raise GeodistillError(f"Unknown kind of rows '{kind}'.", suggest(kind, ROW_KINDS))
    if kind == "response":
        if labels is None:
            raise GeodistillError(
                "The rows 'response' need a label for each token, and the batch has none.",
                "Use them with instruction data, or choose rows=tokens.",
            )
        kept = attended & (_aligned("labels", labels, hidden) != IGNORED_LABEL)
        return _zero_outside(hidden, kept), kept
    if kind == "words":
        if word_ids is None:
            raise GeodistillError(
                "The rows 'words' need the word of each token, and the batch has none.",
                "Give it 'word_ids' (geodistill.features.align_words), or choose rows=tokens.",
            )
        return _word_means(hidden, torch.where(attended, _aligned("word_ids", word_ids, hidden), NO_WORD))
    kept = attended
    if not special_tokens:
        if special_tokens_mask is None:
            raise GeodistillError(
                "Leaving special tokens out needs the special-token mask, and the batch has none.",
                "Tokenise with return_special_tokens_mask=True.",
            )
        kept = attended & ~_as_mask("special_tokens_mask", special_tokens_mask, hidden)
    if kind == "tokens":
        return _zero_outside(hidden, kept), kept
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, attended)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    total = _zero_outside(hidden, kept).sum(dim=1, dtype=dtype)
    return total / kept.sum(dim=1, keepdim=True).clamp(min=1), None


def count_word_tokens(word_ids: Tensor) -> Tensor:
    """Return how many tokens (b, w) each word has, of the words (b, t) of tokens; w is the most of any row, at least 1.

    Where a token is of no word, as padding is, its entry is −1.
    """
    # Waits for the device: the number of words is the one size that the shapes of a batch do not tell.
    words = int(word_ids.max().clamp(min=0)) + 1
    tokens = (word_ids != NO_WORD).long()
    return tokens.new_zeros(len(word_ids), words).scatter_add_(1, word_ids.clamp(min=0), tokens)


def response_logits_mask(labels: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Return which logits (b, t) of a causal language model are scored, from its labels (b, t), −100 where unscored.

    The logits at one position are about the next token, so a position counts where the label after it does; the last
    one never does. Nor does one that is not attended: with the padding on the left that is the one before the text.
    """
    mask = functional.pad(labels[:, 1:] != IGNORED_LABEL, (0, 1), value=False)
    return mask if attention_mask is None else mask & (attention_mask != 0)


def find_special_tokens(input_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the special-token mask (b, t) of token ids, for a batch that came without one.

    The tokenizer's own `return_special_tokens_mask=True` is to be preferred: it knows which tokens it added. Here the
    ids alone decide, except that the unknown word stands for text and is therefore not special, unless the tokenizer
    uses the same id for another purpose, as GPT-2 does.
    """
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "pad_token_id")
    unknown = {tokenizer.unk_token_id} - {getattr(tokenizer, name) for name in names}
    special = sorted(set(tokenizer.all_special_ids) - unknown)
    return torch.isin(input_ids, torch.tensor(special, dtype=input_ids.dtype, device=input_ids.device))


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


def _word_means(hidden: Tensor, word_ids: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    tokens = count_word_tokens(word_ids)
    # Tokens of no word add their zero to the first one.
    place = word_ids.clamp(min=0).unsqueeze(-1).expand_as(hidden)
    kept = _zero_outside(hidden, word_ids != NO_WORD).to(dtype)
    total = kept.new_zeros(*tokens.shape, hidden.shape[-1]).scatter_add(1, place, kept)
    return total / tokens.clamp(min=1).unsqueeze(-1), tokens > 0


def _take(hidden: Tensor, position: Tensor, attended: Tensor) -> Tensor:
    rows = hidden[torch.arange(hidden.shape[0], device=hidden.device), position]
    return _zero_outside(rows, attended.any(dim=1))


def _zero_outside(hidden: Tensor, kept: Tensor) -> Tensor:
    # Not a product with the mask: 0 × NaN is NaN, in the value and in the gradient.
    return torch.where(kept.unsqueeze(-1), hidden, torch.zeros((), dtype=hidden.dtype, device=hidden.device))
