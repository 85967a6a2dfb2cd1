"""Distillation as people write it: a plain loop, and a subclass of `transformers.Trainer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peers_job import Job
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
    set_seed,
)


@dataclass(frozen=True)
class PaddedLoop:
    """A plain loop over shuffled batches, the teacher beside the student."""

    to_batch: bool
    """Pad to the longest of a batch; else every sentence to 128 tokens."""

    def __call__(self, job: Job) -> PreTrainedModel:
        set_seed(job.seed)
        student, teacher, training = job.student().train(), job.taught.model.eval(), job.training
        mapping = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
        parameters = [*student.parameters(), *mapping.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
        scheduler = get_linear_schedule_with_warmup(optimizer, int(training.warmup * job.steps), job.steps)
        collate = DataCollatorWithPadding(job.taught.reader.tokenizer)
        if not self.to_batch:
            collate = DataCollatorWithPadding(job.taught.reader.tokenizer, padding="max_length", max_length=128)
        loader = DataLoader(job.columns(), batch_size=training.batch_size, shuffle=True, collate_fn=collate)
        for _ in range(job.epochs):
            for batch in loader:
                loss, _ = loss_of(student, teacher, mapping, dict(batch), job.temperature)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, training.max_gradient_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        return student


class WrittenTrainer(Trainer):
    """The Trainer with the teacher in `compute_loss`. The map belongs to the model, or it would not be trained."""

    def __init__(self, *args: Any, teacher: PreTrainedModel, temperature: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()
        self.temperature = temperature

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = loss_of(model, self.teacher, model.mapping, inputs, self.temperature)
        return (loss, outputs) if return_outputs else loss


def train_with_trainer(job: Job) -> PreTrainedModel:
    set_seed(job.seed)
    student, training = job.student(), job.training
    student.mapping = nn.Linear(student.config.hidden_size, job.taught.model.config.hidden_size)
    arguments = TrainingArguments(
        output_dir=str(job.folder / "written"),
        num_train_epochs=job.epochs,
        per_device_train_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup,
        seed=job.seed,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = WrittenTrainer(
        student,
        arguments,
        DataCollatorWithPadding(job.taught.reader.tokenizer),
        job.columns(),
        teacher=job.taught.model,
        temperature=job.temperature,
    )
    trainer.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # nothing between the lines of the table
    trainer.train()
    return student


def loss_of(
    student: PreTrainedModel, teacher: PreTrainedModel, mapping: nn.Module, batch: dict[str, Tensor], temperature: float
) -> tuple[Tensor, Any]:
    """Half label loss, half KD, and the squared error of mapped hidden states over the attended tokens."""
    with torch.no_grad():
        taught = teacher(
            **{name: value for name, value in batch.items() if name != "labels"}, output_hidden_states=True
        )
    outputs = student(**batch, output_hidden_states=True)
    kd = functional.kl_div(
        functional.log_softmax(outputs.logits / temperature, dim=-1),
        functional.softmax(taught.logits / temperature, dim=-1),
        reduction="batchmean",
    )
    kept = batch["attention_mask"].bool()
    hidden = functional.mse_loss(mapping(outputs.hidden_states[-1])[kept], taught.hidden_states[-1][kept])
    return 0.5 * outputs.loss + 0.5 * temperature**2 * kd + hidden, outputs
