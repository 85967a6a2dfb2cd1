"""Small trainings that the tests share: a tiny teacher and student, a few examples, a log of each step.

And what the tests of the objective and of the teacher cache share.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, TrainerCallback

from geodistill.distillation.cache.teacher_cache import TeacherCache, cache_fingerprint, open_cache
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.model import DistillationModel, DistillationOutput
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import FeatureRequest, Teacher, TeacherSignals, model_inputs
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.features import Rows
from geodistill.quantization import calibrate, quantize
from geodistill.recipe import ObjectiveRecipe, QuantizationRecipe

OBJECTIVE = {
    "label": {"weight": 0.5},
    "logits": {},
    "features": [
        {"loss": "procrustes", "weight": 2.0, "layers": "uniform"},
        {"loss": "projection", "rows": "mean", "normalize": False},
    ],
}
TERMS = ["label", "logits", "procrustes_1_2", "procrustes_2_3", "projection_2_3"]
POSITIONS = [17, 3, 29, 0, 8, 3]  # in no order, and one of them twice
PADDING = 0
Batch = dict[str, Tensor]
Weights = dict[str, Tensor]
Make = Callable[..., DistillationTrainer]


def classifier(layers: int, width: int, seed: int, dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=100,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=32,
            num_labels=3,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def speaker(layers: int, width: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": layers, "num_attention_heads": 2, "hidden_size": width, "intermediate_size": width}
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, pad_token_id=0, **sizes))


def make_answers(count: int) -> list[dict[str, Any]]:
    """The same examples, with a label for each token after the first two; of one only the last has one."""
    examples = make_examples(count)
    for example in examples:
        example["labels"] = [-100, -100, *example["input_ids"][2:]]
    examples[0]["labels"] = [*[-100] * (len(examples[0]["labels"]) - 1), 7]
    return examples


def make_examples(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    lengths = [draw.randint(4, 14) for _ in range(count)]
    return [
        {
            "input_ids": [draw.randint(1, 99) for _ in range(length)],
            "attention_mask": [1] * length,
            "special_tokens_mask": [1, *[0] * (length - 2), 1],
            "labels": draw.randint(0, 2),
            "example_id": number,
        }
        for number, length in enumerate(lengths)
    ]


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(example["input_ids"]) for example in examples)
    fillers = {"input_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
    batch = {
        name: torch.tensor([[*example[name], *[filler] * (longest - len(example[name]))] for example in examples])
        for name, filler in fillers.items()
    }
    rest = {"example_id": torch.tensor([example["example_id"] for example in examples])}
    labels = [example["labels"] for example in examples]
    if isinstance(labels[0], list):
        labels = [[*each, *[-100] * (longest - len(each))] for each in labels]
    return {**batch, **rest, "labels": torch.tensor(labels)}


class Lessons(Teacher):
    """A teacher that counts its calls, and gives NaN features in some of them."""

    def __init__(self, model: Any, requests: Sequence[FeatureRequest], spoiled: Sequence[int] = ()) -> None:
        super().__init__(model, requests, precision="float32")
        self.spoiled, self.calls = spoiled, 0

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        self.calls += 1
        signals = super().__call__(inputs)
        if self.calls in self.spoiled:
            return TeacherSignals(
                signals.logits,
                {key: rows._replace(values=rows.values * torch.nan) for key, rows in signals.features.items()},
            )
        return signals


class Lecture:
    """One objective, and what it says of a batch."""

    def __init__(self, student: Any, teacher: Any, recipe: dict[str, Any]) -> None:
        torch.manual_seed(3)
        self.student, self.teacher = student, teacher
        self.objective = Objective(ObjectiveRecipe.model_validate(recipe).terms, student=student, teacher=teacher)
        self.source = Teacher(teacher, self.objective.requests, precision="float32")

    def __call__(self, batch: Batch, **options: Any) -> DistillationOutput:
        model = DistillationModel(self.student, self.objective)
        return model(teacher_signals=options.pop("signals", None) or self.source(batch), **options, **batch)


def run(model: Any, batch: Batch) -> Any:
    return model(**model_inputs(model, batch, labels=True), output_hidden_states=True)


class Recorder(TrainerCallback):
    """Keeps the log entries and the weights after each step, and stops after step `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.weights: list[Weights] = []
        self.optimizer: list[dict[str, Any]] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(copy_of(kwargs["model"]))
        self.optimizer.append(copy.deepcopy(kwargs["optimizer"].state_dict()["state"]))
        control.should_training_stop = control.should_training_stop or state.global_step == self.stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def copy_of(model: torch.nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same(left: Weights, right: Weights) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def differ(left: Weights, right: Weights) -> bool:
    return any(not torch.equal(value, right[name]) for name, value in left.items())


def make_trainer(
    folder: Path,
    *,
    recipe: dict[str, Any] = OBJECTIVE,
    seed: int = 0,
    examples: int = 26,
    dropout: float = 0.1,
    spoiled: Sequence[int] = (),
    callbacks: Sequence[TrainerCallback] = (),
    options: Mapping[str, Any] | None = None,
    causal: bool = False,
    swapped: bool = False,
    quantization: QuantizationRecipe | None = None,
    **arguments: Any,
) -> DistillationTrainer:
    student: Any = speaker(2, 16, seed) if causal else classifier(2, 16, seed, dropout)
    teacher: Any = speaker(3, 24, 100) if causal else classifier(3, 24, 100, dropout)
    if swapped:
        student, teacher = teacher, student
    terms = ObjectiveRecipe.model_validate(recipe)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 5e-3,
        "weight_decay": 0.1,
        "logging_steps": 2,
        "save_strategy": "no",
        "train_sampling_strategy": "group_by_length",
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    }
    data = make_answers(examples) if causal else make_examples(examples)
    if quantization is not None:
        quantize(student, quantization)
        calibrate(student, [model_inputs(student, collate(data))], quantization)
        # In float64 no other order of a sum carries a value over the border between two integers.
        student.double()
    return DistillationTrainer(
        student,
        DistillationConfig(str(folder), **{**settings, **arguments}),
        teacher_model=Lessons(teacher, feature_requests(terms, student, teacher), spoiled),
        terms=terms.terms,
        train_dataset=data,
        eval_dataset=data[:10],
        data_collator=collate,
        callbacks=list(callbacks),
        **(options or {}),
    )


def reopen(
    lesson: Any, folder: Path, requests: Sequence[FeatureRequest] | None = None, **settings: Any
) -> TeacherCache:
    settings = {"dtype": "float32", **settings}
    fingerprint = cache_fingerprint(lesson.teacher(), lesson.dataset, **settings)
    return open_cache(folder, fingerprint=fingerprint, requests=lesson.requests if requests is None else requests)


def counted(rows: Rows) -> torch.Tensor:
    """The rows that count, in their order."""
    return rows.values.flatten(0, -2) if rows.mask is None else rows.values[rows.mask]
