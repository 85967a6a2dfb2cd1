"""How good responses are: ROUGE-L, exact match, and the perplexity of the references."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedModel

from geodistill.distillation.sides import Reader
from geodistill.distillation.signals import model_inputs
from geodistill.features import next_token_loss, only_scored, scored_logits, scored_tokens
from geodistill.tasks.task import EncodedExamples, batches


def rouge_l(responses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each response, in [0, 1]: the F-measure of the longest common subsequence of stemmed words, best over
    its references (Lin 2004; by `rouge_score`)."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [
        max(scorer.score(reference, response)["rougeL"].fmeasure for reference in given)
        for response, given in zip(responses, references, strict=True)
    ]


def exact_match(responses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 if a response is one of its references, white space at the ends and case aside, else 0."""
    return [
        float(response.strip().casefold() in {reference.strip().casefold() for reference in given})
        for response, given in zip(responses, references, strict=True)
    ]


@torch.no_grad()
def perplexity(model: PreTrainedModel, encoded: EncodedExamples, reader: Reader, batch_size: int = 8) -> float:
    """exp of the mean cross-entropy of the labelled tokens, those of the (first) references; at least 1.

    A mean over tokens, not over examples. Infinite if it leaves the range of a float.
    """
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in batches(encoded, reader, batch_size):
        scored = scored_tokens(model, batch)
        assert scored is not None  # the model is a causal one
        scored = scored.to(device)
        inputs = model_inputs(model, {name: value.to(device) for name, value in batch.items()})
        with only_scored(model, scored):
            logits = scored_logits(model(**inputs).logits, scored)
        if len(logits):
            total += len(logits) * float(next_token_loss(logits, batch["labels"].to(device), scored))
            count += len(logits)
    try:
        return math.exp(total / max(1, count))
    except OverflowError:
        return math.inf
