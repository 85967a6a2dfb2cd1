"""Which models cannot be a student or a teacher, told before anything is trained."""

from __future__ import annotations

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from geodistill.distillation.signals import model_inputs
from geodistill.errors import GeodistillError

PROBE_LENGTH = 8
# How much of what a token's own logits change the earlier ones may: rounding, where it hits other rows of a batch.
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-5}
ROUNDING_OF_LOW_PRECISION = 1e-2


def refuse_encoder_decoder(config: PretrainedConfig, name: str) -> None:
    """Refuse a model of an encoder and a decoder: it has two stacks of layers, and no one row of hidden states."""
    if config.is_encoder_decoder:
        raise GeodistillError(
            f"The model '{name}' ({config.model_type}) is an encoder–decoder, which has two stacks of layers.",
            "Use an encoder, such as BERT, or a decoder, such as Llama.",
        )


def check_causal(model: PreTrainedModel, name: str) -> None:
    """Refuse a language model whose logits depend on later tokens: it would read the response that it has to predict.

    Asked of the model itself, by two short texts that differ in their last token alone. A quantised model is not asked,
    since its rounding depends on all tokens.
    """
    if getattr(model, "is_quantized", False):
        return
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, PROBE_LENGTH), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % vocabulary
    training = model.training
    model.eval()
    with torch.no_grad():
        first, second = (
            model(**model_inputs(model, {"input_ids": each, "attention_mask": torch.ones_like(each)})).logits.float()
            for each in (ids.to(model.device), other.to(model.device))
        )
    model.train(training)
    change = (first - second).abs().amax(dim=-1)[0]
    if change[:-1].max() > ROUNDING.get(model.dtype, ROUNDING_OF_LOW_PRECISION) * change[-1]:
        raise GeodistillError(
            f"The model '{name}' ({type(model).__name__}) sees later tokens, so it would read what it has to predict.",
            "Use a causal language model, such as Llama or GPT-2; a BERT is one only if its config says is_decoder.",
        )


def tokenizer_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many logits of a language model stand for a token: the largest token id and one more."""
    return max(tokenizer.get_vocab().values()) + 1


def check_logits_of_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, whose: str) -> None:
    """Refuse a language model that has fewer logits than its tokenizer has tokens; it may have more, as padding."""
    has, needs = model.config.get_text_config().vocab_size, tokenizer_length(tokenizer)
    if has < needs:
        raise GeodistillError(
            f"The {whose} has logits for {has:,} tokens, and its tokenizer {needs:,} tokens.",
            "Use the tokenizer that the model was trained with, or call resize_token_embeddings and save the model.",
        )
