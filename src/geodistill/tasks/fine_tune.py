"""Fine-tuning on labels alone, of a teacher or of a student before it is distilled."""

from __future__ import annotations

import time
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from geodistill.distillation.objective import Objective
from geodistill.distillation.sharding import whole_model
from geodistill.distillation.teacher import NoTeacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.recipe import LabelTerm, ObjectiveRecipe, TrainingRecipe
from geodistill.tasks.arguments import StepBar, processes, train_to_the_end, training_arguments
from geodistill.tasks.run_folder import MetricsFile
from geodistill.tasks.task import Encoded, Task


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    encoded: Encoded,
    training: TrainingRecipe,
    folder: Path,
    *,
    name: str,
    progress: bool,
) -> tuple[PreTrainedModel, float]:
    """Train a model on the train split's labels, and write what the last epoch leaves to `folder`, with its tokenizer.

    Goes on from a checkpoint in the folder if there is one. `name` is that of the model in the log and on the bar.
    Returns the model, whole on every rank, and the seconds that training took.
    Raises GeodistillError for data without labels.
    """
    if not task.labelled:
        raise GeodistillError(
            f"A {name} cannot be fine-tuned on data without labels.",
            f"Leave {name}.training out, or use other data.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    trainer = DistillationTrainer(
        model=model,
        teacher=NoTeacher(),
        objective=Objective(ObjectiveRecipe(label=LabelTerm()), student=model, teacher=model),
        args=training_arguments(training, folder / "checkpoints"),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=task.collator(tokenizer),
        exact_accumulation=training.exact_accumulation,
        callbacks=[MetricsFile(folder, name), *([StepBar(name)] if progress else [])],
    )
    started = time.perf_counter()
    train_to_the_end(trainer, folder / "checkpoints")
    seconds = time.perf_counter() - started
    model = whole_model(model)
    if processes().is_main_process:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model, seconds
