"""What ranks send for a feature term, by the code's own rule, and what exact accumulation costs in time.

    python benchmarks/scale.py [--rounds 5]

Prints the two tables of docs/scale.md. Steps are timed through DistillationTrainer with a random student and teacher,
the teacher's signals computed beforehand, as a cache gives them; plain and exact steps take turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.signals import Teacher, TeacherSignals
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.losses import CKALoss, GramLoss, ProcrustesLoss
from geodistill.losses.ranks import elements_sent
from geodistill.recipe import ObjectiveRecipe

WIDTHS = [(128, 384), (384, 768), (768, 1024), (768, 4096)]
ROWS = [64, 256, 1024, 4096, 16384]
LOSSES = {"Procrustes": ProcrustesLoss, "Gram, CKA": GramLoss}
BATCH, LENGTH, VOCABULARY, STEPS = 8, 64, 8000, 4


def print_traffic(ranks: int = 8) -> None:
    """Megabytes (10⁶ bytes) that each rank sends for one layer pair in float32; the number of ranks barely matters."""
    assert all((loss.student_gram, loss.teacher_gram) == (GramLoss.student_gram, True) for loss in (GramLoss, CKALoss))
    print(f"| loss | d_s, d_t | moments | rows from which they win | {' | '.join(f'n = {n}' for n in ROWS)} |")
    print("|---|---|---:|---:|" + "---:|" * len(ROWS))
    share = 4e-6 * (ranks - 1) / ranks
    for name, loss in LOSSES.items():
        for widths in WIDTHS:
            sent = {n: elements_sent(n, *widths, loss.student_gram, loss.teacher_gram) for n in ROWS}
            moments = sent[ROWS[0]][1]
            cells = [f"{min(pair) * share:.2f}" + ("" if pair[0] < pair[1] else "*") for pair in sent.values()]
            turn = -(-moments // sum(widths))
            print(f"| {name} | {widths[0]}, {widths[1]} | {moments * share:.2f} | {turn} | {' | '.join(cells)} |")


class Remembered:
    """A teacher whose answers are known, batch by batch."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.requests, self.model = teacher, teacher.requests, teacher.model
        self.widths, self.vocabulary = teacher.widths, teacher.vocabulary
        self.known: dict[int, TeacherSignals] = {}

    def to(self, device: torch.device) -> Remembered:
        return self

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        key = int(inputs["example_id"][0])
        if key not in self.known:
            self.known[key] = self.teacher(inputs)
        return self.known[key]


def model(width: int, layers: int) -> BertForSequenceClassification:
    torch.manual_seed(width)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 32}
    config = BertConfig(vocab_size=VOCABULARY, intermediate_size=4 * width, max_position_embeddings=LENGTH, **sizes)
    return BertForSequenceClassification(config)


def examples(count: int) -> list[dict[str, Any]]:
    tokens = torch.randint(0, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(0))
    ones = [1] * LENGTH
    return [
        {"input_ids": row.tolist(), "attention_mask": ones, "labels": number % 2, "example_id": number}
        for number, row in enumerate(tokens)
    ]


def time_steps(
    student: BertForSequenceClassification, source: Remembered, recipe: ObjectiveRecipe, accumulation: int, exact: bool
) -> float:
    """Seconds for one optimiser step."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationConfig(
            folder,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=accumulation,
            exact_accumulation=exact,
            num_train_epochs=1,
            logging_steps=10**6,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = DistillationTrainer(
            student,
            arguments,
            teacher_model=source,
            terms=recipe.terms,
            train_dataset=examples(BATCH * accumulation * STEPS),
        )
        started = time.perf_counter()
        trainer.train()
        return (time.perf_counter() - started) / STEPS


def print_cost(rounds: int) -> None:
    print("| student | micro-batches | loss | ms a step | exact, ms | ratio |")
    print("|---|---:|---|---:|---:|---:|")
    teacher = model(384, 6)
    for width, layers in ((128, 2), (256, 4)):
        for loss in ("procrustes", "gram"):
            recipe = ObjectiveRecipe.model_validate({"label": {}, "logits": {}, "features": [{"loss": loss}]})
            student = model(width, layers)
            source = Remembered(Teacher(teacher, feature_requests(recipe, student, teacher)))
            for accumulation in (2, 8):
                time_steps(student, source, recipe, accumulation, True)  # warms up, and fills the memory
                pairs = [
                    [time_steps(student, source, recipe, accumulation, exact) for exact in (False, True)]
                    for _ in range(rounds)
                ]
                plain, exact = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
                ratio = statistics.median(two / one for one, two in pairs)
                print(f"| {layers} × {width} | {accumulation} | {loss} | {plain:.0f} | {exact:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    torch.set_num_threads(1)
    print_traffic()
    print()
    print_cost(parser.parse_args().rounds)
