"""How good responses are: ROUGE-L, exact match, and the perplexity of the references."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch.nn import functional
from transformers import PreTrainedModel

from geodistill.distillation.teacher import model_inputs
from geodistill.tasks.task import Collator, EncodedExamples, batches


def rouge_l(responses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """ROUGE-L of each response, in [0, 1]: the F-measure of the longest common subsequence of stemmed words, best over
    its references (Lin 2004; by `rouge_score`)."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [
        max(scorer.score(reference, response)["rougeL"].fmeasure for reference in given)
        for response, given in zip(responses, references, strict=True)
    ]


def exact_match(responses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """1 where a response is one of its references, white space at the ends and case aside, else 0."""
    return [
        float(response.strip().casefold() in {reference.strip().casefold() for reference in given})
        for response, given in zip(responses, references, strict=True)
    ]


@torch.no_grad()
def perplexity(model: PreTrainedModel, encoded: EncodedExamples, collate: Collator, batch_size: int = 8) -> float:
    """exp of the mean cross-entropy of the labelled tokens, those of the (first) references; at least 1.

    A mean over tokens, not over examples. Infinite where it leaves the range of a float.
    """
    model.eval()
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for batch in batches(encoded, collate, batch_size):
        inputs = {name: value.to(device) for name, value in model_inputs(model, batch).items()}
        labels = batch["labels"][:, 1:].to(device)
        logits = model(**inputs).logits[:, :-1][labels != -100].float()
        total += float(functional.cross_entropy(logits, labels[labels != -100], reduction="sum"))
        count += len(logits)
    try:
        return math.exp(total / max(1, count))
    except OverflowError:
        return math.inf
