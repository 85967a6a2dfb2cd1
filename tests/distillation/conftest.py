from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from training import Make, make_trainer
from transformers import (
    DataCollatorWithPadding,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from geodistill.distillation.cache.teacher_cache import TeacherCache, prepare_cache
from geodistill.distillation.signals import FeatureRequest, Teacher, TeacherSignals

OnCall = Callable[[int], None]
WORDS = [f"word{number}" for number in range(30)]


class ObservedTeacher(Teacher):
    """A teacher that notes which examples it was shown; `on_call` learns how often it was called before."""

    def __init__(self, model: PreTrainedModel, requests: Sequence[FeatureRequest], on_call: OnCall | None) -> None:
        super().__init__(model, requests, precision="float32")
        self.on_call = on_call
        self.shown: list[list[int]] = []

    def __call__(self, inputs: Any) -> TeacherSignals:
        if self.on_call is not None:
            self.on_call(len(self.shown))
        self.shown.append(inputs["example_id"].tolist())
        return super().__call__(inputs)


class Lesson:
    """A tiny teacher with a tiny encoded data set. RoBERTa counts positions from the text, wherever the padding is."""

    requests: tuple[FeatureRequest, ...] = (
        FeatureRequest(-1, "tokens"),
        FeatureRequest(1, "tokens", special_tokens=False),
        FeatureRequest(1, "cls"),
        FeatureRequest(0, "mean"),
        FeatureRequest(2, "mean", special_tokens=False),
        FeatureRequest("roberta.encoder.layer.0.attention", "last"),
    )

    def __init__(self, examples: int = 30) -> None:
        torch.manual_seed(0)
        self.model = RobertaForSequenceClassification(tiny_config())
        self.tokenizer = word_tokenizer()
        self.dataset = self.encode(examples)

    def encode(self, examples: int, seed: int = 0) -> list[dict[str, Any]]:
        draw = random.Random(seed)
        texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 9))) for _ in range(examples)]
        encoded = self.tokenizer(texts, return_special_tokens_mask=True)
        return [
            {"example_id": row, "labels": 0, **{name: values[row] for name, values in encoded.items()}}
            for row in range(examples)
        ]

    def teacher(
        self, requests: Sequence[FeatureRequest] | None = None, on_call: OnCall | None = None
    ) -> ObservedTeacher:
        return ObservedTeacher(self.model, self.requests if requests is None else requests, on_call)

    def collate(self, side: str = "right", length: int | None = None) -> Callable[[list[Any]], dict[str, Any]]:
        self.tokenizer.padding_side = side
        padding: Any = "max_length" if length else True
        return DataCollatorWithPadding(self.tokenizer, padding=padding, max_length=length)

    def batch(self, positions: Sequence[int], side: str = "right", length: int | None = None) -> dict[str, Any]:
        return dict(self.collate(side, length)([self.dataset[position] for position in positions]))

    def prepare(self, folder: Path, teacher: Teacher | None = None, **options: Any) -> TeacherCache:
        options = {"dtype": "float32", "limit_bytes": 10**8, "batch_size": 4, "progress": False, **options}
        dataset = options.pop("dataset", self.dataset)
        return prepare_cache(folder, teacher or self.teacher(), dataset, self.collate(), **options)


def tiny_config(**changes: Any) -> RobertaConfig:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 40, "pad_token_id": 0, "num_labels": 3}
    return RobertaConfig(**{**sizes, **changes})


def word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session", autouse=True)
def single_threaded() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def lesson() -> Lesson:
    return Lesson()


@pytest.fixture
def speaking(lesson: Lesson) -> Lesson:
    """The lesson of a decoder that has logits for every token of its vocabulary of 40."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    lesson.model = LlamaForCausalLM(LlamaConfig(vocab_size=40, pad_token_id=0, **sizes))
    lesson.requests = (FeatureRequest(-1, "tokens"),)
    return lesson


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda **changes: make_trainer(tmp_path / "out", **changes)
