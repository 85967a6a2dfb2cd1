from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from geodistill.features import count_scored, is_causal, next_token_loss, only_scored, scored_logits, scored_tokens

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
OPT = {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 8, "max_position_embeddings": 32, "do_layer_norm_before": False}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
CAUSAL = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=1, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT)),
}
OTHERS = {
    "sequence": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
    "llama sequence": lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES, num_key_value_heads=1)),
    "tokens": lambda: BertForTokenClassification(BertConfig(**SIZES)),
    "masked": lambda: BertForMaskedLM(BertConfig(**SIZES)),
    "backbone": lambda: BertModel(BertConfig(**SIZES)),
    "decoder backbone": lambda: GPT2Model(GPT2Config(**GPT2)),
    "encoder-decoder": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    ),
}


@pytest.fixture(params=CAUSAL)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return CAUSAL[request.param]().eval()


def make_batch(side: str = "right") -> dict[str, torch.Tensor]:
    """Three texts of 9, 4 and 7 tokens, whose first two are a prompt."""
    rows = []
    for length in (9, 4, 7):
        ids = torch.randint(1, 50, (length,), generator=torch.Generator().manual_seed(length))
        columns = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
        columns["labels"][:2] = -100
        width = (0, 9 - length) if side == "right" else (9 - length, 0)
        rows.append({n: functional.pad(v, width, value=-100 if n == "labels" else 0) for n, v in columns.items()})
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_which_models_are_causal(model: Any) -> None:
    assert is_causal(model)


@pytest.mark.parametrize("name", OTHERS)
def test_which_are_not(name: str) -> None:
    other = OTHERS[name]()
    assert not is_causal(other)
    assert scored_tokens(other, make_batch()) is None


@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_and_loss_are_those_of_the_whole(model: Any, side: str) -> None:
    batch = make_batch(side)
    whole = model(**batch)
    scored = scored_tokens(model, batch)
    assert scored is not None
    assert scored[:, :-1].tolist() == (batch["labels"][:, 1:] != -100).tolist()
    with only_scored(model, scored):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert logits.shape == (7 + 2 + 5, 50)
    torch.testing.assert_close(logits, whole.logits[scored])
    torch.testing.assert_close(scored_logits(whole.logits, scored), logits)
    loss = next_token_loss(logits, batch["labels"], scored)
    torch.testing.assert_close(loss, whole.loss)
    expected = torch.autograd.grad(whole.loss, list(model.parameters()))
    for ours, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_afterwards_and_without_a_mask_the_model_gives_all_logits(model: Any) -> None:
    batch = make_batch()
    scored = scored_tokens(model, batch)
    with pytest.raises(RuntimeError, match="stop"), only_scored(model, scored):
        raise RuntimeError("stop")
    with only_scored(model, None):
        assert model(batch["input_ids"]).logits.shape == (3, 9, 50)


def test_without_labels_the_attended_tokens_are_scored(model: Any) -> None:
    batch = make_batch("left")
    del batch["labels"]
    assert torch.equal(scored_tokens(model, batch), batch["attention_mask"] == 1)
    del batch["attention_mask"]
    assert scored_tokens(model, batch).all()


def test_no_scored_token_gives_no_logits_and_no_loss(model: Any) -> None:
    batch = make_batch()
    batch["labels"][:] = -100
    scored = scored_tokens(model, batch)
    with only_scored(model, scored):
        logits = model(batch["input_ids"]).logits
    assert logits.shape == (0, 50)
    loss = next_token_loss(logits, batch["labels"], scored)
    loss.backward()
    assert loss.item() == 0


def test_a_model_that_goes_round_its_head_is_read_all_the_same(model: Any) -> None:
    batch = make_batch()
    scored = scored_tokens(model, batch)
    model.lm_head.register_forward_hook(lambda module, args, output: torch.zeros(3, 9, 50))
    with only_scored(model, scored):
        logits = model(batch["input_ids"]).logits
    assert scored_logits(logits, scored).shape == (14, 50)


def test_the_loss_of_half_precision_logits_is_taken_in_float32() -> None:
    logits, labels = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)), torch.tensor([[7, 1, 2, 3]])
    scored = torch.tensor([[True, True, True, False]])
    half = next_token_loss(logits.bfloat16(), labels, scored)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, functional.cross_entropy(logits.bfloat16().float(), labels[0, 1:]))
    assert next_token_loss(logits.double(), labels, scored).dtype == torch.float64


def test_what_a_label_loss_is_a_mean_over() -> None:
    batch = make_batch()
    assert count_scored(batch, causal=True) == 7 + 2 + 5
    assert count_scored(batch, causal=False) == 7 + 2 + 5
    batch["labels"][:, 0] = 1  # the first token follows none
    assert count_scored(batch, causal=True) == 14 and count_scored(batch, causal=False) == 17
    assert count_scored({**batch, "labels": torch.tensor([0, 1, 2])}, causal=False) == 3
    assert count_scored({**batch, "labels": torch.zeros(3, 4)}, causal=False) == 3, "several labels for each text"
    del batch["labels"]
    assert count_scored(batch, causal=False) == 3 and count_scored(batch, causal=True) == 20
