"""Decoders small enough to train in seconds, of their own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

from geodistill.data.examples import load_examples
from geodistill.recipe import DataRecipe

THINGS = ("river", "engine", "painter", "island", "number", "letter")


@pytest.fixture(scope="session")
def instruction_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty instructions with one word to repeat, two references each."""
    rows = [
        {
            "instruction": "Repeat the word." if place % 2 else "Say the word twice.",
            "input": f"{THINGS[place % 6]} {place}",
            "output": [THINGS[place % 6], f"the {THINGS[place % 6]}"],
        }
        for place in range(40)
    ]
    path = tmp_path_factory.mktemp("instructions") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def byte_pairs(texts: list[str], size: int, special_tokens: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of the texts' own words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


@pytest.fixture(scope="session", params=["opt", "llama"])
def decoder(request: pytest.FixtureRequest, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model of random weights with a tokenizer of the instructions, in a folder."""
    backend = byte_pairs([instruction_file.read_text(encoding="utf-8")], 320, ["</s>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 4, "num_attention_heads": 4}
    ends: dict[str, Any] = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": 0}
    model: Any
    if request.param == "opt":
        model = OPTForCausalLM(OPTConfig(hidden_size=32, ffn_dim=64, word_embed_proj_dim=32, **shared, **ends))
    else:
        model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, **shared, **ends))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of random weights, four layers × 32, and a byte-level BPE tokenizer that has no padding token."""
    backend = byte_pairs(load_examples(DataRecipe()).splits["validation"]["text"], 500, ["<end>"])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=0, **sizes))
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
