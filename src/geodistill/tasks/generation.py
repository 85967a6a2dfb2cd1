"""Responses of a model to prompts: batched, left-padded, sampled from a seed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from geodistill.recipe import GenerationRecipe
from geodistill.tasks.text_reader import position_limit


@dataclass(frozen=True)
class Responses:
    """A response to each prompt, in order, as text and as tokens, these with the end of sequence that was written; how
    many tokens were written and the seconds they took; and how many responses had not ended at `max_new_tokens`, where
    they were cut."""

    texts: list[str]
    token_ids: list[list[int]]
    tokens: int
    seconds: float
    unfinished: int


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    recipe: GenerationRecipe,
    *,
    seed: int,
    title: str = "responses",
    progress: bool = True,
) -> Responses:
    """Let the model respond to prompts, given as token ids.

    Prompts go in batches of like length, padded on the left, longest first. A response ends at the model's or the
    tokenizer's end of sequence, or after `recipe.max_new_tokens`, or if the model has no more positions. With
    `recipe.sample` tokens are drawn from the softmax at `temperature`, cut to `top_p` and `top_k` (0: not cut), from
    `seed`; else the likeliest is taken. The global random state does not change; which draw meets which prompt
    depends on `recipe.batch_size`.
    """
    model.eval()
    device = next(model.parameters()).device
    ends = end_tokens(model, tokenizer)
    positions = position_limit(model)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    choice: dict[str, Any] = {"do_sample": recipe.sample}
    if recipe.sample:
        choice |= {"temperature": recipe.temperature, "top_p": recipe.top_p, "top_k": recipe.top_k}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    texts, token_ids = [""] * len(prompts), [[0]] * len(prompts)
    tokens = unfinished = 0
    started = time.perf_counter()
    devices = [device] if device.type == "cuda" else []
    bar = tqdm(total=len(prompts), desc=title, unit="prompt", disable=not progress, file=sys.stderr, leave=False)
    with torch.random.fork_rng(devices=devices), bar:
        torch.manual_seed(seed)
        for start in range(0, len(order), recipe.batch_size):
            places = order[start : start + recipe.batch_size]
            ids, mask = pad_left([prompts[place] for place in places], padding)
            written = model.generate(  # type: ignore[operator]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max(1, min(recipe.max_new_tokens, positions - ids.shape[1])),
                use_cache=True,  # many a trained model is saved without, and would read all again for each token
                pad_token_id=padding,
                eos_token_id=ends,
                **choice,
            )[:, ids.shape[1] :]
            for place, response in zip(places, written.tolist(), strict=True):
                length = next((i for i, token in enumerate(response) if token in ends), None)
                unfinished += length is None
                token_ids[place] = response if length is None else response[: length + 1]
                tokens += len(token_ids[place])
                texts[place] = str(tokenizer.decode(response[:length], skip_special_tokens=True))
            bar.update(len(places))
            bar.set_postfix({"tokens/s": round(tokens / (time.perf_counter() - started))}, refresh=False)
    return Responses(texts, token_ids, tokens, time.perf_counter() - started, unfinished)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end a response: the tokenizer's end of sequence, and what the generation config names."""
    known = model.generation_config.eos_token_id if model.generation_config is not None else None
    also = known if isinstance(known, list) else [known]
    return list(dict.fromkeys(token for token in [tokenizer.eos_token_id, *also] if token is not None))


def pad_left(sequences: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, both (b, t), of sequences padded on the left."""
    longest = max(map(len, sequences))
    ids = torch.tensor([[padding] * (longest - len(each)) + list(each) for each in sequences])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in sequences])
    return ids, mask
