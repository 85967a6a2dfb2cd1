"""What a geometry term adds to a whole training step: student forward, objective, backward, optimiser, teacher online.

    python benchmarks/step.py [--rounds 15] [--settings 3] [--threads 1]

One term over rows of the last layers, of tokens or of a response's tokens, beside the same step with KD alone, the
candidates in turn; the median over rounds of the ratio to that round's KD counts. "share" is the term alone, forward
and backward, as a part of its step. The teacher runs as the trainer runs it, in bfloat16 where the processor multiplies
that. A language model's logits are computed where they are scored; "all logits" is the step with those of every token.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from timing import interleaved, prepared
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from geodistill.data.examples import load_examples
from geodistill.distillation.model import DistillationModel
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import Teacher, TeacherSignals, bfloat16_is_faster
from geodistill.distillation.students.build import build_student
from geodistill.features import IGNORED_LABEL, Capture, is_causal, next_tokens_scored, select_rows
from geodistill.recipe import DataRecipe, ObjectiveRecipe, StudentRecipe
from geodistill.recipes import recipe_path
from geodistill.runs.recipe_file import load_recipe
from geodistill.tasks.choose import task_of
from geodistill.tasks.classification import encode, load_classifier
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.text_reader import TextReader

Setting = tuple[PreTrainedModel, PreTrainedModel, dict[str, Tensor]]
LOSSES = ("procrustes", "gram", "cka", "projection")
KD: dict[str, Any] = {"label": {}, "logits": {}}


def main() -> None:
    arguments = prepared(__doc__, len(SETTINGS))
    for title, make in list(SETTINGS.items())[: arguments.settings]:
        teacher, student, batch = make()
        kind = rows_of(batch)
        rows = int((batch["labels"] != IGNORED_LABEL if kind == "response" else batch["attention_mask"]).sum())
        print(f"\n{title}, {rows} {kind} rows\n{'':<18}{'step ms':>9}{'÷ KD':>8}{'term ms':>9}{'share':>8}")
        for line in lines(teacher, student, batch, arguments.rounds):
            print(line, flush=True)


def lines(teacher: PreTrainedModel, student: PreTrainedModel, batch: dict[str, Tensor], rounds: int) -> list[str]:
    """One line a candidate."""
    objectives = {"KD": bind(KD, student, teacher)}
    for loss in LOSSES:
        features = [{"loss": loss, "rows": rows_of(batch)}]
        objectives[f"KD + {loss}"] = bind({**KD, "features": features}, student, teacher)
    steps = {name: step(student, objective, teacher, batch) for name, objective in objectives.items()}
    if is_causal(student):
        steps["KD, all logits"] = step_with_all_logits(student, objectives["KD"], teacher, batch)
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
    return Objective(ObjectiveRecipe.model_validate(terms).terms, student=student, teacher=teacher)


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


def step_with_all_logits(
    student: PreTrainedModel, objective: Objective, teacher: PreTrainedModel, batch: dict[str, Tensor]
) -> Callable[[], None]:
    """The same step of two models that do not know which of their logits will be read."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    bfloat16 = bfloat16_is_faster(torch.device("cpu"))
    scored = next_tokens_scored(batch)

    def run() -> None:
        student.train()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            signals = TeacherSignals(teacher(**inputs).logits[scored])
        objective(student(**inputs, labels=batch["labels"]), {}, signals, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def rows_of(batch: Mapping[str, Tensor]) -> str:
    return "response" if batch["labels"].ndim == 2 else "tokens"


def term(
    student: PreTrainedModel, objective: Objective, teacher: PreTrainedModel, batch: dict[str, Tensor]
) -> Callable[[], object]:
    """The feature loss and its gradient, of the rows that this batch gives."""
    (request,), (point,) = objective.requests, objective.student_points
    (loss,) = objective.features[0].losses
    target = Teacher(teacher, [request])(batch).features[request].values
    inputs = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = Capture(student, [point])(**inputs)[1][point]
    rows, mask = select_rows(
        hidden, {"attention_mask": batch["attention_mask"], "labels": batch["labels"]}, kind=rows_of(batch)
    )
    leaves = [rows.requires_grad_(), *loss.parameters()]
    return lambda: torch.autograd.grad(loss(rows, target, mask=mask), leaves)


def minilm() -> Setting:
    """The demo's models, and 32 sentences of TREC as they come."""
    name, examples = "bundled:minilm-l6", load_examples(DataRecipe())
    source = ModelSource(name)
    reader, teacher = TextReader.load(source).within(128), load_classifier(source, examples, new_head=True)
    encoded = encode(teacher, examples, reader)["train"]
    return (
        teacher,
        build_student(StudentRecipe(width=128, layers=2), teacher, seed=0),
        reader.collate(encoded[:32]),
    )


def bert(sentences: int = 16, length: int = 128, layers: int = 12, **shape: int) -> Setting:
    """Random weights in the shape of BERT-base, and of it with half the layers; random tokens without padding."""
    teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **shape))
    student = BertForSequenceClassification(BertConfig(num_hidden_layers=layers // 2, **shape))
    tokens = torch.randint(1000, 30000, (sentences, length))
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return teacher, student, {**batch, "labels": torch.randint(2, (sentences,))}


def smollm2() -> Setting:
    """The instruction demo's models, and 16 instructions as they come."""
    with recipe_path("demo-instructions") as path:
        recipe = load_recipe(path)
    task = task_of(recipe)
    source = ModelSource(recipe.teacher.model)
    reader, teacher = task.load_reader(source), task.load_model(source, new_head=False)
    student = build_student(recipe.student, teacher, seed=0)
    batch = reader.collate(task.encode(teacher, reader)["train"][:16])
    return teacher, student, {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}


SETTINGS: dict[str, Callable[[], Setting]] = {
    "MiniLM-L6 (6 × 384) to 2 × 128, 32 sentences of TREC": minilm,
    "BERT-base's shape (12 × 768, random weights) to 6 × 768, 16 × 128 tokens": bert,
    "SmolLM2-135M (30 × 576) to 5 of its layers, 16 instructions": smollm2,
}


if __name__ == "__main__":
    main()
