"""A causal language model's logits where they are scored, and nowhere else.

The head is as wide as the vocabulary, so it is most of a small model's work, and a response is a small part of its
tokens: what no term reads is not computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from geodistill.features.rows import IGNORED_LABEL, response_logits_mask


def is_causal(model: nn.Module) -> bool:
    """Tell whether a model gives logits for each next token, which is how transformers scores it against its labels."""
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        return False  # such as BertForPreTraining, which has a language-model head and another one
    # Classes that transformers has no loss for by name, such as GPT2LMHeadModel, get that of causal models.
    kind = getattr(model, "loss_type", None)
    return kind in (None, "ForCausalLM") and not model.config.is_encoder_decoder and _head(model) is not None


def scored_tokens(model: nn.Module, inputs: Mapping[str, Tensor], *, wanted: bool = True) -> Tensor | None:
    """Return at which tokens (b, t) the logits of a causal language model are scored; None for any other model.

    If logits are not `wanted`, they are scored nowhere.
    """
    if not is_causal(model):
        return None
    return next_tokens_scored(inputs) if wanted else torch.zeros_like(inputs["input_ids"], dtype=torch.bool)


def next_tokens_scored(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return before which tokens (b, t) a causal language model is scored: before those with a label or, where the
    batch has no labels for tokens, at all that are attended."""
    attended, labels = inputs.get("attention_mask"), inputs.get("labels")
    if labels is not None and labels.ndim == 2:
        return response_logits_mask(labels, attended)
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if attended is None else attended != 0


def count_scored(inputs: Mapping[str, Tensor], *, causal: bool) -> Tensor:
    """Return over how much of a batch its label loss is a mean: the scored tokens of a causal model or the labelled
    ones of a token classifier; of any other the examples."""
    if causal:
        return next_tokens_scored(inputs).sum()
    tokens, labels = inputs.get("input_ids"), inputs.get("labels")
    if tokens is not None and labels is not None and labels.shape == tokens.shape:
        return (labels != IGNORED_LABEL).sum()
    examples = next(iter(inputs.values())) if tokens is None else tokens
    return torch.tensor(len(examples), device=examples.device)


@contextmanager
def only_scored(model: nn.Module, scored: Tensor | None) -> Iterator[None]:
    """Within it the model's head sees the tokens where `scored` (b, t) is true alone; all of them with None.

    Its logits are then (r, V), a row for each of these tokens in their order. Read them by `scored_logits`, which
    serves a model whose code goes round its own head as well.
    """

    def select(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = args
        return (hidden[scored], *others) if hidden.shape[:-1] == scored.shape else args  # type: ignore[union-attr]

    head = None if scored is None else _head(model)
    handle = None if head is None else head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def scored_logits(logits: Tensor, scored: Tensor | None) -> Tensor:
    """Return the logits (r, V) of the scored tokens; with None, all logits unchanged."""
    return logits if scored is None or logits.ndim == 2 else logits[scored]


def next_token_loss(logits: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
    """The mean cross-entropy of the tokens that follow the scored ones, in nats: what transformers computes of all
    logits and labels (b, t), from the logits (r, V) of the `scored` (b, t) alone. If there is none, a zero that can
    be differentiated.

    A token that follows no attended one, such as the first of a text that was padded on the left, is not scored.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    total = functional.cross_entropy(logits.to(dtype), labels[:, 1:][scored[:, :-1]], reduction="sum")
    return total / max(1, len(logits))


def _head(model: Any) -> Any:
    return model.get_output_embeddings()
