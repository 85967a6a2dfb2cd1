"""The same distillation job in geodistill and in what else people use: time, and accuracy beside it.

    python benchmarks/peers.py [--epochs 3] [--threads 1] [--limit ROWS]

The teacher is the demo's, all-MiniLM-L6-v2 fine-tuned on TREC; the student 2 × 128, the same start for all; batches of
32; half label loss, half KD at temperature 2, and the squared error of the student's last hidden states, mapped
linearly, to the teacher's; AdamW, a linear schedule with a tenth of warm-up, gradients clipped to 1.

- geodistill: as `geodistill train` does it. The teacher runs once, in bfloat16 where the processor multiplies that,
  and is read from its cache after; batches hold sentences of like length.
- geodistill, online: the same without the cache.
- torchdistill: its DistillationBox, with forward hooks and its KDLoss, padded to the batch. Skipped when not installed.
- Trainer subclass: `compute_loss` with the teacher inside, padded to the batch.
- plain loop, padded to the batch; and plain loop, padded to 128 as tutorials do with padding="max_length".

The objective is one for all: the squared error is the mean over entries, and geodistill's map starts as nn.Linear does.

All of them run with denormal numbers off, which most people's loops lack. Accuracy is of one seed on 500 sentences.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peers_job import Job
from peers_torchdistill import torchdistill_is_there, train_with_torchdistill
from peers_written import PaddedLoop, train_with_trainer
from timing import clock
from transformers import PreTrainedModel

from geodistill.distillation.cache.teacher_cache import prepare_cache
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.signals import SignalSource, Teacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.recipe import ObjectiveRecipe
from geodistill.runs.arguments import quiet, training_arguments

RECIPE_EPOCHS = 8
OURS = "geodistill"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only so many rows of each split")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as place:
        job = Job.make(Path(place), arguments.epochs, arguments.limit)
        print(
            f"torch {torch.__version__}, {arguments.threads} threads; {len(job.train)} sentences, {job.epochs} epochs"
        )
        candidates: dict[str, Callable[[Job], PreTrainedModel]] = {
            OURS: lambda job: train_with_geodistill(job, Path(place) / "cache"),
            f"{OURS}, online": train_with_geodistill,
            "torchdistill": train_with_torchdistill,
            "Trainer subclass": train_with_trainer,
            "plain loop": PaddedLoop(to_batch=True),
            "plain loop, padded to 128": PaddedLoop(to_batch=False),
        }
        if not torchdistill_is_there():
            candidates.pop("torchdistill")
            print("torchdistill is left out: it is not installed (pip install torchdistill torchvision).")
        print(f"teacher's accuracy {job.teacher_accuracy:.3f}\n\n{HEADER}")
        for line in lines(job, candidates):
            print(line, flush=True)


HEADER = f"{'':<27}{'s an epoch':>12}{'examples/s':>12}{'÷ ours':>9}{'of 8 epochs':>13}{'accuracy':>10}"


def lines(job: Job, candidates: dict[str, Callable[[Job], PreTrainedModel]]) -> Iterator[str]:
    """A line a candidate. The first is ours; its cache is paid for in full, or by a recipe's eight epochs."""
    ours = ours_long = 0.0
    for name, train in candidates.items():
        start = clock()
        student = train(job)
        whole = clock() - start
        epoch = whole / job.epochs
        once = job.once if name == OURS else 0.0
        long = once / RECIPE_EPOCHS + (whole - once) / job.epochs
        if name == OURS:
            ours, ours_long = epoch, long
        yield (
            f"{name:<27}{epoch:12.2f}{len(job.train) / epoch:12.0f}{epoch / ours:9.2f}{long / ours_long:13.2f}"
            f"{job.accuracy(student):10.3f}"
        )
        if name == OURS:
            yield f"{'  of it, writing the cache':<27}{once / job.epochs:12.2f}"


def train_with_geodistill(job: Job, cache: Path | None = None) -> PreTrainedModel:
    terms = ObjectiveRecipe.model_validate(
        {
            "label": {"weight": 0.5},
            "logits": {"weight": 0.5, "temperature": job.temperature},
            "features": [{"loss": "projection", "center": False, "normalize": False}],
        }
    )
    student, taught = job.student(), job.taught
    source: SignalSource = Teacher(taught.model, feature_requests(terms, student, taught.model))
    collate = taught.reader.collate
    if cache is not None:
        start = clock()
        source = prepare_cache(cache, source, job.train, collate, limit_bytes=10**9, progress=False)
        job.once = clock() - start
    trainer = DistillationTrainer(
        student,
        training_arguments(job.training, job.folder / "checkpoints"),
        teacher_model=source,
        terms=terms.terms,
        train_dataset=job.train,
        data_collator=collate,
    )
    draw = torch.Generator().manual_seed(job.seed)
    for name, parameter in trainer.distillation.objective.named_parameters():
        if name.endswith("weight"):  # ours would start 1.7 times as large, which after few epochs is another student
            reach = student.config.hidden_size**-0.5
            torch.nn.init.uniform_(parameter, -reach, reach, generator=draw)
    quiet(trainer).train()
    return student


if __name__ == "__main__":
    main()
