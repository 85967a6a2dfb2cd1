from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from geodistill.tasks.responses import exact_match, perplexity, rouge_l


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_l_is_the_longest_common_subsequence_over_the_best_reference() -> None:
    response, references = "the red cat sat down", ["a dog ran", "the cat sat on the mat"]
    common = longest_common_subsequence(response.split(), references[1].split())
    precision, recall = common / 5, common / 6
    expected = 2 * precision * recall / (precision + recall)
    assert rouge_l([response, ""], [references, references]) == [pytest.approx(expected), 0.0]
    assert rouge_l(["Runs"], [["running"]]) == [1.0], "words are stemmed"


def test_exact_match_overlooks_case_and_outer_space_only() -> None:
    assert exact_match([" Paris\n", "paris france", ""], [["Lyon", "paris"], ["paris"], ["paris"]]) == [1.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes)).eval()


class Padder:
    """A reader of token ids."""

    def length(self, example: dict[str, list[int]]) -> int:
        return len(example["input_ids"])

    def collate(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(each["input_ids"]) for each in examples)
        fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([each[name] + [value] * (longest - len(each[name])) for each in examples])
            for name, value in fill.items()
        }


def test_perplexity_counts_response_tokens_whatever_the_batch(model: LlamaForCausalLM) -> None:
    generator = torch.Generator().manual_seed(1)
    encoded = []
    for length, prompt in ((5, 2), (9, 4), (3, 1), (7, 6)):
        ids = torch.randint(1, 50, (length,), generator=generator).tolist()
        labels = [-100] * prompt + ids[prompt:]
        encoded.append({"input_ids": ids, "attention_mask": [1] * length, "labels": labels})
    total, count = 0.0, 0
    for each in encoded:
        with torch.no_grad():
            log = model(torch.tensor([each["input_ids"]])).logits[0].double().log_softmax(-1)
        for place, label in enumerate(each["labels"]):
            if label != -100:
                total, count = total - float(log[place - 1, label]), count + 1
    expected = math.exp(total / count)
    for batch_size in (1, 3, 4):
        assert perplexity(model, encoded, Padder(), batch_size) == pytest.approx(expected, rel=1e-4)


def test_perplexity_out_of_range_is_infinite(model: LlamaForCausalLM) -> None:
    hopeless = LlamaForCausalLM(model.config)
    with torch.no_grad():
        hopeless.lm_head.weight.mul_(1e6)
    examples = [{"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [-100, 2]}]
    assert perplexity(hopeless, examples, Padder()) == math.inf
    assert perplexity(hopeless, [{**examples[0], "labels": [-100, -100]}], Padder()) == 1.0, "nothing is scored"
