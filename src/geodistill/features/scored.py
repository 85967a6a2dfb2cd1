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
    """Tell whether a model gives logits for each next token, which is how transformers scores it against its labels.

    Args:
        model: any module.

    Returns:
        True for causal language models.

    Example:
        is_causal(AutoModelForCausalLM.from_pretrained("gpt2"))  # True
    """
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        return False  # such as BertForPreTraining, which has a language-model head and another one
    # Classes that transformers has no loss for by name, such as GPT2LMHeadModel, get that of causal models.
    kind = getattr(model, "loss_type", None)
    return kind in (None, "ForCausalLM") and not model.config.is_encoder_decoder and _head(model) is not None


def scored_tokens(model: nn.Module, inputs: Mapping[str, Tensor], *, wanted: bool = True) -> Tensor | None:
    """Return at which tokens the logits of a causal language model are scored.

    Args:
        model: any module.
        inputs: a batch of the model.
        wanted: whether any logits are; otherwise they are scored nowhere.

    Returns:
        A boolean mask (b, t), or None for any other model.

    Example:
        with only_scored(model, scored_tokens(model, batch)):
            outputs = model(**batch)
    """
    if not is_causal(model):
        return None
    return next_tokens_scored(inputs) if wanted else torch.zeros_like(inputs["input_ids"], dtype=torch.bool)


def next_tokens_scored(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return before which tokens a causal language model is scored.

    These are the places before tokens with a label. If the batch has no labels for tokens, they are all attended
    places.

    Args:
        inputs: a batch, with `input_ids` (b, t) and possibly `attention_mask` and `labels`.

    Returns:
        A boolean mask (b, t).

    Example:
        next_tokens_scored(batch).sum()
    """
    attended, labels = inputs.get("attention_mask"), inputs.get("labels")
    if labels is not None and labels.ndim == 2:
        return response_logits_mask(labels, attended)
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if attended is None else attended != 0


def count_scored(inputs: Mapping[str, Tensor], *, causal: bool) -> Tensor:
    """Return the number of things that the label loss of a batch is a mean over.

    These are the scored tokens of a causal model, the labelled tokens of a token classifier, and the examples of any
    other model.

    Args:
        inputs: a batch.
        causal: whether the model is a causal language model.

    Returns:
        The number, a tensor on the batch's device.

    Example:
        count_scored(batch, causal=is_causal(model))
    """
    if causal:
        return next_tokens_scored(inputs).sum()
    tokens, labels = inputs.get("input_ids"), inputs.get("labels")
    if tokens is not None and labels is not None and labels.shape == tokens.shape:
        return (labels != IGNORED_LABEL).sum()
    examples = next(iter(inputs.values())) if tokens is None else tokens
    return torch.tensor(len(examples), device=examples.device)


@contextmanager
def only_scored(model: nn.Module, scored: Tensor | None) -> Iterator[None]:
    """Let the model's head see only the tokens where `scored` is true.

    Its logits are then (r, V), a row for each of these tokens in their order. Read them by `scored_logits`, which also
    serves a model whose code bypasses the head.

    Args:
        model: a causal language model.
        scored: (b, t), boolean. None: the head sees all tokens.

    Yields:
        Nothing; the model is as before after the block.

    Example:
        with only_scored(model, scored):
            logits = scored_logits(model(**batch).logits, scored)
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
    """Return the logits of the scored tokens.

    Args:
        logits: (b, t, V), or (r, V) of a model that ran within `only_scored`.
        scored: (b, t), boolean. None: all tokens.

    Returns:
        Logits (r, V); with None, all logits unchanged.

    Example:
        rows = scored_logits(outputs.logits, scored)
    """
    return logits if scored is None or logits.ndim == 2 else logits[scored]


def next_token_loss(logits: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
    """The mean cross-entropy of the tokens that follow the scored ones, in nats.

    It is what transformers computes from all logits and labels (b, t). A token that follows no attended token, such as
    the first token of a text that was padded on the left, is not scored.

    Args:
        logits: (r, V), of the scored tokens alone.
        labels: (b, t).
        scored: (b, t), boolean, with r true entries.

    Returns:
        A scalar; if no token is scored, a zero that can be differentiated.

    Example:
        loss = next_token_loss(logits[scored], labels, scored)
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    total = functional.cross_entropy(logits.to(dtype), labels[:, 1:][scored[:, :-1]], reduction="sum")
    return total / max(1, len(logits))


def _head(model: Any) -> Any:
    return model.get_output_embeddings()
