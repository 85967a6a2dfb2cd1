"""Adapters alone learn, a checkpoint holds them alone, and merged they are the adapted model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.model import DistillationModel
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import Teacher
from geodistill.distillation.students.adapters import adapted_model, add_adapters, classification_head, merge_adapters
from geodistill.distillation.students.build import build_student
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.recipe import LoraRecipe, ObjectiveRecipe, StudentRecipe

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**IDS, **SHAPE, num_labels=3)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**IDS, **SHAPE, num_labels=3)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**IDS, **SHAPE)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=16, n_layer=2, n_head=2)),
}
RECIPE = {"logits": {}, "features": [{"loss": "procrustes", "layers": "uniform"}, {"loss": "projection"}]}


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


def batch(rows: int = 4) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 40, (rows, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def stir(student: PeftModel) -> None:
    """B starts at zero, where an adapter does nothing."""
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def test_only_adapters_and_a_classification_head_get_gradients(model: PreTrainedModel) -> None:
    teacher = type(model)(model.config)
    student = add_adapters(model, LoraRecipe(rank=2))
    stir(student)
    objective = Objective(ObjectiveRecipe.model_validate(RECIPE).terms, student=student, teacher=teacher)
    signals = Teacher(teacher, objective.requests, precision="float32")(batch())
    DistillationModel(adapted_model(student), objective)(teacher_signals=signals, **batch()).loss.backward()
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    heads = {name for name in reached if "lora_" not in name}
    assert bool(heads) == (model.get_output_embeddings() is None)
    assert all("classifier" in name for name in heads)
    assert not any("lm_head" in name for name in reached)


def test_merged_it_gives_the_logits_of_the_adapted_model(model: PreTrainedModel, tmp_path: Path) -> None:
    before = model(**batch()).logits
    student = add_adapters(model, LoraRecipe(rank=2, alpha=32)).eval()
    torch.testing.assert_close(student(**batch()).logits, before, rtol=0, atol=0)
    stir(student)
    adapted = student(**batch()).logits
    assert (adapted - before).abs().max() > 1e-3
    merged = merge_adapters(student)
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.state_dict().keys() == type(model)(model.config).state_dict().keys()
    torch.testing.assert_close(loaded(**batch()).logits, adapted, rtol=1e-4, atol=1e-6)
    assert merge_adapters(loaded) is loaded and adapted_model(loaded) is loaded


def test_named_layers_alone_are_adapted(model: PreTrainedModel) -> None:
    names = {"bert": "query", "roberta": "query", "llama": "q_proj", "gpt2": "c_attn"}
    name = names[model.config.model_type]
    student = add_adapters(model, LoraRecipe(targets=[name]))
    learned = {each for each, parameter in student.named_parameters() if parameter.requires_grad}
    assert len([each for each in learned if f".{name}.lora_A" in each]) == 2
    assert all(f".{name}." in each or "classifier" in each for each in learned)


def test_an_unknown_layer_is_met_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GeodistillError, match=r"no linear layer 'qeury'.*Did you mean 'query'"):
        add_adapters(FAMILIES["bert"](), LoraRecipe(targets=["qeury"]))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GeodistillError, match=r"geodistill\[peft\]"):
        add_adapters(FAMILIES["bert"](), LoraRecipe())


def test_heads() -> None:
    assert classification_head(FAMILIES["bert"]()) == ["classifier"]
    assert classification_head(FAMILIES["llama"]()) == []
    assert classification_head(FAMILIES["bert"]().bert) == []


def test_learned_prompts_are_refused() -> None:
    prompted = get_peft_model(FAMILIES["llama"](), PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    with pytest.raises(GeodistillError, match="tokens that the other does not see"):
        adapted_model(prompted)


def test_a_recipe_makes_the_same_student_twice() -> None:
    teacher = FAMILIES["bert"]()
    recipe = StudentRecipe(teacher_layers=1, lora=LoraRecipe(rank=2))
    first, second = (build_student(recipe, teacher, seed=3) for _ in range(2))
    assert isinstance(first, PeftModel) and not first.training
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="'lora' adapts weights that were trained"):
        StudentRecipe(width=16, layers=1, lora=LoraRecipe())


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., DistillationTrainer]:
    def make(**arguments: Any) -> DistillationTrainer:
        torch.manual_seed(0)
        teacher, plain = FAMILIES["bert"](), FAMILIES["bert"]()
        student = get_peft_model(plain, LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"))
        rows = batch(16)
        return DistillationTrainer(
            student,
            DistillationConfig(
                str(tmp_path),
                per_device_train_batch_size=4,
                learning_rate=1e-2,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                **{"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **arguments},
            ),
            teacher_model=teacher,
            terms=ObjectiveRecipe.model_validate(RECIPE).terms,
            train_dataset=[{name: value[row] for name, value in rows.items()} for row in range(16)],
        )

    return make


def test_training_and_resuming_with_adapters(make_trainer: Callable[..., DistillationTrainer], tmp_path: Path) -> None:
    whole = make_trainer()
    before = {name: value.clone() for name, value in whole.student.state_dict().items()}
    whole.train()
    after = whole.student.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)
    saved = safetensors.torch.load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")
    assert saved and all("lora_" in name or "classifier" in name for name in saved)
    assert not (tmp_path / "checkpoint-2" / "model.safetensors").exists()

    resumed = make_trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    torch.testing.assert_close(resumed.student.state_dict(), after, rtol=0, atol=0)
    learned = (each.distillation.objective.state_dict() for each in (resumed, whole))
    torch.testing.assert_close(*learned, rtol=0, atol=0)
    loaded = PeftModel.from_pretrained(FAMILIES["bert"](), tmp_path / "checkpoint-4")
    for name, value in loaded.state_dict().items():
        if "lora_" in name:
            assert torch.equal(value, after[name])


def test_the_saved_model_has_its_adapters_merged(
    make_trainer: Callable[..., DistillationTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=2, save_strategy="no")
    trainer.train()
    before = {name: value.clone() for name, value in trainer.student.state_dict().items()}
    trainer.save_model(str(tmp_path / "saved"))
    torch.testing.assert_close(trainer.student.state_dict(), before, rtol=0, atol=0)
    loaded = type(trainer.inner).from_pretrained(tmp_path / "saved").eval()
    merged = merge_adapters(trainer.student)
    torch.testing.assert_close(loaded.state_dict(), merged.state_dict(), rtol=0, atol=0)
    assert {file.name for file in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors"}


def test_a_damaged_adapter_file_is_told(make_trainer: Callable[..., DistillationTrainer], tmp_path: Path) -> None:
    make_trainer().train()
    (tmp_path / "checkpoint-2" / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(GeodistillError, match="cannot be read"):
        make_trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
