"""Real steps of TRL's own trainers, with feature terms in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer

from geodistill import FeatureTerm, GeodistillError, ProcrustesLoss
from geodistill.integrations.trl import GEOMETRY_FILE, token_inputs, with_geometry

TERM = FeatureTerm(loss="procrustes", rows="response", layers="uniform", weight=2.0)
PROJECTION = FeatureTerm(loss="projection", rows="response")
LINES = [(f"What comes after {n} in the row of numbers?", f"After {n} comes {n + 1}, of course.") for n in range(24)]
NAMES = ["procrustes_1_2", "procrustes_2_4"]
Make = Callable[..., Any]


def messages() -> Dataset:
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in LINES]
    return Dataset.from_dict({"messages": turns})


def prompts() -> Dataset:
    return Dataset.from_dict({"prompt": [[{"role": "user", "content": question}] for question, _ in LINES]})


def answers() -> Dataset:
    return Dataset.from_dict({"prompt": [q for q, _ in LINES], "completion": [a for _, a in LINES]})


def shared(folder: Path, **arguments: Any) -> dict[str, Any]:
    given = {"per_device_train_batch_size": 4, "max_steps": 3, "logging_steps": 1, "save_strategy": "no"}
    given |= {"learning_rate": 1e-2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "bf16": False}
    return {"output_dir": str(folder), **given, **arguments}


class Recorder(TrainerCallback):
    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))

    def values(self, name: str) -> list[float]:
        return [entry[name] for entry in self.logs if name in entry]


@pytest.fixture
def gkd(tmp_path: Path, tokenizer: Any, language_model: Make) -> Make:
    def make(*, family: str = "llama", terms: Any = (TERM,), lmbda: float = 0.0, **changes: Any) -> Any:
        arguments = shared(tmp_path, lmbda=lmbda, max_new_tokens=8, max_length=64)
        given = {name: changes.pop(name) for name in ("peft_config", "eval_dataset") if name in changes}
        return with_geometry(GKDTrainer)(
            model=language_model(2, 16, family=family),
            teacher_model=language_model(4, 32, seed=1, family=family),
            terms=list(terms),
            args=GKDConfig(**{**arguments, **changes}),
            train_dataset=messages(),
            processing_class=tokenizer,
            callbacks=[Recorder()],
            **given,
        )

    return make


def recorder(trainer: Any) -> Recorder:
    return next(each for each in trainer.callback_handler.callbacks if isinstance(each, Recorder))


def batch_of(trainer: Any) -> dict[str, Tensor]:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gkd_trains_with_feature_terms(gkd: Make, family: str) -> None:
    trainer = gkd(family=family, max_steps=12)
    trainer.train()
    seen = recorder(trainer)
    for name in NAMES:
        values = seen.values(name)
        assert len(values) == 12 and all(0 <= value <= 2 for value in values)
        assert sum(values[-3:]) < sum(values[:3])
    assert seen.values("starved_terms") == [0] * 12
    assert all(torch.isfinite(torch.tensor(seen.values("loss"))))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_term_and_its_gradient_are_those_of_the_hidden_states(gkd: Make, checkpointing: bool) -> None:
    trainer = gkd(gradient_checkpointing=checkpointing)
    batch = batch_of(trainer)
    student, teacher = trainer.model.train(), trainer.teacher_model
    plain = GKDTrainer.compute_loss(trainer, student, dict(batch))
    whole = trainer.compute_loss(student, dict(batch))

    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden = [model(**given, output_hidden_states=True).hidden_states for model in (student, teacher)]
    mask = batch["labels"] != -100
    assert 0 < mask.sum() < batch["attention_mask"].sum()
    expected = sum(ProcrustesLoss()(hidden[0][m], hidden[1][2 * m], mask=mask) for m in (1, 2)) / 2
    torch.testing.assert_close(whole - plain, 2 * expected, rtol=1e-5, atol=1e-6)

    student.zero_grad()
    (whole - plain).backward()
    found = gradients(student)
    student.zero_grad()
    (2 * expected).backward()
    assert not any(parameter.grad is not None for parameter in teacher.parameters())
    for name, gradient in gradients(student).items():
        torch.testing.assert_close(found.get(name, torch.zeros(())).expand_as(gradient), gradient, rtol=1e-4, atol=1e-6)
    assert found["model.layers.0.mlp.up_proj.weight"].abs().max() > 1e-5


def test_accumulated_micro_batches_weigh_the_term_as_one_batch(gkd: Make) -> None:
    """The trainer divides its loss by the tokens of all micro-batches; the term has to be divided beside it."""
    trainer = gkd(terms=[TERM.model_copy(update={"weight": 1e4})])
    batch = batch_of(trainer)
    steps = []
    for parts, items in ((1, torch.tensor(50)), (1, None), (4, torch.tensor(50)), (4, None)):
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = parts
        for _ in range(parts):
            super(GKDTrainer, trainer).training_step(trainer.model, dict(batch), items)
        steps.append(trainer.model.model.layers[0].mlp.up_proj.weight.grad.clone())
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0], rtol=1e-3, atol=1e-2 * steps[0].abs().max().item())


def test_responses_of_the_students_own_are_compared(gkd: Make) -> None:
    trainer = gkd(lmbda=1.0)
    compared = []
    original = trainer.geometry.forward

    def watch(outputs: Any, features: Any, signals: Any, inputs: Mapping[str, Tensor], **options: Any) -> Any:
        compared.append({name: inputs[name].clone() for name in ("input_ids", "labels", "prompts")})
        return original(outputs, features, signals, inputs, **options)

    trainer.geometry.forward = watch
    trainer.train()
    assert len(compared) == 3
    for batch in compared:
        width = batch["prompts"].shape[1]
        assert torch.equal(batch["input_ids"][:, :width], batch["prompts"])
        assert batch["input_ids"].shape[1] - width <= 8
        assert (batch["labels"][:, :width] == -100).all() and (batch["labels"] != -100).any()
    assert all(0 < value < 2 for value in recorder(trainer).values(NAMES[0]))


def test_adapters_alone_learn_from_the_terms(gkd: Make) -> None:
    trainer = gkd(peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    plain = trainer.compute_loss(trainer.model.train(), batch_of(trainer))
    plain.backward()
    assert {"lora_" in name for name in gradients(trainer.model)} == {True}
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    assert len(recorder(trainer).values(NAMES[0])) == 3


def test_evaluation_logs_the_terms_and_keeps_its_loss(gkd: Make) -> None:
    trainer = gkd(eval_dataset=messages(), per_device_eval_batch_size=8)
    found = trainer.evaluate()
    logged = recorder(trainer).logs[-1]
    assert 0 < logged["eval_procrustes_2_4"] < 2
    whole, trainer.geometry.forward = found["eval_loss"], None
    trainer.compute_loss = lambda *args, **options: GKDTrainer.compute_loss(trainer, *args, **options)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(whole)


def test_a_projection_is_trained_and_resumed(gkd: Make, tmp_path: Path) -> None:
    arguments = {"terms": [TERM, PROJECTION], "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = gkd(**arguments)
    first = {name: value.clone() for name, value in whole.geometry.state_dict().items()}
    whole.train()
    assert first.keys() == {"features.1.losses.0.weight"}
    assert all(not torch.equal(value, first[name]) for name, value in whole.geometry.state_dict().items())
    assert (tmp_path / "checkpoint-2" / GEOMETRY_FILE).is_file()

    resumed = gkd(**arguments)
    torch.testing.assert_close(resumed.geometry.state_dict(), first, rtol=0, atol=0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for part in ("geometry", "model"):
        found, expected = (getattr(each, part).state_dict() for each in (resumed, whole))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    whole.save_model(str(tmp_path / "saved"))
    assert not any("losses" in name for name in type(whole.model).from_pretrained(tmp_path / "saved").state_dict())

    (tmp_path / "checkpoint-2" / GEOMETRY_FILE).unlink()
    with pytest.raises(GeodistillError, match="projections are not there"):
        gkd(**arguments).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_projection_forgets_the_gradient_of_the_step_before(gkd: Make) -> None:
    trainer = gkd(terms=[PROJECTION], optim="sgd", weight_decay=0.0, max_grad_norm=0.0, lr_scheduler_type="constant")
    (weight,) = trainer.geometry.parameters()
    seen = []
    weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    before = weight.detach().clone()
    trainer.train()
    torch.testing.assert_close(weight, before - 1e-2 * sum(seen), rtol=1e-4, atol=1e-7)


@pytest.fixture
def on_policy(tmp_path: Path, tokenizer: Any, language_model: Make) -> Make:
    def make(**changes: Any) -> Any:
        arguments = shared(tmp_path, max_completion_length=8, **changes)
        return with_geometry(trl.DistillationTrainer)(
            model=language_model(2, 16),
            teacher_model=language_model(4, 32, seed=1),
            terms=[TERM, PROJECTION],
            args=trl.DistillationConfig(**arguments),
            train_dataset=prompts(),
            processing_class=tokenizer,
            callbacks=[Recorder()],
        )

    return make


def test_the_distillation_trainer_calls_backbones_alone(on_policy: Make) -> None:
    trainer = on_policy(gradient_accumulation_steps=2)
    before = {name: value.clone() for name, value in trainer.geometry.state_dict().items()}
    trainer.train()
    seen = recorder(trainer)
    for name in [*NAMES, "projection_2_4", "entropy"]:
        assert len(seen.values(name)) == 3 and all(torch.isfinite(torch.tensor(seen.values(name))))
    assert all(not torch.equal(value, before[name]) for name, value in trainer.geometry.state_dict().items())


def test_the_distillation_trainer_compares_its_completions(on_policy: Make) -> None:
    trainer = on_policy()
    batch = batch_of(trainer)
    model = trainer.model.train()
    plain = trl.DistillationTrainer.compute_loss(trainer, model, batch)
    trainer.current_gradient_accumulation_steps = 1
    whole = trainer.compute_loss(model, batch)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attended = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    given = {"input_ids": ids, "attention_mask": attended}
    hidden = [m(**given, output_hidden_states=True).hidden_states for m in (model, trainer.teacher_model)]
    width = batch["completion_ids"].shape[1]
    cut = [[layer[:, -width:] for layer in layers] for layers in hidden]
    mask = batch["completion_mask"]
    expected = 2 * sum(ProcrustesLoss()(cut[0][m], cut[1][2 * m], mask=mask) for m in (1, 2)) / 2
    expected = expected + trainer.geometry.features[1].losses[0](cut[0][2], cut[1][4], mask=mask)
    torch.testing.assert_close(whole - plain, expected, rtol=1e-5, atol=1e-5)


def test_tokens_that_a_tool_wrote_are_no_response() -> None:
    prompt, completion = torch.tensor([[0, 5, 6]]), torch.tensor([[7, 8, 9, 0]])
    batch = {"prompt_ids": prompt, "prompt_mask": (prompt != 0).int()}
    batch |= {"completion_ids": completion, "completion_mask": (completion != 0).int()}
    whole = token_inputs(batch)
    assert whole["input_ids"].tolist() == [[0, 5, 6, 7, 8, 9, 0]]
    assert whole["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1, 0]]
    assert whole["labels"].tolist() == [[-100, -100, -100, 7, 8, 9, -100]]
    tools = token_inputs({**batch, "tool_mask": torch.tensor([[1, 0, 1, 1]])})
    assert tools["labels"].tolist() == [[-100, -100, -100, 7, -100, 9, -100]]


def test_a_trainer_without_a_teacher_gets_one(tmp_path: Path, tokenizer: Any, language_model: Make) -> None:
    trainer = with_geometry(trl.SFTTrainer)(
        model=language_model(2, 16),
        teacher_model=language_model(4, 32, seed=1),
        terms=[TERM],
        args=trl.SFTConfig(**shared(tmp_path, max_length=64)),
        train_dataset=answers(),
        processing_class=tokenizer,
        callbacks=[Recorder()],
    )
    batch = batch_of(trainer)
    model = trainer.model.train()
    plain = trl.SFTTrainer.compute_loss(trainer, model, dict(batch))
    whole = trainer.compute_loss(model, dict(batch))
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    teacher = trainer._own_teacher.model
    hidden = [m(**given, output_hidden_states=True).hidden_states for m in (model, teacher)]
    mask = batch["labels"] != -100
    expected = sum(ProcrustesLoss()(hidden[0][m], hidden[1][2 * m], mask=mask) for m in (1, 2))
    torch.testing.assert_close(whole - plain, expected, rtol=1e-3, atol=1e-5)  # the teacher may run in bfloat16
    trainer.train()
    assert len(recorder(trainer).values(NAMES[1])) == 3


def test_mistakes_are_told(tmp_path: Path, tokenizer: Any, language_model: Make) -> None:
    with pytest.raises(GeodistillError, match=r"geodistill\[trl\]"):
        with_geometry(dict)
    assert with_geometry(trl.SFTTrainer) is with_geometry(trl.SFTTrainer)
    given = {
        "model": language_model(2, 16),
        "args": trl.SFTConfig(**shared(tmp_path)),
        "train_dataset": answers(),
        "processing_class": tokenizer,
    }
    with pytest.raises(GeodistillError, match="no teacher model"):
        with_geometry(trl.SFTTrainer)(**given, terms=[TERM])
    with pytest.raises(GeodistillError, match="There are no terms"):
        with_geometry(trl.SFTTrainer)(**given, terms=[], teacher_model=language_model(4, 32))
