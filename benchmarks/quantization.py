"""What fake quantisation adds to a training step: forward, backward and optimiser of a student with its label loss.

    python benchmarks/quantization.py [--rounds 15] [--settings 3] [--threads 1]

The same student with float weights and with quantisers, the candidates in turn. The median over rounds of the ratio to
the float32 step of the same round counts. "forward" is the evaluation pass alone, its ratio likewise.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import interleaved, prepared
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from geodistill.models import CifarResNetConfig, CifarResNetForImageClassification
from geodistill.quantization import calibrate, quantize
from geodistill.recipe import QuantizationRecipe

Setting = tuple[PreTrainedModel, dict[str, Tensor]]
CANDIDATES: dict[str, QuantizationRecipe | None] = {
    "float32": None,
    "W8A8": QuantizationRecipe(),
    "W4A4": QuantizationRecipe(weights=4, activations=4),
    "W4, float inputs": QuantizationRecipe(weights=4, activations=None),
    "W4A4, no channels": QuantizationRecipe(weights=4, activations=4, per_channel=False),
}


def main() -> None:
    arguments = prepared(__doc__, len(SETTINGS))
    for title, make in list(SETTINGS.items())[: arguments.settings]:
        print(f"\n{title}\n{'':<20}{'step ms':>9}{'÷ float32':>11}{'forward ms':>12}{'÷ float32':>11}")
        for line in lines(*make(), arguments.rounds):
            print(line, flush=True)


def lines(student: PreTrainedModel, batch: dict[str, Tensor], rounds: int) -> list[str]:
    """One line a candidate."""
    students = {name: quantized(student, recipe, batch) for name, recipe in CANDIDATES.items()}
    steps = interleaved({name: step(each, batch) for name, each in students.items()}, rounds)
    passes = interleaved({name: forward(each, batch) for name, each in students.items()}, rounds)
    found = []
    for name in CANDIDATES:
        numbers = []
        for times in (steps, passes):
            ratios = [own / plain for own, plain in zip(times[name], times["float32"], strict=True)]
            numbers += [1e3 * statistics.median(times[name]), statistics.median(ratios)]
        found.append("{:<20}{:9.1f}{:11.2f}{:12.1f}{:11.2f}".format(name, *numbers))
    return found


def quantized(student: PreTrainedModel, recipe: QuantizationRecipe | None, batch: dict[str, Tensor]) -> PreTrainedModel:
    student = copy.deepcopy(student)
    if recipe is not None:
        quantize(student, recipe)
        calibrate(student, [batch], recipe)
    return student


def step(student: PreTrainedModel, batch: dict[str, Tensor]) -> Callable[[], None]:
    """A training step, whole."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)  # as the Trainer does

    def run() -> None:
        student.train()
        student(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def forward(student: PreTrainedModel, batch: dict[str, Tensor]) -> Callable[[], Any]:
    def run() -> Any:
        student.eval()
        with torch.no_grad():
            return student(**batch)

    return run


def bert(layers: int, width: int, sentences: int = 32, length: int = 16) -> Setting:
    """A BERT of random weights, and random tokens without padding."""
    shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    student = BertForSequenceClassification(BertConfig(num_attention_heads=max(1, width // 64), num_labels=6, **shape))
    tokens = torch.randint(1000, 30000, (sentences, length))
    return student, {"input_ids": tokens, "labels": torch.randint(6, (sentences,))}


def resnet(images: int = 64, depth: int = 8) -> Setting:
    student = CifarResNetForImageClassification(CifarResNetConfig(depth=depth, num_labels=10))
    return student, {"pixel_values": torch.randn(images, 3, 32, 32), "labels": torch.randint(10, (images,))}


SETTINGS: dict[str, Callable[[], Setting]] = {
    "BERT of 2 × 128, 32 × 16 tokens": lambda: bert(2, 128),
    "BERT of 6 × 384, 32 × 16 tokens": lambda: bert(6, 384),
    "resnet8, 64 images of 32 × 32": resnet,
}


if __name__ == "__main__":
    main()
