"""What reaches the student and its teacher: columns, data that end early, a teacher that somebody told to train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from training import TERMS, Make, Recorder, assert_same, classifier, collate, copy_of, differ, make_examples
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from geodistill.distillation.cache.teacher_cache import prepare_cache
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.devices import flushes_denormals
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import FeatureRequest, SignalSource, Teacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.recipe import ObjectiveRecipe

RECIPE = {"logits": {}, "features": [{"loss": "procrustes", "layers": "uniform"}]}
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def pairs(count: int) -> list[dict[str, Any]]:
    """Pairs of sentences: the second one is of another type, which moves what a BERT makes of it."""
    examples = make_examples(count)
    for example in examples:
        length = len(example["input_ids"])
        example["token_type_ids"] = [int(place >= length // 2) for place in range(length)]
    return examples


def collate_pairs(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate(examples)
    if "token_type_ids" not in examples[0]:
        return batch
    longest = batch["input_ids"].shape[1]
    types = [[*each["token_type_ids"], *[0] * (longest - len(each["token_type_ids"]))] for each in examples]
    return {**batch, "token_type_ids": torch.tensor(types)}


def bert_teacher() -> Any:
    """Its types weigh as much as its words."""
    teacher = classifier(3, 24, 1)
    nn.init.normal_(teacher.bert.embeddings.token_type_embeddings.weight, std=1.0)
    return teacher


class Watched(Teacher):
    """A teacher that keeps which examples it was shown and the rows that it gave."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, precision="float32")
        self.said: list[tuple[list[int], Tensor]] = []

    def __call__(self, inputs: Any) -> Any:
        signals = super().__call__(inputs)
        self.said.append((inputs["example_id"].tolist(), signals.features[self.requests[-1]].values))
        return signals


def distil(folder: Path, source: Any, data: Any) -> DistillationTrainer:
    """Train a DistilBERT, whose forward takes no types of tokens."""
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=100, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=3)
    student = DistilBertForSequenceClassification(config)
    teacher = bert_teacher()
    recipe = ObjectiveRecipe.model_validate(RECIPE)
    trainer = DistillationTrainer(
        student,
        DistillationConfig(str(folder), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-3, **QUIET),
        teacher_model=source(teacher, feature_requests(recipe, student, teacher)),
        terms=recipe.terms,
        train_dataset=data,
        data_collator=collate_pairs,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["list", "dataset"])
def test_inputs_of_the_teacher_alone_reach_it(tmp_path: Path, kind: str) -> None:
    data = pairs(16)
    given = datasets.Dataset.from_list(data) if kind == "dataset" else data
    trainer = distil(tmp_path, Watched, given)
    teacher = Teacher(bert_teacher(), trainer.teacher.requests, precision="float32")
    assert len(trainer.teacher.said) == 4
    for examples, rows in trainer.teacher.said:
        expected = teacher(collate_pairs([data[example] for example in examples])).features[teacher.requests[-1]].values
        torch.testing.assert_close(rows, expected, rtol=0, atol=0)


def test_a_cached_teacher_makes_the_same_student(tmp_path: Path, lesson: Any) -> None:
    data = pairs(16)

    def cached(teacher: Any, requests: Any) -> SignalSource:
        source = Teacher(teacher, requests, precision="float32")
        options = {"dtype": "float32", "limit_bytes": 10**8, "progress": False}
        return prepare_cache(tmp_path / "cache", source, data, collate_pairs, **options)

    online = distil(tmp_path / "online", lambda *args: Teacher(*args, precision="float32"), data)
    from_cache = distil(tmp_path / "cached", cached, data)
    for name, value in copy_of(online.student).items():
        torch.testing.assert_close(copy_of(from_cache.student)[name], value, rtol=1e-3, atol=1e-4)


# Data without an end that is known


class Stream(IterableDataset[dict[str, Any]]):
    def __init__(self, examples: list[dict[str, Any]]) -> None:
        self.examples = examples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.examples)


def streamed(kind: str, count: int) -> Any:
    examples = make_examples(count)
    return Stream(examples) if kind == "torch" else datasets.Dataset.from_list(examples).to_iterable_dataset()


