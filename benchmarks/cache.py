"""What the teacher cache costs and saves: size, build and read time, plain against rotated; training steps with the
teacher online and from the cache; and the demo's training by epochs, both ways.

    python benchmarks/cache.py [--rounds 5] [--epochs 3] [--threads 1] [--limit ROWS]

The teacher is all-MiniLM-L6-v2 (6 × 384), the sentences are TREC's, the student is 2 × 128, a batch is 32 sentences.
Each step is timed in turn with the others, so that a busy machine troubles all of them alike. What a cut changes is
measured against the teacher's own float32 rows, beside the bound that is printed when such a cache is written.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import clock, interleaved
from torch import Tensor
from transformers import TrainerCallback

from geodistill.data.examples import load_examples
from geodistill.distillation.cache.teacher_cache import TeacherCache, prepare_cache
from geodistill.distillation.model import DistillationModel
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import FeatureRequest, SignalSource, Teacher
from geodistill.distillation.students.build import build_student
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.geometry import cka, gram_distance, procrustes_distance
from geodistill.recipe import DataRecipe, ObjectiveRecipe, StudentRecipe, TrainingRecipe
from geodistill.runs.arguments import quiet, training_arguments
from geodistill.tasks.classification import encode, load_classifier
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.text_reader import TextReader

MODEL = "bundled:minilm-l6"
REQUESTS = [FeatureRequest(3, "tokens"), FeatureRequest(6, "tokens")]
CACHES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "rotated 99.9 %": {"dtype": "bfloat16", "variance": 0.999},
    "rotated 99 %": {"dtype": "bfloat16", "variance": 0.99},
    "rotated 95 %": {"dtype": "bfloat16", "variance": 0.95},
}
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each candidate is timed; the median counts")
    parser.add_argument("--epochs", type=int, default=3, help="of the demo's training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only so many rows of each split")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    examples = load_examples(DataRecipe(limit=arguments.limit))
    model = load_classifier(ModelSource(MODEL), examples, new_head=True)
    reader = TextReader.load(ModelSource(MODEL)).within(128)
    encoded, collate = encode(model, examples, reader)["train"], reader.collate
    batches = [collate(encoded[start : start + BATCH]) for start in range(0, min(20 * BATCH, len(encoded)), BATCH)]
    student = build_student(StudentRecipe(width=128, layers=2), model, seed=0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; {len(encoded)} sentences, layers 3 and 6")

    with tempfile.TemporaryDirectory() as place:
        caches: dict[str, TeacherCache] = {}
        print(f"\n{'cache':<16}{'width':>12}{'MB':>8}{'write s':>9}{'open s':>8}{'read ms':>9}")
        for name, settings in CACHES.items():
            folder = Path(place) / name
            job = partial(prepare, folder, model, encoded, collate, settings)
            write, caches[name] = timed(job)
            again, _ = timed(job)
            read = median_ms({name: [partial(caches[name], batch) for batch in batches]}, rounds)[name]
            size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            widths = " ".join(str(width) for width in caches[name].widths.values())
            print(f"{name:<16}{widths:>12}{size:8.1f}{write:9.1f}{again:8.2f}{read:9.2f}", flush=True)
        print_changes(model, caches, batches)
        print_steps(model, student, caches, batches, rounds)
        print_epochs(model, student, caches["bfloat16"], encoded, collate, arguments.epochs, Path(place))


def prepare(folder: Path, model: Any, encoded: Any, collate: Any, settings: Mapping[str, Any]) -> TeacherCache:
    teacher = Teacher(model, REQUESTS)
    return prepare_cache(folder, teacher, encoded, collate, limit_bytes=10**9, progress=False, **settings)


def print_changes(model: Any, caches: Mapping[str, TeacherCache], batches: list[Any]) -> None:
    """The largest change over the batches, for a student of random rows and for one that is the teacher's best 128.

    The caches were written by the teacher at its own precision, which is why a float32 cache is not exact here.
    """
    exact = Teacher(model, REQUESTS, precision="float32")
    bfloat16 = Teacher(model, REQUESTS, precision="bfloat16")
    sources: dict[str, SignalSource] = {"online, bfloat16": bfloat16, **caches}
    columns = "".join(f"{name:>10}{'bound':>9}" for name in ("D_P²", "D_FG²", "CKA"))
    print(f"\n{'largest change of a batch, layer 6':<36}{columns}")
    measures: list[tuple[Callable[..., Tensor], dict[str, Any], str]] = [
        (procrustes_distance, {"squared": True}, "procrustes_squared"),
        (gram_distance, {"squared": True}, "gram_squared"),
        (cka, {}, "cka"),
    ]
    for name, source in sources.items():
        largest = dict.fromkeys((bound for _, _, bound in measures), 0.0)
        for batch in batches:
            teacher, found = (
                rows.values[rows.mask].double()
                for rows in (each(batch).features[REQUESTS[1]] for each in (exact, source))
            )
            best = torch.linalg.svd(teacher - teacher.mean(0), full_matrices=False)[2][:128].T
            for rival in (torch.randn(len(teacher), 128, dtype=torch.float64), teacher @ best):
                for measure, options, bound in measures:
                    before = measure(rival, teacher, **options)
                    change = (measure(rival, found, **options) - before).abs()
                    largest[bound] = max(largest[bound], float(change))
        bounds = source.bounds.get(REQUESTS[1]) if isinstance(source, TeacherCache) else None
        cells = "".join(
            f"{value:10.1e}{f'{getattr(bounds, bound):.1e}' if bounds else '–':>9}" for bound, value in largest.items()
        )
        print(f"{name:<36}{cells}", flush=True)


def print_steps(model: Any, student: Any, caches: Mapping[str, TeacherCache], batches: list[Any], rounds: int) -> None:
    """Forward, backward and optimiser step, per batch, for the logits alone and with one feature term."""
    objectives: dict[str, dict[str, Any]] = {"KD": {"label": {}, "logits": {}}}
    for loss in ("procrustes", "gram", "cka"):
        objectives[f"KD + {loss}"] = {**objectives["KD"], "features": [{"loss": loss}]}
    sources: dict[str, SignalSource] = {
        "online, float32": Teacher(model, REQUESTS, precision="float32"),
        "online, auto": Teacher(model, REQUESTS),
        "bfloat16": caches["bfloat16"],
        "rotated 99 %": caches["rotated 99 %"],
    }
    print(f"\n{'step in ms':<18}" + "".join(f"{name:>18}" for name in sources) + f"{'online ÷ cached':>18}")
    for name, terms in objectives.items():
        objective = Objective(ObjectiveRecipe.model_validate(terms).terms, student=student, teacher=model)
        whole = DistillationModel(student, objective).train()
        optimizer = torch.optim.AdamW(whole.parameters(), lr=1e-5, fused=True)  # as the Trainer does
        steps = {
            place: [step(whole, optimizer, narrowed(source, objective), batch) for batch in batches[:8]]
            for place, source in sources.items()
        }
        found = median_ms(steps, rounds)
        ratio = found["online, auto"] / found["bfloat16"]
        print(f"{name:<18}" + "".join(f"{value:18.1f}" for value in found.values()) + f"{ratio:18.2f}", flush=True)


class EpochClock(TrainerCallback):
    """Takes the time of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = clock()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(clock() - self.start)


