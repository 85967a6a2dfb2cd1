"""Objectives of language models and token classifiers: which tokens' logits are compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from training import PADDING, Batch, Lecture, run
from transformers import LlamaConfig, LlamaForCausalLM

from geodistill.distillation.objective import labelled_tokens
from geodistill.distillation.signals import TeacherSignals
from geodistill.losses.logits import LogitLoss
from geodistill.losses.top_k import TopKLogits


def language_model(layers: int, width: int) -> LlamaForCausalLM:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": width}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, pad_token_id=PADDING, **sizes)).eval()


def make_text(side: str = "right", padding: int = 0) -> Batch:
    """Prompts of two tokens and their responses; what lies under the padding is no token's business."""
    ids = torch.randint(1, 50, (3, 8), generator=torch.Generator().manual_seed(4))
    attention = (torch.arange(8) < torch.tensor([8, 5, 6])[:, None]).long()
    batch = {"input_ids": ids * attention, "attention_mask": attention}
    batch["labels"] = ids.where((attention > 0) & (torch.arange(8) >= 2), -100)
    fills = {"input_ids": PADDING, "attention_mask": 0, "labels": -100}
    if side == "left":
        batch = {
            name: torch.stack([row.roll(8 - size) for row, size in zip(value, (8, 5, 6), strict=True)])
            for name, value in batch.items()
        }
    width = (padding, 0) if side == "left" else (0, padding)
    return {name: functional.pad(value, width, value=fills[name]) for name, value in batch.items()}


@pytest.fixture
def speakers() -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    torch.manual_seed(5)
    return language_model(1, 8), language_model(2, 16)


def test_token_logits_are_compared_where_the_response_is_predicted(speakers: Any) -> None:
    student, teacher = speakers
    term = {"weight": 0.4, "temperature": 1.5, "divergence": "jensen_shannon", "beta": 0.2}
    lecture = Lecture(student, teacher, {"label": {}, "logits": term})
    batch = make_text()
    result = lecture(batch)
    s, t = run(student, batch), run(teacher, batch)
    before = [(row, place - 1) for row, place in (batch["labels"] != -100).nonzero().tolist()]
    assert len(before) == (8 + 5 + 6) - 3 * 2
    rows = [torch.stack([side.logits[where] for where in before]) for side in (s, t)]
    expected = LogitLoss(1.5, divergence="jensen_shannon", beta=0.2)(*rows)
    torch.testing.assert_close(result.terms["logits"], expected.detach())
    torch.testing.assert_close(result.loss, s.loss + 0.4 * expected)
    # Who runs the student has all of its logits, and gets the same.
    torch.testing.assert_close(lecture.objective(s, {}, lecture.source(batch), batch).loss, result.loss)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_of_token_logits_changes_nothing(speakers: Any, side: str) -> None:
    lecture = Lecture(*speakers, {"logits": {"divergence": "reverse_kl"}})
    expected = lecture(make_text()).loss
    torch.testing.assert_close(lecture(make_text(side, padding=3)).loss, expected)
    torch.testing.assert_close(lecture(make_text(side)).loss, expected)


def test_token_logits_without_labels_are_compared_wherever_there_is_text(speakers: Any) -> None:
    lecture = Lecture(*speakers, {"logits": {}})
    batch = make_text()
    s, t = (run(side, batch).logits for side in speakers)
    del batch["labels"]
    torch.testing.assert_close(lecture(batch).loss, LogitLoss()(s, t, batch["attention_mask"]))
    del batch["attention_mask"]
    s, t = (run(side, batch).logits for side in speakers)
    torch.testing.assert_close(lecture(batch).loss, LogitLoss()(s, t))


def test_a_token_classifier_is_compared_where_its_own_tokens_have_labels() -> None:
    logits, labels = torch.zeros(2, 3, 5), torch.tensor([[-100, 1, 2], [4, -100, 0]])
    attention = torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = {"labels": labels, "attention_mask": attention}
    assert labelled_tokens(logits, batch).tolist() == [[False, True, True], [True, False, False]]
    assert labelled_tokens(logits, {"labels": labels}).tolist() == [[False, True, True], [True, False, True]]
    assert torch.equal(labelled_tokens(logits, {"attention_mask": attention}), attention)
    assert labelled_tokens(logits, {}) is None and labelled_tokens(logits[0], batch) is None


def test_a_batch_without_a_response_gives_no_loss(speakers: Any) -> None:
    lecture = Lecture(*speakers, {"logits": {}})
    batch = make_text()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    result = lecture(batch)
    result.loss.backward()
    assert result.loss.item() == 0


def test_the_largest_logits_do_for_the_term(speakers: Any) -> None:
    lecture = Lecture(*speakers, {"logits": {"temperature": 3.0}})
    batch = make_text()
    logits = lecture.source(batch).logits
    losses = [lecture(batch, signals=TeacherSignals(TopKLogits.of(logits, k, 3.0))).loss for k in (5, 20, 50)]
    assert 0 < losses[0] < losses[1] < losses[2]
    torch.testing.assert_close(losses[2], lecture(batch).loss)
