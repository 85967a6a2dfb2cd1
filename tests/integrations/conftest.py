"""Language models of a few thousand weights, and a tokenizer that is trained on lines like those that they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LINES = ["What comes after that in the row of numbers?", "After this comes that, of course."]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def language_model(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Make a Llama or a GPT-2 of so many layers and so wide, with random weights."""

    def make(layers: int, width: int, *, seed: int = 0, family: str = "llama") -> Any:
        torch.manual_seed(seed)
        ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        if family == "gpt2":
            dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return GPT2LMHeadModel(GPT2Config(**ids, **dropout, n_embd=width, n_layer=layers, n_head=2))
        shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 2 * width}
        return LlamaForCausalLM(LlamaConfig(**ids, **shape, num_attention_heads=2))

    return make
