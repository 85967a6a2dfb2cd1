from __future__ import annotations

import copy
import inspect
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import (
    OBJECTIVE,
    TERMS,
    Make,
    Recorder,
    assert_same,
    classifier,
    collate,
    copy_of,
    differ,
    make_examples,
    make_trainer,
)
from transformers import AutoTokenizer, Trainer
from transformers.integrations import integration_utils
from transformers.training_args import TrainingArguments

from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.sampler import LengthGroupedSampler
from geodistill.distillation.signals import FeatureRequest, Teacher, model_inputs
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.features import Capture
from geodistill.recipe import FeatureTerm, LabelTerm, LogitTerm, ObjectiveRecipe


def test_training_lowers_the_terms(make: Make) -> None:
    trainer = make(num_train_epochs=8, logging_steps=7, dropout=0.0)
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    for name in ("loss", *TERMS[2:]):
        assert last[name] < 0.7 * first[name], name


def test_teacher_is_left_alone(make: Make) -> None:
    trainer = make()
    before = copy_of(trainer.teacher.model)
    trainer.train()
    assert_same(copy_of(trainer.teacher.model), before)
    assert not trainer.teacher.model.training
    trained = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in trainer.distillation.parameters()}


def test_a_plain_model_may_be_the_teacher(tmp_path: Path) -> None:
    student, teacher = classifier(1, 16, 0), classifier(2, 16, 1)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = DistillationTrainer(
        student,
        arguments,
        teacher_model=teacher,
        terms=[FeatureTerm(loss="gram")],
        train_dataset=make_examples(4),
        data_collator=collate,
    )
    trainer.train()
    assert isinstance(trainer.teacher, Teacher) and trainer.teacher.requests == [FeatureRequest(2, "tokens")]


# Logs


def test_logged_terms_are_the_means_since_the_last_entry(make: Make) -> None:
    recorder = Recorder()
    # At a rate of zero the weights stay, so every entry can be computed again.
    trainer = make(learning_rate=0.0, dropout=0.0, callbacks=[recorder], num_train_epochs=1, examples=24)
    trainer.train()
    order = list(LengthGroupedSampler([len(e["input_ids"]) for e in trainer.train_dataset], 4, trainer.args.seed))
    again = []
    for step in range(1, 7):
        batch = collate([trainer.train_dataset[index] for index in order[4 * step - 4 : 4 * step]])
        capture = Capture(trainer.student.eval(), trainer.distillation.objective.student_points)
        outputs, features = capture(**model_inputs(trainer.student, batch, labels=True))
        again.append(trainer.distillation.objective(outputs, features, trainer.teacher(batch), batch, chance_seed=step))
    entries = [entry for entry in recorder.logs if "loss" in entry]
    assert len(entries) == 3
    for number, entry in enumerate(entries):
        pair = again[2 * number : 2 * number + 2]
        for name in TERMS:
            assert entry[name] == pytest.approx(sum(result.terms[name].item() for result in pair) / 2, rel=1e-5)
        chance = {name: value for name, value in entry.items() if name.startswith("chance/")}
        assert chance == pytest.approx({f"chance/{k}": v.item() for k, v in pair[1].chance.items()}, rel=1e-5)
        assert set(chance) == {f"chance/{name}" for name in TERMS[2:]}
        assert entry["loss"] == pytest.approx(sum(result.loss.item() for result in pair) / 2, rel=1e-5)
        assert entry["starved_terms"] == entry["skipped_steps"] == 0


def test_logged_terms_are_means_over_micro_batches(make: Make) -> None:
    recorder = Recorder()
    shared = {"learning_rate": 0.0, "dropout": 0.0, "num_train_epochs": 1, "examples": 24, "callbacks": [recorder]}
    make(gradient_accumulation_steps=3, logging_steps=2, **shared).train()
    make(logging_steps=6, **shared).train()
    accumulated, plain = (entry for entry in recorder.logs if "loss" in entry)
    for name in ("loss", *TERMS):
        assert accumulated[name] == pytest.approx(plain[name], rel=1e-5)