def print_epochs(
    model: Any, student: Any, cache: TeacherCache, encoded: Any, collate: Any, epochs: int, place: Path
) -> None:
    """The demo's KD + Procrustes, whole, the Trainer's own work included. The cache is written before."""
    terms = {"label": {"weight": 0.5}, "logits": {"weight": 0.5}}
    features = [{"loss": "procrustes", "weight": 15, "layers": "uniform"}]
    recipe = ObjectiveRecipe.model_validate({**terms, "features": features})
    training = TrainingRecipe(epochs=epochs, batch_size=BATCH, learning_rate=1e-3)
    sources: dict[str, SignalSource] = {
        "online, float32": Teacher(model, REQUESTS, precision="float32"),
        "online, auto": Teacher(model, REQUESTS),
        "bfloat16": cache,
    }
    print("\n" + f"{'epochs in s':<18}" + "".join(f"{epoch:>9}" for epoch in range(1, epochs + 1)))
    for name, source in sources.items():
        learner, watch = copy.deepcopy(student), EpochClock()
        trainer = DistillationTrainer(
            learner,
            training_arguments(training, place / "checkpoints"),
            teacher_model=source,
            terms=recipe.terms,
            train_dataset=encoded,
            data_collator=collate,
            callbacks=[watch],
        )
        quiet(trainer).train()
        print(f"{name:<18}" + "".join(f"{seconds:9.2f}" for seconds in watch.seconds), flush=True)


def narrowed(source: SignalSource, objective: Objective) -> SignalSource:
    """The source as it would be made for this objective, answering nothing that is not asked."""
    if isinstance(source, TeacherCache):
        return source.select(objective.requests)
    assert isinstance(source, Teacher)
    return Teacher(source.model, objective.requests, precision=source.precision)


def step(
    whole: DistillationModel, optimizer: torch.optim.Optimizer, source: SignalSource, batch: dict[str, Tensor]
) -> Callable[[], None]:
    def run() -> None:
        whole(teacher_signals=source(batch), **batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def median_ms(candidates: Mapping[str, Sequence[Callable[[], Any]]], rounds: int) -> dict[str, float]:
    """The median over rounds of the mean over a candidate's runs."""
    times = interleaved({name: partial(run_all, runs) for name, runs in candidates.items()}, rounds)
    return {name: 1000 * statistics.median(each) / len(candidates[name]) for name, each in times.items()}


def run_all(runs: Sequence[Callable[[], Any]]) -> None:
    for run in runs:
        run()


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = clock()
    result = run()
    return clock() - start, result


if __name__ == "__main__":
    main()
