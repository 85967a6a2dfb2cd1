"""The job in torchdistill, by its configuration: hooks on modules, its KDLoss, and an MSELoss in its loss wrapper."""

from __future__ import annotations

import importlib.util
import logging
from functools import partial
from typing import Any

import torch
from peers_job import Job
from torch import Tensor, nn
from torch.utils.data import RandomSampler
from transformers import DataCollatorWithPadding, PreTrainedModel, get_linear_schedule_with_warmup, set_seed


def torchdistill_is_there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torchdistill", "torchvision"))


class MappedStudent(nn.Module):
    """The student with the map of its last hidden states, whose output a hook takes."""

    def __init__(self, student: PreTrainedModel, width: int) -> None:
        super().__init__()
        self.student = student
        self.mapping = nn.Linear(student.config.hidden_size, width)

    def forward(self, **batch: Tensor) -> Tensor:
        outputs = self.student(**batch, output_hidden_states=True)
        self.mapping(outputs.hidden_states[-1])
        return outputs.logits


def train_with_torchdistill(job: Job) -> PreTrainedModel:
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.datasets.registry import register_collate_func
    from torchdistill.optim.registry import register_scheduler

    logging.getLogger().setLevel(logging.WARNING)
    set_seed(job.seed)
    register_collate_func(partial(collate, DataCollatorWithPadding(job.taught.reader.tokenizer)), key="padded")
    register_scheduler(get_linear_schedule_with_warmup, key="linear")
    teacher = job.taught.model.eval()
    model = MappedStudent(job.student(), teacher.config.hidden_size)
    box = get_distillation_box(
        teacher,
        model,
        {"train": job.columns()},
        configuration(job, teacher.config.num_hidden_layers),
        torch.device("cpu"),
        device_ids=None,
        distributed=False,
        lr_factor=1,
    )
    for epoch in range(job.epochs):
        box.pre_epoch_process(epoch=epoch)
        for batch, labels, extra in box.train_data_loader:
            box.pre_forward_process()
            box.post_forward_process(box.forward_process(batch, labels, extra))
        box.post_epoch_process()
    return model.student


def collate(pad: DataCollatorWithPadding, examples: list[dict[str, Any]]) -> tuple[dict[str, Tensor], Tensor, dict]:
    batch = dict(pad(examples))
    return batch, batch.pop("labels"), {}


def configuration(job: Job, teacher_layers: int) -> dict[str, Any]:
    training, teacher_hidden = job.training, f"bert.encoder.layer.{teacher_layers - 1}"
    return {
        "num_epochs": job.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "requires_supp": False,
            "sampler": {"class_or_func": RandomSampler},
            "collate_fn": "padded",
            "kwargs": {"batch_size": training.batch_size},
        },
        "teacher": {
            "forward_proc": "forward_batch_only_as_kwargs",
            "forward_hook": {"output": ["classifier", teacher_hidden]},
            "requires_grad": False,
        },
        "student": {
            "forward_proc": "forward_batch_only_as_kwargs",
            "forward_hook": {"output": ["student.classifier", "mapping"]},
        },
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": training.learning_rate, "weight_decay": training.weight_decay},
            "max_grad_norm": training.max_gradient_norm,
        },
        "scheduler": {
            "key": "linear",
            "kwargs": {
                "num_warmup_steps": int(training.warmup * job.steps),
                "num_training_steps": job.steps,
            },
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {
                "sub_terms": {
                    "kd": {
                        "criterion": {
                            "key": "KDLoss",
                            "kwargs": {
                                "student_module_path": "student.classifier",
                                "student_module_io": "output",
                                "teacher_module_path": "classifier",
                                "teacher_module_io": "output",
                                "temperature": job.temperature,
                                "alpha": 0.5,
                            },
                        },
                        "weight": 1.0,
                    },
                    "hidden": {
                        "criterion": {"key": "MSELoss", "kwargs": {}},
                        "criterion_wrapper": {
                            "key": "SimpleLossWrapper",
                            "kwargs": {
                                "input": {"is_from_teacher": False, "module_path": "mapping", "io": "output"},
                                "target": {"is_from_teacher": True, "module_path": teacher_hidden, "io": "output"},
                            },
                        },
                        "weight": 1.0,
                    },
                }
            },
        },
    }
