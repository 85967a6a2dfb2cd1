"""How a text becomes tokens: a tokenizer and a length, and how many tokens a model has positions for."""

from __future__ import annotations

import json
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from geodistill.errors import GeodistillError
from geodistill.features import NO_WORD, token_words
from geodistill.files import fingerprint_of
from geodistill.tasks.loading import ModelSource, load_tokenizer, same_vocabulary

# What families call their table of absolute positions; the last part of its path in the model.
POSITION_TABLES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
UNLIMITED = 10**9
AT_ONCE = 1024  # texts that are tokenised together


class TextReader:
    """Reads a text, or a pair of texts, with a tokenizer; a longer one is cut at `max_length` tokens.

    Args:
        tokenizer: of the model that reads.
        max_length: tokens of a text or a pair, special ones included.
        column: that is read of a split.
        pair: the column of second texts, if a split has one; None to read none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = UNLIMITED,
        *,
        column: str = "text",
        pair: str | None = "text_pair",
    ) -> None:
        self.tokenizer, self.max_length, self.column, self.pair = tokenizer, max_length, column, pair

    @classmethod
    def load(cls, source: ModelSource) -> TextReader:
        """Load the tokenizer of a model."""
        return cls(load_tokenizer(source))

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.tokenizer.model_input_names, "special_tokens_mask", "word_ids")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(type(self).__name__, tokenizer_json(self.tokenizer), self.max_length)

    def encode(
        self, split: Any, *, words: bool = False, cut: MutableMapping[str, int] | None = None, part: str = ""
    ) -> list[dict[str, Any]]:
        """Tokenise the texts, or pairs of texts, of a split.

        With `words`, which a fast tokenizer can find, each example says under this name what it has as `TokenWords`.
        `cut` receives under the name `part` how many examples are longer and were cut, if the tokenizer tells.
        """
        self._check_padding()
        texts = list(split[self.column])
        pairs = list(split[self.pair]) if self.pair in split.column_names else None
        examples: list[dict[str, Any]] = []
        longer = 0
        # In parts, because what a tokenizer returns takes more memory than what is kept of it.
        for start in range(0, len(texts), AT_ONCE):
            slice_of_all = slice(start, start + AT_ONCE)
            given = [column[slice_of_all] for column in (texts, pairs) if column is not None]
            tokens = self.tokenizer(
                *given,
                truncation=True,
                max_length=self.max_length,
                return_special_tokens_mask=True,
                return_offsets_mapping=words,
            )
            longer += sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())
            columns = {key: tokens[key] for key in tokens}
            if words:
                columns["words"] = [
                    token_words(whole, offsets, tokens.sequence_ids(row))
                    for row, (*whole, offsets) in enumerate(zip(*given, columns.pop("offset_mapping"), strict=True))
                ]
            columns["example_id"] = list(range(start, start + len(given[0])))
            examples += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        if cut is not None and self.tokenizer.is_fast:
            cut[part] = longer
        return examples

    def collate(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Pad to the longest of a batch, as the tokenizer pads; `word_ids` with −1."""
        if not examples or "word_ids" not in examples[0]:
            return self.pad(examples)
        batch = self.pad([{name: value for name, value in each.items() if name != "word_ids"} for each in examples])
        # Tokens are where they are attended to, on whichever side the padding is.
        word_ids = torch.full_like(batch["input_ids"], NO_WORD)
        word_ids[batch["attention_mask"] != 0] = torch.tensor([word for each in examples for word in each["word_ids"]])
        return {**batch, "word_ids": word_ids}

    def pad(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Pad all but `word_ids`."""
        self._check_padding()
        return dict(DataCollatorWithPadding(self.tokenizer)(list(examples)))

    def length(self, example: Any) -> int:
        return len(example["input_ids"])

    def probe(self) -> dict[str, Tensor]:
        """One text of two tokens."""
        tokens = torch.zeros(1, 2, dtype=torch.long)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def pairs_with(self, other: Any) -> bool:
        """Whether both read one column, and split and number words alike."""
        if other is self:
            return True
        if not isinstance(other, TextReader) or other.column != self.column:
            return False
        return same_vocabulary(self.tokenizer, other.tokenizer)

    def within(self, positions: int) -> TextReader:
        if positions >= self.max_length:
            return self
        return TextReader(self.tokenizer, positions, column=self.column, pair=self.pair)

    def configure(self, model: Any, *, always: bool = False) -> None:
        """Tell a model how its tokenizer pads: a decoder's classifier reads the last token before the padding."""
        if always or model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    def _check_padding(self) -> None:
        if self.tokenizer.pad_token is None:
            raise GeodistillError(
                "The tokenizer has neither a padding token nor an end of sequence to pad with.",
                "Give it a pad_token, and save it with the model.",
            )


def tokenizer_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return all that decides how a tokenizer splits a text, as JSON."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True)
    # How the last call padded and truncated is state, not identity.
    return json.dumps({**json.loads(backend.to_str()), "padding": None, "truncation": None}, sort_keys=True)


def position_limit(model: PreTrainedModel) -> int:
    """Return how many tokens a model has positions for, at least 1; 10⁹ if it has no limit.

    That is what its config says, or less if its table of positions begins behind a padding index (RoBERTa, MPNet,
    Longformer: 514 rows hold 512 tokens) or an offset (OPT). Relative positions (T5, XLNet) have no limit.
    """
    config = model.config.get_text_config()
    limits = [UNLIMITED]
    stated = getattr(config, "max_position_embeddings", None)
    if isinstance(stated, int) and stated > 0:  # XLNet says -1
        limits.append(stated)
    for path, module in model.named_modules():
        table = getattr(module, "weight", None)
        if path.rpartition(".")[2] in POSITION_TABLES and isinstance(table, Tensor) and table.ndim == 2:
            padding = getattr(module, "padding_idx", None)
            unused = padding + 1 if padding is not None else getattr(module, "offset", 0)
            limits.append(len(table) - unused)
    return max(1, min(limits))


def shared_position_limit(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Return how many tokens both models have positions for."""
    return min(position_limit(student), position_limit(teacher))
