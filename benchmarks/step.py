"""What a geometry term adds to a whole training step: student forward, objective, backward, optimiser, teacher online.

    python benchmarks/step.py [--rounds 15] [--settings 2] [--threads 1]

One term over token rows of the last layers beside the same step with KD alone, the candidates in turn; the median over
rounds of the ratio to that round's KD counts. "share" is the term alone, forward and backward, as a part of its step.
The teacher runs as the trainer runs it, in bfloat16 where the processor multiplies that.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timing import interleaved
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from geodistill.data.examples import load_examples
from geodistill.distillation.model import DistillationModel
from geodistill.distillation.objective import Objective
from geodistill.distillation.student import build_student
from geodistill.distillation.teacher import Teacher
from geodistill.features import Capture, select_rows
from geodistill.recipe import DataRecipe, ObjectiveRecipe, StudentRecipe
from geodistill.tasks.classification import collator, encode, load_classifier
from geodistill.tasks.loading import load_tokenizer

Setting = tuple[PreTrainedModel, PreTrainedModel, dict[str, Tensor]]
LOSSES = ("procrustes", "gram", "cka", "projection")
KD: dict[str, Any] = {"label": {}, "logits": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="how often each candidate is timed")
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="only the first so many settings")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, median of {arguments.rounds} rounds")
    for title, make in list(SETTINGS.items())[: arguments.settings]:
        teacher, student, batch = make()
        rows = int(batch["attention_mask"].sum())
        print(f"\n{title}, {rows} token rows\n{'':<18}{'step ms':>9}{'÷ KD':>8}{'term ms':>9}{'share':>8}")
        for line in lines(teacher, student, batch, arguments.rounds):
            print(line, flush=True)


def lines(teacher: PreTrainedModel, student: PreTrainedModel, batch: dict[str, Tensor], rounds: int) -> list[str]:
    """One line a candidate."""
    objectives = {"KD": bind(KD, student, teacher)}
    for loss in LOSSES:
        objectives[f"KD + {loss}"] = bind({**KD, "features": [{"loss": loss}]}, student, teacher)
    steps = {name: step(student, objective, teacher, batch) for name, objective in objectives.items()}
    terms = {name: term(student, objective, teacher, batch) for name, objective in objectives.items() if name != "KD"}
    times = interleaved(steps, rounds)
    alone = {name: statistics.median(each) for name, each in interleaved(terms, rounds, shortest=0.02).items()}
    found = []
    for name, each in times.items():
        whole = statistics.median(each)
        ratio = statistics.median(one / kd for one, kd in zip(each, times["KD"], strict=True))
        share = f"{1e3 * alone[name]:9.2f}{alone[name] / whole:8.1%}" if name in alone else ""
        found.append(f"{name:<18}{1e3 * whole:9.1f}{ratio:8.3f}{share}")
    return found


def bind(terms: Mapping[str, Any], student: PreTrainedModel, teacher: PreTrainedModel) -> Objective:
    return Objective(ObjectiveRecipe.model_validate(terms), student=student, teacher=teacher)


def step(
    student: PreTrainedModel, objective: Objective, teacher: PreTrainedModel, batch: dict[str, Tensor]
) -> Callable[[], None]:
    """A training step, whole."""
    model, source = DistillationModel(student, objective).train(), Teacher(teacher, objective.requests)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)  # as the Trainer does

    def run() -> None:
        model(teacher_signals=source(batch), **batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def term(
    student: PreTrainedModel, objective: Objective, teacher: PreTrainedModel, batch: dict[str, Tensor]
) -> Callable[[], object]:
    """The feature loss and its gradient, of the rows that this batch gives."""
    (request,), (point,) = objective.requests, objective.student_points
    (loss,) = objective.features[0].losses
    target = Teacher(teacher, [request])(batch).features[request]
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = Capture(student, [point])(**inputs)[1][point]
    rows, mask = select_rows(hidden, kind="tokens", attention_mask=batch["attention_mask"])
    leaves = [rows.requires_grad_(), *loss.parameters()]
    return lambda: torch.autograd.grad(loss(rows, target, mask=mask), leaves)


def minilm() -> Setting:
    """The demo's models, and 32 sentences of TREC as they come."""
    name, examples = "bundled:minilm-l6", load_examples(DataRecipe())
    tokenizer, teacher = load_tokenizer(name), load_classifier(name, examples, new_head=True)
    encoded = encode(teacher, examples, tokenizer, 128)["train"]
    return (
        teacher,
        build_student(StudentRecipe(width=128, layers=2), teacher, seed=0),
        collator(tokenizer)(encoded[:32]),
    )


def bert(sentences: int = 16, length: int = 128, layers: int = 12, **shape: int) -> Setting:
    """Random weights in the shape of BERT-base, and of it with half the layers; random tokens without padding."""
    teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **shape))
    student = BertForSequenceClassification(BertConfig(num_hidden_layers=layers // 2, **shape))
    tokens = torch.randint(1000, 30000, (sentences, length))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return teacher, student, {**batch, "labels": torch.randint(2, (sentences,))}


SETTINGS: dict[str, Callable[[], Setting]] = {
    "MiniLM-L6 (6 × 384) to 2 × 128, 32 sentences of TREC": minilm,
    "BERT-base's shape (12 × 768, random weights) to 6 × 768, 16 × 128 tokens": bert,
}


if __name__ == "__main__":
    main()
