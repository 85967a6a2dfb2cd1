"""What a model returned: its logits and its loss, if it has any.

A head need not have logits (a bare model, question answering), and a model may return a tuple, a dictionary or a
tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from geodistill.errors import GeodistillError


def logits_of(outputs: Any) -> Tensor | None:
    """Return the logits that outputs have under this name; None if they have none, as a tuple never does."""
    return _entry(outputs, "logits")


def loss_of(outputs: Any) -> Tensor | None:
    """Return the loss that a model computed of its labels: the entry of this name or, as transformers orders a tuple,
    the first one if it is a scalar."""
    if isinstance(outputs, tuple):
        first = outputs[0] if outputs else None
        return first if isinstance(first, Tensor) and first.ndim == 0 else None
    return _entry(outputs, "loss")


def _entry(outputs: Any, name: str) -> Tensor | None:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def is_label(name: str) -> bool:
    """Tell whether an input of a model is one that it computes its loss from, by the names that transformers gives."""
    return "label" in name or name in ("start_positions", "end_positions")


def no_logits(side: str) -> GeodistillError:
    """What to say if a logit term finds no logits of the student or the teacher."""
    return GeodistillError(
        f"The objective has a logit term, but the {side} gives no logits.",
        f"Leave objective.logits out, or give the {side} with a head that returns them as 'logits'.",
    )


def no_label_loss(inputs: Mapping[str, Tensor]) -> GeodistillError:
    """What to say if a label term finds no loss: the data has no labels, or the student makes nothing of them."""
    if any(map(is_label, inputs)):
        return GeodistillError(
            "The objective has a label term, but the student computes no loss of the labels.",
            "Leave objective.label out, or give the student with a head that returns a loss.",
        )
    return GeodistillError(
        "The objective has a label term, but the data has no labels.",
        "Leave objective.label out, or use labelled data.",
    )
