from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput, SequenceClassifierOutput

from geodistill.distillation.outputs import is_label, logits_of, loss_of

LOSS, LOGITS = torch.tensor(1.0), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("outputs", "logits", "loss"),
    [
        (SequenceClassifierOutput(loss=LOSS, logits=LOGITS), LOGITS, LOSS),
        (SequenceClassifierOutput(logits=LOGITS), LOGITS, None),
        (QuestionAnsweringModelOutput(loss=LOSS, start_logits=LOGITS, end_logits=LOGITS), None, LOSS),
        (BaseModelOutput(last_hidden_state=LOGITS), None, None),
        ({"logits": LOGITS}, LOGITS, None),
        (SimpleNamespace(logits=LOGITS, loss=LOSS), LOGITS, LOSS),
        ((LOSS, LOGITS), None, LOSS),
        ((LOGITS,), None, None),
        ((), None, None),
        (LOGITS, None, None),
        (None, None, None),
    ],
)
def test_what_outputs_of_any_kind_have(outputs: Any, logits: Any, loss: Any) -> None:
    assert logits_of(outputs) is logits
    assert loss_of(outputs) is loss


def test_inputs_that_a_loss_is_computed_from() -> None:
    labels = ["labels", "label", "label_ids", "next_sentence_label", "start_positions", "end_positions"]
    assert all(map(is_label, labels))
    assert not any(map(is_label, ["input_ids", "attention_mask", "position_ids", "token_type_ids"]))
