from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

from geodistill.distillation.students.architecture import (
    check_causal,
    check_logits_of_tokens,
    refuse_encoder_decoder,
    tokenizer_length,
)
from geodistill.errors import GeodistillError

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SPEAKER = {**SIZES, "vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
XLNET = {"vocab_size": 60, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}
GPT2 = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}


def speaker(family: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))


@pytest.mark.parametrize("family, settings", [("bert", SPEAKER), ("electra", SPEAKER), ("xlnet", XLNET)])
def test_a_model_that_sees_later_tokens_is_no_language_model(family: str, settings: dict[str, Any]) -> None:
    with pytest.raises(GeodistillError, match=r"'some/model' .* sees later tokens"):
        check_causal(speaker(family, settings), "some/model")


@pytest.mark.parametrize(
    "family, settings",
    [
        ("bert", {**SPEAKER, "is_decoder": True}),
        ("gpt2", GPT2),
        ("llama", SPEAKER),
        ("mixtral", {**SPEAKER, "num_key_value_heads": 2, "num_local_experts": 4}),
    ],
)
def test_a_causal_model_is_taken_and_left_as_it_was(family: str, settings: dict[str, Any]) -> None:
    model = speaker(family, settings).train()
    before = torch.get_rng_state()
    check_causal(model, "some/model")
    check_causal(model.bfloat16(), "some/model")
    assert model.training and torch.equal(torch.get_rng_state(), before)


def test_encoder_decoders_are_refused_by_name() -> None:
    for config in (BartConfig(), T5Config()):
        with pytest.raises(GeodistillError, match=f"'some/model' .{config.model_type}. is an encoder–decoder"):
            refuse_encoder_decoder(config, "some/model")
    refuse_encoder_decoder(BertConfig(), "some/model")


def test_logits_may_be_more_than_the_tokens_but_not_fewer() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 7}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert tokenizer_length(tokenizer) == 8, "a token id may be left out"
    check_logits_of_tokens(speaker("llama", SPEAKER), tokenizer, "student")
    with pytest.raises(GeodistillError, match="The student has logits for 7 tokens, and its tokenizer 8"):
        check_logits_of_tokens(speaker("llama", {**SPEAKER, "vocab_size": 7}), tokenizer, "student")
