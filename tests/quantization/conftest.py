"""Tiny models of random weights, one of each kind of layer that is quantised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from geodistill.models import CifarResNetConfig, CifarResNetForImageClassification

TOKENS = torch.arange(24).view(4, 6) % 40


def bert() -> nn.Module:
    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=3, **shape))


def llama(**more: Any) -> nn.Module:
    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, max_position_embeddings=16, **shape, **more))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2))


def resnet8() -> nn.Module:
    return CifarResNetForImageClassification(CifarResNetConfig(depth=8, widths=(4, 4, 8, 8), num_labels=3))


class Signal(nn.Module):
    """A convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 4, 3, padding=2, padding_mode="circular")
        self.body = nn.Conv1d(4, 4, 3, groups=2, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(x)))).mean(-1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "llama": llama,
    "gpt2": gpt2,
    "resnet8": resnet8,
    "signal": Signal,
}
INPUTS: dict[str, Any] = {
    "bert": {"input_ids": TOKENS},
    "llama": {"input_ids": TOKENS},
    "gpt2": {"input_ids": TOKENS},
    "resnet8": {"pixel_values": torch.linspace(-2, 2, 3 * 3 * 8 * 8).view(3, 3, 8, 8).sin()},
    "signal": torch.linspace(-2, 2, 3 * 2 * 12).view(3, 2, 12).sin(),
}


def outputs(model: nn.Module, batch: Any) -> Tensor:
    return model(batch) if isinstance(batch, Tensor) else model(**batch).logits


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(MODELS))
def named(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    """Each model in evaluation mode, and a batch for it."""
    return MODELS[request.param]().eval(), INPUTS[request.param]


@pytest.fixture
def make() -> Callable[[str], nn.Module]:
    return lambda name: MODELS[name]().eval()


@pytest.fixture
def batch_of() -> dict[str, Any]:
    return INPUTS


@pytest.fixture
def logits() -> Callable[[nn.Module, Any], Tensor]:
    return outputs
