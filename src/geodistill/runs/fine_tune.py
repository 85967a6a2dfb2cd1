"""Fine-tuning on labels alone, of a teacher or of a student before it is distilled."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from transformers import PreTrainedModel

from geodistill.distillation.sharding import whole_model
from geodistill.distillation.sides import Reader
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.files import CHECKPOINTS, write_text
from geodistill.recipe import LabelTerm, TrainingRecipe
from geodistill.runs.arguments import StepBar, processes, train_to_the_end, training_arguments
from geodistill.runs.folder import METRICS, MetricsFile
from geodistill.tasks.task import Encoded, Task

IDENTITY = "identity"


def fine_tune(
    model: PreTrainedModel,
    reader: Reader,
    task: Task,
    encoded: Encoded,
    training: TrainingRecipe,
    folder: Path,
    *,
    name: str,
    identity: str,
    progress: bool,
) -> tuple[PreTrainedModel, float]:
    """Train a model on the train split's labels, and write what the last epoch leaves to `folder`, with its reader.

    Goes on from a checkpoint in the folder if there is one of the same `identity`, a fingerprint; what another training
    left there is deleted. `name` is that of the model in the log and on the bar.
    Returns the model, whole on every rank, and the seconds that training took.
    Raises GeodistillError for data without labels.
    """
    if not task.labelled:
        raise GeodistillError(
            f"A {name} cannot be fine-tuned on data without labels.",
            f"Leave {name}.training out, or use other data.",
        )
    with processes().main_process_first():
        if processes().is_main_process:
            begin(folder, identity)
    trainer = DistillationTrainer(
        model,
        training_arguments(training, folder / CHECKPOINTS),
        terms=[LabelTerm()],
        train_dataset=task.varied(encoded["train"], training.seed),
        eval_dataset=encoded["validation"],
        data_collator=reader.collate,
        probe=reader.probe(),
        callbacks=[MetricsFile(folder, name), *([StepBar(name)] if progress else [])],
    )
    started = time.perf_counter()
    train_to_the_end(trainer, folder / CHECKPOINTS)
    seconds = time.perf_counter() - started
    model = whole_model(model)
    if processes().is_main_process:
        model.save_pretrained(folder)
        reader.save(folder)
    return model, seconds


def begin(folder: Path, identity: str) -> None:
    """Make a folder ready for a training: checkpoints stay if the training is the same, and are deleted if not."""
    mark = folder / CHECKPOINTS / IDENTITY
    if not mark.is_file() or mark.read_text(encoding="utf-8") != identity:
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        (folder / METRICS).unlink(missing_ok=True)
        mark.parent.mkdir(parents=True)
        write_text(mark, identity)
