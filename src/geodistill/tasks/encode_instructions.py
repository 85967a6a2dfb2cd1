"""From instructions to token ids: prompt and response apart, and labels on the response alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from geodistill.data.instructions import Instructions
from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL, TokenWords, token_words
from geodistill.features.words import Span
from geodistill.recipe import DataRecipe, PromptKind
from geodistill.tasks.prompts import make_prompt
from geodistill.tasks.task import Collator, Encoded


def encode_instructions(
    instructions: Instructions,
    tokenizer: PreTrainedTokenizerBase,
    recipe: DataRecipe,
    position_limit: int,
    notes: list[str] | None = None,
    *,
    words: bool = False,
) -> Encoded:
    """Tokenise every split once, for a model with `position_limit` positions.

    Prompt and response are tokenised each by itself, so no token is half of one and half of the other, and what follows
    a prompt in training is what follows it in generation. Where the tokenizer begins a text with a token of its own it
    is there once; the response ends with the end of sequence.

    An example has `input_ids`, `attention_mask`, `special_tokens_mask`, `labels` (−100 on the prompt), `example_id`
    (its place in the encoded split) and `row` (its place in `instructions.splits`). In all splits but `train` it has
    `prompt_ids` and `references` as well. With `words` it has the `TokenWords` of the response, under this name.

    As in MiniLLM, prompts over `recipe.max_prompt_length` are dropped, and a response is cut, its end of sequence with
    it, where prompt and response are over `instructions.max_length` together. Both are counted in `notes`.
    Raises GeodistillError where no example is left, or the tokenizer has no end of sequence.
    """
    if tokenizer.eos_token_id is None:
        raise GeodistillError(
            "The tokenizer has no end-of-sequence token, so a response could not end.",
            "Use the tokenizer of a language model, or give this one an eos_token.",
        )
    length = min(instructions.max_length, position_limit)
    longest = min(recipe.max_prompt_length, length - 1)
    special = set(tokenizer.all_special_ids)
    encoded: Encoded = {}
    said: list[str] = []
    for name, split in instructions.splits.items():
        part, rows = str(name), split.to_list()
        prompts = encode_prompts(rows, tokenizer, recipe.prompt)
        kept = [place for place, prompt in enumerate(prompts) if len(prompt) <= longest]
        if not kept:
            raise GeodistillError(
                f"All {len(rows)} {part} prompts are longer than {longest} tokens.",
                "Raise data.max_prompt_length and data.max_length, or choose a shorter data.prompt.",
            )
        texts = [rows[place]["references"][0] for place in kept]
        tokens = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=words)
        responses = tokens["input_ids"]
        whole = [[*prompts[place], *ids, tokenizer.eos_token_id] for place, ids in zip(kept, responses, strict=True)]
        encoded[part] = [
            {
                **labelled(ids[:length], len(prompts[place]), special),
                "example_id": number,
                "row": place,
                **(
                    {
                        "words": response_words(
                            texts[number], tokens["offset_mapping"][number], len(prompts[place]), length
                        )
                    }
                    if words
                    else {}
                ),
                **({} if part == "train" else {"prompt_ids": prompts[place], "references": rows[place]["references"]}),
            }
            for number, (place, ids) in enumerate(zip(kept, whole, strict=True))
        ]
        if dropped := len(rows) - len(kept):
            said.append(f"{dropped} of the {len(rows)} {part} prompts are over {longest} tokens and were dropped.")
        if cut := sum(len(ids) > length for ids in whole):
            said.append(f"{cut} of the {len(kept)} {part} responses were cut, at {length} tokens with their prompt.")
    if notes is not None:
        notes += [note for note in said if note not in notes]
    return encoded


def encode_prompts(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, kind: PromptKind
) -> list[list[int]]:
    """Return the token ids of each row's prompt, with whatever the tokenizer begins a text with, once."""
    # A chat template writes its beginning itself.
    start = [] if kind == "chat" else beginning(tokenizer)
    prompts = _tokens([make_prompt(row, kind, tokenizer) for row in rows], tokenizer)
    return [ids if ids[: len(start)] == start else start + ids for ids in prompts]


def collate_instructions(tokenizer: PreTrainedTokenizerBase) -> Collator:
    """Pad to the longest of a batch, on the right; where there is no padding token, with the end of sequence.

    The mask tells padding from an end of sequence that was written.
    """
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    filling = {"input_ids": padding, "attention_mask": 0, "special_tokens_mask": 1, "labels": IGNORED_LABEL}

    def collate(examples: list[Any]) -> dict[str, Any]:
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

    return collate


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
    """Return the columns of an example whose first `prompt` tokens are not learnt."""
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "special_tokens_mask": [int(token in special) for token in ids],
        "labels": [IGNORED_LABEL] * prompt + ids[prompt:],
    }