@pytest.mark.parametrize("kind", ["torch", "datasets"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("exact", [False, True])
def test_a_stream_that_ends_goes_round(make: Make, kind: str, accumulation: int, exact: bool) -> None:
    """Eight batches, and more steps than they make: the Trainer begins the stream again."""
    recorder = Recorder()
    trainer = make(
        exact_accumulation=exact,
        max_steps=11,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        callbacks=[recorder],
    )
    trainer.train_dataset = streamed(kind, 32)
    trainer.train()
    assert trainer.state.global_step == 11
    entries = [entry for entry in recorder.logs if "loss" in entry]
    assert len(entries) == 11 and all(set(TERMS) <= set(entry) for entry in entries)
    shown = trainer.teacher.calls
    assert shown == 11 * accumulation


def test_a_stream_trains_as_its_list_does(make: Make, tmp_path: Path) -> None:
    arguments = {
        "dropout": 0.0,
        "gradient_accumulation_steps": 2,
        "max_steps": 4,
        "train_sampling_strategy": "sequential",
    }
    listed = make(examples=16, **arguments)
    listed.train()
    stream = make(examples=16, **arguments)
    stream.train_dataset = Stream(make_examples(16))
    stream.train()
    assert_same(copy_of(stream.student), copy_of(listed.student))


# Teachers


class Holder(nn.Module):
    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher


def test_the_teacher_answers_in_eval_mode_whoever_trains_what_holds_it() -> None:
    model = classifier(2, 16, 0, dropout=0.5)
    teacher = Teacher(model, [FeatureRequest(-1, "tokens")], precision="float32")
    batch = collate(make_examples(4))
    expected = teacher(batch)
    Holder(model).train()
    found = teacher(batch)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=0)
    assert not any(module.training for module in model.modules())


class Own(nn.Module):
    """A teacher of somebody's own: no config, no layers with numbers, outputs as a tuple."""

    def __init__(self, outputs: Any = tuple) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = nn.Embedding(100, 24)
        self.mix = nn.Linear(24, 24)
        self.head = nn.Linear(24, 3)
        self.outputs = outputs

    def forward(self, input_ids: Tensor) -> Any:
        hidden = torch.tanh(self.mix(self.embed(input_ids)))
        logits = self.head(hidden.mean(1))
        return (hidden, logits) if self.outputs is tuple else {"logits": logits}


def own_recipe(**changes: Any) -> dict[str, Any]:
    return {"features": [{"loss": "procrustes", "layers": [["bert.encoder.layer.1", "mix"]], **changes}]}


def taught_by(model: Any, recipe: dict[str, Any], folder: Path) -> DistillationTrainer:
    student = classifier(2, 16, 0)
    trainer = DistillationTrainer(
        student,
        DistillationConfig(str(folder), max_steps=2, **QUIET),
        teacher_model=model,
        terms=ObjectiveRecipe.model_validate(recipe).terms,
        train_dataset=make_examples(16),
        data_collator=collate,
    )
    before, of_teacher = copy_of(student), copy_of(model)
    trainer.train()
    assert differ(copy_of(student), before)
    assert_same(copy_of(model), of_teacher)
    return trainer


@pytest.mark.parametrize("loss", ["procrustes", "projection"])
def test_a_module_of_ones_own_teaches(tmp_path: Path, loss: str) -> None:
    taught_by(Own(), own_recipe(loss=loss), tmp_path)


def test_a_module_of_ones_own_may_have_logits(tmp_path: Path) -> None:
    trainer = taught_by(Own(dict), {"logits": {}, **own_recipe()}, tmp_path)
    assert any("logits" in entry for entry in trainer.state.log_history)
    with pytest.raises(GeodistillError, match=r"teacher gives no logits.*returns them as 'logits'"):
        taught_by(Own(), {"logits": {}, **own_recipe()}, tmp_path)


@pytest.mark.parametrize("layers", ["uniform", [[1, 1]]])
def test_a_module_of_ones_own_has_no_layers_with_numbers(layers: Any) -> None:
    recipe = ObjectiveRecipe.model_validate(own_recipe(layers=layers))
    with pytest.raises(GeodistillError, match=r"Own is not a transformers model.*Name modules by their path"):
        Objective(recipe.terms, student=classifier(2, 16, 0), teacher=Own())


def test_a_module_path_that_a_teacher_lacks_is_refused_at_once() -> None:
    recipe = ObjectiveRecipe.model_validate(own_recipe(layers=[["bert.encoder.layer.1", "mixed"]]))
    with pytest.raises(GeodistillError, match=r"Own has no module 'mixed'\. The nearest is 'mix'"):
        Objective(recipe.terms, student=classifier(2, 16, 0), teacher=Own())


def test_a_teacher_with_adapters_teaches_as_the_model_that_it_computes(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(classifier(3, 24, 1), LoraConfig(init_lora_weights=False, target_modules=["query"]))
    merged = get_peft_model(classifier(3, 24, 1), LoraConfig(init_lora_weights=False, target_modules=["query"]))
    merged.load_state_dict(adapted.state_dict())
    recipe = {"logits": {}, "features": [{"loss": "gram", "layers": "uniform"}]}
    students = [
        copy_of(taught_by(teacher, recipe, tmp_path).student) for teacher in (adapted, merged.merge_and_unload())
    ]
    for name, value in students[0].items():
        torch.testing.assert_close(students[1][name], value, rtol=1e-3, atol=1e-5)


# The process


def test_training_leaves_the_denormal_setting_as_it_was(make: Make) -> None:
    class Look(Recorder):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            found.append(flushes_denormals())

    found: list[bool] = []
    torch.set_flush_denormal(False)
    trainer = make(max_steps=2, callbacks=[Look()])
    assert not flushes_denormals()
    trainer.train()
    assert found == [True, True]
    assert not flushes_denormals()
