"""From instructions to token ids: prompt and response apart, and labels on the response alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL, TokenWords, token_words
from geodistill.features.words import Span
from geodistill.files import fingerprint_of
from geodistill.recipe import PromptKind
from geodistill.tasks.prompts import make_prompt
from geodistill.tasks.text_reader import UNLIMITED, TextReader


class InstructionReader(TextReader):
    """Reads a prompt and its response, each tokenised by itself, with labels on the response alone.

    No token is half of one and half of the other, and what follows a prompt in training is what follows it in
    generation. If the tokenizer begins a text with a special token, the token is there once; the response ends with the
    end of sequence.

    As in MiniLLM, prompts over `max_prompt_length` are dropped, and a response is cut, its end of sequence with it,
    if prompt and response are over `max_length` together.

    Args:
        tokenizer: of a causal language model.
        max_length: tokens of prompt and response together.
        prompt: how an instruction becomes a prompt.
        max_prompt_length: tokens of a prompt; at most one less than `max_length`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = UNLIMITED,
        *,
        prompt: PromptKind = "alpaca",
        max_prompt_length: int = UNLIMITED,
    ) -> None:
        super().__init__(tokenizer, max_length)
        self.prompt, self.max_prompt_length = prompt, min(max_prompt_length, max_length - 1)

    @property
    def names(self) -> tuple[str, ...]:
        return ("input_ids", "attention_mask", "special_tokens_mask", "labels", "word_ids")

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(super().fingerprint, self.prompt, self.max_prompt_length)

    def within(self, positions: int) -> InstructionReader:
        return self.reading(min(positions, self.max_length), self.prompt, self.max_prompt_length)

    def reading(self, max_length: int, prompt: PromptKind, max_prompt_length: int) -> InstructionReader:
        """Return a reader with the same tokenizer and other settings."""
        return InstructionReader(self.tokenizer, max_length, prompt=prompt, max_prompt_length=max_prompt_length)

    def encode(
        self, split: Any, *, words: bool = False, notes: list[str] | None = None, part: str = "", **_: Any
    ) -> list[dict[str, Any]]:
        """Tokenise a split with the columns `instruction`, `input` and `references`.

        An example has `input_ids`, `attention_mask`, `special_tokens_mask`, `labels` (−100 on the prompt), `example_id`
        (its place among those that are left), `row` (its place in the split), `prompt_ids` and `references`. With
        `words` it has the `TokenWords` of the response, under this name. `notes` receives what was dropped and cut, and
        `part` is the name of the split there.

        Raises GeodistillError if no example is left, or the tokenizer has no end of sequence.
        """
        tokenizer, rows = self.tokenizer, split.to_list()
        if tokenizer.eos_token_id is None:
            raise GeodistillError(
                "The tokenizer has no end-of-sequence token, so a response could not end.",
                "Use the tokenizer of a language model, or give this one an eos_token.",
            )
        special = set(tokenizer.all_special_ids)
        prompts = encode_prompts(rows, tokenizer, self.prompt)
        kept = [place for place, prompt in enumerate(prompts) if len(prompt) <= self.max_prompt_length]
        if not kept:
            raise GeodistillError(
                f"All {len(rows)} {part} prompts are longer than {self.max_prompt_length} tokens.",
                "Raise data.max_prompt_length and data.max_length, or choose a shorter data.prompt.",
            )
        texts = [rows[place]["references"][0] for place in kept]
        tokens = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=words)
        examples: list[dict[str, Any]] = []
        too_long = 0
        for number, (place, response) in enumerate(zip(kept, tokens["input_ids"], strict=True)):
            prompt = prompts[place]
            whole = [*prompt, *response, tokenizer.eos_token_id]
            too_long += len(whole) > self.max_length
            example = {
                **labelled(whole[: self.max_length], len(prompt), special),
                "example_id": number,
                "row": place,
                "prompt_ids": prompt,
                "references": rows[place]["references"],
            }
            if words:
                offsets = tokens["offset_mapping"][number]
                example["words"] = response_words(texts[number], offsets, len(prompt), self.max_length)
            examples.append(example)
        said, length, longest = [], self.max_length, self.max_prompt_length
        if dropped := len(rows) - len(kept):
            said.append(f"{dropped} of the {len(rows)} {part} prompts are over {longest} tokens and were dropped.")
        if too_long:
            said.append(
                f"{too_long} of the {len(kept)} {part} responses were cut, at {length} tokens with their prompt."
            )
        if notes is not None:
            notes += [note for note in said if note not in notes]
        return examples

    def pad(self, examples: Sequence[Any]) -> dict[str, Any]:
        """Pad to the longest of a batch, on the right; if there is no padding token, with the end of sequence.

        The mask tells padding from an end of sequence that was written.
        """
        tokenizer = self.tokenizer
        padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        filling = {"input_ids": padding, "attention_mask": 0, "special_tokens_mask": 1, "labels": IGNORED_LABEL}
        batch: dict[str, Any] = {
            name: pad_sequence(
                [torch.tensor(example[name]) for example in examples], batch_first=True, padding_value=value
            )
            for name, value in filling.items()
            if name in examples[0]  # the Trainer leaves out what the model does not take
        }
        if "example_id" in examples[0]:
            batch["example_id"] = torch.tensor([example["example_id"] for example in examples])
        return batch


def encode_prompts(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, kind: PromptKind
) -> list[list[int]]:
    """Return the token ids of each row's prompt, with whatever the tokenizer begins a text with, once."""
    # A chat template writes its beginning itself.
    start = [] if kind == "chat" else beginning(tokenizer)
    prompts = _tokens([make_prompt(row, kind, tokenizer) for row in rows], tokenizer)
    return [ids if ids[: len(start)] == start else start + ids for ids in prompts]


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the tokenizer puts before every text, such as a beginning of sequence."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return whole[: next(place for place in range(len(whole)) if whole[place : place + len(text)] == text)]


def response_words(text: str, offsets: Sequence[Span], prompt: int, length: int) -> TokenWords:
    """Return the words of an example's response, which lies between a prompt of so many tokens and the end of sequence,
    cut at `length` tokens; its prompt has no words."""
    spans = [*[(0, 0)] * prompt, *offsets, (0, 0)]
    return token_words([text], spans[:length], [0] * min(length, len(spans)))


def _tokens(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def labelled(ids: list[int], prompt: int, special: Collection[int]) -> dict[str, list[int]]:
    """Return the columns of an example whose first `prompt` tokens are not learned."""
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "special_tokens_mask": [int(token in special) for token in ids],
        "labels": [IGNORED_LABEL] * prompt + ids[prompt:],
    }