def test_starved_terms_are_counted_over_the_run(make: Make) -> None:
    recorder = Recorder()
    recipe = {"features": [{"loss": "gram", "rows": "cls"}, {"loss": "gram"}]}
    trainer = make(recipe=recipe, per_device_train_batch_size=1, max_steps=6, callbacks=[recorder])
    trainer.train()
    assert [entry["starved_terms"] for entry in recorder.logs if "loss" in entry] == [2, 4, 6]
    assert trainer.starved_terms == 6


class CountTransfers(TorchDispatchMode):
    """Counts reads of a tensor's value, each of which waits for an accelerator, outside of the models themselves."""

    def __init__(self, *models: torch.nn.Module) -> None:
        super().__init__()
        self.count, self.inside = 0, 0
        for model in models:
            model.register_forward_pre_hook(lambda *call: self.enter(1))
            model.register_forward_hook(lambda *call: self.enter(-1))

    def enter(self, change: int) -> None:
        self.inside += change

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default and not self.inside
        return function(*args, **(kwargs or {}))


def test_terms_wait_for_the_device_only_when_they_are_logged(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without Procrustes, which chooses its algorithm by the values when it runs on a CPU.
    recipe = {**OBJECTIVE, "features": [{"loss": "projection"}, {"loss": "gram", "rows": "mean"}]}
    trainer = make(recipe=recipe, max_steps=4, logging_steps=4, callbacks=[recorder := Recorder()])
    reads = CountTransfers(trainer.student, trainer.teacher.model)
    compute_loss, counts = trainer.compute_loss, []

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        before = reads.count
        loss = compute_loss(*args, **kwargs)
        counts.append(reads.count - before)
        return loss

    monkeypatch.setattr(trainer, "compute_loss", counted)
    with reads:
        trainer.train()
        assert reads.count > 0
    assert counts == [0, 0, 0, 0]
    assert len([name for name in recorder.logs[0] if name.startswith("chance/")]) == 2


# Steps that are not finite


@pytest.mark.parametrize("clipping", [1.0, 0.0])
@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_a_step_that_is_not_finite_changes_nothing(make: Make, clipping: float, optimizer: str) -> None:
    recorder = Recorder()
    momentum = {"optim_args": "momentum=0.9"} if optimizer == "sgd" else {}
    trainer = make(spoiled=[3], callbacks=[recorder], max_grad_norm=clipping, optim=optimizer, max_steps=5, **momentum)
    trainer.train()
    weights = recorder.weights
    assert [differ(after, before) for before, after in pairwise(weights)] == [True, False, True, True]
    torch.testing.assert_close(recorder.optimizer[2], recorder.optimizer[1], rtol=0, atol=0)
    assert all(torch.isfinite(value).all() for value in weights[-1].values())
    assert trainer.skipped_steps == 1
    assert trainer.state.global_step == 5
    assert recorder.logs[-2]["skipped_steps"] == 1


def test_one_micro_batch_spoils_its_whole_step(make: Make) -> None:
    recorder = Recorder()
    make(spoiled=[4], callbacks=[recorder], gradient_accumulation_steps=2, max_steps=3).train()
    assert not differ(recorder.weights[1], recorder.weights[0])
    assert differ(recorder.weights[2], recorder.weights[1])


def test_a_run_of_steps_that_are_not_finite_stops(make: Make) -> None:
    trainer = make(spoiled=[2, 4, 5, 6, 7], max_skipped_steps=3)
    with pytest.raises(GeodistillError, match="not finite for 3 steps in a row"):
        trainer.train()
    assert trainer.skipped_steps == 4
    assert trainer.teacher.calls == 6


# What a Trainer can do besides


def test_bfloat16(make: Make) -> None:
    trainer = make(bf16=True, max_steps=4)
    before = copy_of(trainer.student)
    trainer.train()
    after = copy_of(trainer.student)
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in after.values())
    assert differ(after, before)
    exact = make(max_steps=4)
    exact.train()
    assert differ(copy_of(exact.student), after)
    for rounded, entry in zip(trainer.state.log_history[:2], exact.state.log_history[:2], strict=True):
        for name in TERMS:
            assert rounded[name] == pytest.approx(entry[name], rel=0.05, abs=0.02)


def test_gradient_clipping(make: Make) -> None:
    recorder = Recorder()
    trainer = make(
        callbacks=[recorder],
        max_steps=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.01,
        logging_steps=1,
    )
    before = copy_of(trainer.model)
    trainer.train()
    step = sum((recorder.weights[0][name] - value).square().sum() for name, value in before.items())
    assert step.sqrt().item() == pytest.approx(0.01, rel=1e-3)
    assert recorder.logs[0]["grad_norm"] > 0.1


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    trained = []
    for checkpointing in (False, True):
        trainer = make_trainer(tmp_path, gradient_checkpointing=checkpointing, max_steps=2)
        trainer.train()
        trained.append(copy_of(trainer.model))
    torch.testing.assert_close(trained[0], trained[1], rtol=0, atol=1e-6)


def test_report_to_sees_every_term_and_the_students_config(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reporter(Recorder):
        """Reads what the integrations read."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.config = json.loads(kwargs["model"].config.to_json_string())

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Reporter)
    trainer = make(report_to="tensorboard", max_steps=2)
    trainer.train()
    reporter = next(each for each in trainer.callback_handler.callbacks if isinstance(each, Reporter))
    assert reporter.config["hidden_size"] == 16
    assert set(TERMS) < set(reporter.logs[0])


@pytest.mark.parametrize(
    "setting", [{"label_smoothing_factor": 0.1}, {"options": {"compute_loss_func": lambda *given: None}}]
)
def test_another_loss_beside_the_objective_is_refused(make: Make, setting: dict[str, Any]) -> None:
    with pytest.raises(GeodistillError, match="sum of the terms"):
        make(**setting)


def test_a_dataset_keeps_the_columns_that_the_objective_needs(make: Make) -> None:
    recipe = {"features": [{"loss": "gram", "special_tokens": False}]}
    trainer = make(recipe=recipe, max_steps=1)
    data = Dataset.from_list([{**example, "text": "left out"} for example in make_examples(8)])
    trainer.train_dataset = data
    trainer.train()
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "special_tokens_mask", "labels", "example_id"}


@pytest.mark.parametrize("data_seed", [None, 0, 7])
def test_data_seed_orders_the_batches(make: Make, data_seed: int | None) -> None:
    trainer = make(data_seed=data_seed)
    lengths = [len(example["input_ids"]) for example in trainer.train_dataset]
    expected = LengthGroupedSampler(lengths, 4, trainer.args.seed if data_seed is None else data_seed)
    assert list(trainer._get_train_sampler()) == list(expected)


def test_signals_for_other_rows_are_refused(tmp_path: Path) -> None:
    student, teacher = classifier(2, 16, 0), classifier(3, 24, 1)
    source = Teacher(teacher, [FeatureRequest(3, "tokens")])
    with pytest.raises(GeodistillError, match="lack the rows") as caught:
        DistillationTrainer(
            student,
            TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
            teacher_model=source,
            terms=ObjectiveRecipe.model_validate(OBJECTIVE).terms,
        )
    assert "requests=objective.requests" in caught.value.remedy


# What it is given


def test_the_arguments_come_in_the_order_of_the_trainer() -> None:
    ours, theirs = (inspect.signature(each).parameters.values() for each in (DistillationTrainer, Trainer))
    given = [(each.name, each.kind.name, each.default) for each in ours]
    own = [(name, "KEYWORD_ONLY", None) for name in ("teacher_model", "terms", "teacher_terms", "probe")]
    assert given == [*((each.name, each.kind.name, each.default) for each in theirs), *own]


def short(folder: Path, **more: Any) -> DistillationConfig:
    quiet = {"max_steps": 3, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    return DistillationConfig(str(folder), **{**quiet, "learning_rate": 1e-3, **more})


def test_labels_alone_need_no_teacher(tmp_path: Path) -> None:
    trainer = DistillationTrainer(
        classifier(1, 16, 0), short(tmp_path), collate, make_examples(8), terms=[LabelTerm(weight=0.5)]
    )
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0


@pytest.mark.parametrize("term", [LogitTerm(), FeatureTerm(loss="gram")])
def test_a_term_that_compares_needs_a_teacher(tmp_path: Path, term: Any) -> None:
    with pytest.raises(GeodistillError, match=r"There is no teacher model.*Give teacher_model="):
        DistillationTrainer(classifier(1, 16, 0), short(tmp_path), terms=[term])


@pytest.mark.parametrize("given", ["bert-base-uncased", {"model": "bert"}])
def test_a_teacher_that_is_no_model_is_refused(tmp_path: Path, given: Any) -> None:
    with pytest.raises(GeodistillError, match=r"The teacher is .*, which is no model.*from_pretrained"):
        DistillationTrainer(classifier(1, 16, 0), short(tmp_path), teacher_model=given, terms=[LabelTerm()])


def test_a_cache_without_its_model_is_refused(lesson: Any, tmp_path: Path) -> None:
    cache = lesson.prepare(tmp_path / "cache")
    cache.model = None
    with pytest.raises(GeodistillError, match=r"opened with model=teacher"):
        DistillationTrainer(
            classifier(1, 16, 0), short(tmp_path), teacher_model=cache, terms=[FeatureTerm(loss="gram")]
        )


def test_model_init_makes_the_student_and_the_projections_anew(tmp_path: Path) -> None:
    made: list[Any] = []

    def student() -> Any:
        made.append(classifier(2, 16, 7))
        return made[-1]

    terms = ObjectiveRecipe.model_validate(OBJECTIVE).terms
    given: dict[str, Any] = {"teacher_model": classifier(3, 24, 1), "terms": terms, "data_collator": collate}
    given |= {"args": short(tmp_path, seed=4), "train_dataset": make_examples(12)}
    trainer = DistillationTrainer(model_init=student, **given)
    results = []
    for _ in range(2):
        trainer.train()
        trainer.objective = 0.5  # as a search for hyper-parameters sets it
        results.append(copy_of(trainer.distillation))
        assert trainer.student is made[-1] and trainer.distillation.student is made[-1]
    assert len(made) == 3
    assert_same(*results)
    plain = DistillationTrainer(classifier(2, 16, 7), **given)
    assert differ(copy_of(plain.distillation), results[0])
    first = copy_of(plain.distillation.objective)
    assert_same(first, copy_of(DistillationTrainer(model_init=student, **given).distillation.objective))


def test_each_training_of_a_model_init_counts_for_itself(tmp_path: Path) -> None:
    trainer = DistillationTrainer(
        args=short(tmp_path, per_device_train_batch_size=1),
        model_init=lambda: classifier(2, 16, 7),
        data_collator=collate,
        train_dataset=make_examples(3),
        teacher_model=classifier(3, 24, 1),
        terms=[FeatureTerm(loss="gram", rows="cls")],
    )
    for _ in range(2):
        trainer.train()
        assert trainer.starved_terms == 3


def test_a_processing_class_pads_and_is_saved(lesson: Any, tmp_path: Path) -> None:
    student = type(lesson.model)(lesson.model.config)
    trainer = DistillationTrainer(
        student,
        short(tmp_path / "out"),
        train_dataset=lesson.dataset,
        teacher_model=lesson.model,
        terms=[LabelTerm(), FeatureTerm(loss="gram")],
        processing_class=lesson.tokenizer,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == lesson.tokenizer.get_vocab()
    assert_same(load_file(tmp_path / "saved" / "model.safetensors"), copy_of(student))


def test_vocabularies_that_are_padded_to_different_sizes_meet_in_their_tokens(speaking: Any, tmp_path: Path) -> None:
    wider = copy.deepcopy(speaking.model.config)
    wider.vocab_size = 48
    student = type(speaking.model)(wider)
    tokens = [example["input_ids"][:4] for example in speaking.encode(12) if len(example["input_ids"]) >= 4]
    rows = [{"input_ids": ids, "attention_mask": [1] * 4, "labels": ids} for ids in tokens]
    given: dict[str, Any] = {"teacher_model": speaking.model, "terms": [LogitTerm()], "train_dataset": rows}
    with pytest.raises(GeodistillError, match="48"):
        DistillationTrainer(student, short(tmp_path), **given).train()
    trainer = DistillationTrainer(student, short(tmp_path), processing_class=speaking.tokenizer, **given)
    trainer.train()
    assert trainer.teacher.vocabulary == trainer.distillation.objective.vocabulary == len(speaking.tokenizer)
