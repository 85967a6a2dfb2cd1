"""Students of any head, what the Trainer asks of the module that holds them, and that its parts are apart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training import OBJECTIVE, Lecture, Recorder, classifier, collate, copy_of, differ, make_examples, make_trainer
from transformers import BertConfig, BertForPreTraining, BertForQuestionAnswering, BertModel

from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.model import DistillationModel, check_separate
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import Teacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.features import is_causal
from geodistill.recipe import ObjectiveRecipe

FEATURES = {"features": [{"loss": "procrustes", "layers": "uniform"}]}
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def headed(kind: Any, layers: int = 2, width: int = 16, seed: int = 0, **config: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": width}
    return kind(BertConfig(vocab_size=100, max_position_embeddings=32, **sizes, **config))


def answers(count: int) -> list[dict[str, Any]]:
    examples = make_examples(count)
    return [{**example, "start_positions": 1, "end_positions": 2} for example in examples]


def collate_answers(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate(examples)
    batch.pop("labels")
    positions = {
        name: torch.tensor([each[name] for each in examples])
        for name in ("start_positions", "end_positions")
        if name in examples[0]
    }
    return {**batch, **positions}


def trained(folder: Path, student: Any, teacher: Any, recipe: dict[str, Any], **arguments: Any) -> DistillationTrainer:
    trainer = DistillationTrainer(
        student,
        DistillationConfig(str(folder), max_steps=2, **{**QUIET, **arguments}),
        teacher_model=teacher,
        terms=ObjectiveRecipe.model_validate(recipe).terms,
        train_dataset=answers(16),
        eval_dataset=answers(4),
        data_collator=collate_answers,
    )
    before = copy_of(trainer.student)
    trainer.train()
    assert differ(copy_of(trainer.student), before)
    return trainer


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}])
def test_bare_models_learn_from_feature_terms(tmp_path: Path, arguments: dict[str, Any]) -> None:
    trainer = trained(tmp_path, headed(BertModel), headed(BertModel, 3, 24, 1), FEATURES, **arguments)
    assert set(trainer.evaluate()) >= {"eval_runtime"}


def test_question_answering_learns_from_its_own_loss(tmp_path: Path) -> None:
    student, teacher = headed(BertForQuestionAnswering), headed(BertForQuestionAnswering, 3, 24, 1)
    trainer = trained(tmp_path, student, teacher, {"label": {}, **FEATURES}, weight_decay=0.0)
    batch = collate_answers(answers(4))
    with torch.no_grad():
        names = ("input_ids", "attention_mask", "start_positions", "end_positions")
        expected = student.eval()(**{name: batch[name] for name in names}).loss
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    logged = next(entry for entry in trainer.state.log_history if "label" in entry)
    assert logged["loss"] == pytest.approx(
        logged["label"] + logged["procrustes_1_2"] / 2 + logged["procrustes_2_3"] / 2
    )


def test_a_label_term_alone_needs_the_loss_alone(tmp_path: Path) -> None:
    trained(tmp_path, headed(BertForQuestionAnswering), headed(BertForQuestionAnswering, 3), {"label": {}})


def test_outputs_as_tuples_change_nothing() -> None:
    batch = collate(make_examples(6))
    paths = {"features": [{"loss": "gram", "layers": [["bert.encoder.layer.1", "bert.encoder.layer.2"]]}]}
    for recipe in ({"label": {}, "logits": {}, **FEATURES}, {"label": {}, "logits": {}, **paths}):
        losses = []
        for return_dict in (True, False):
            student, teacher = classifier(2, 16, 0, dropout=0.0), classifier(3, 24, 1)
            student.config.return_dict = teacher.config.return_dict = return_dict
            losses.append(Lecture(student, teacher, recipe)(batch).loss)
        torch.testing.assert_close(*losses, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [BertModel, BertForQuestionAnswering])
def test_a_logit_term_without_logits_is_told(tmp_path: Path, kind: Any) -> None:
    with pytest.raises(GeodistillError, match="logit term, but the student gives no logits"):
        Lecture(headed(kind), classifier(2, 16, 1), {"logits": {}, **FEATURES})(collate(make_examples(4)))
    with pytest.raises(GeodistillError, match="logit term, but the teacher gives no logits"):
        Lecture(classifier(2, 16, 1), headed(kind), {"logits": {}, **FEATURES})(collate(make_examples(4)))


def test_a_label_term_without_a_loss_is_told() -> None:
    lecture = Lecture(headed(BertModel), headed(BertModel), {"label": {}, **FEATURES})
    batch = collate(make_examples(4))
    with pytest.raises(GeodistillError, match="student computes no loss of the labels"):
        lecture(batch)
    batch.pop("labels")
    with pytest.raises(GeodistillError, match="the data has no labels"):
        lecture(batch)


def test_a_head_of_pretraining_is_no_causal_one() -> None:
    """It has a language-model head, and its logits have another name."""
    student = headed(BertForPreTraining)
    assert not is_causal(student)
    output = Lecture(student, headed(BertForPreTraining, 3, seed=1), FEATURES)(collate(make_examples(4)))
    assert output.loss > 0 and output.logits is None


# NEFTune


def test_the_embeddings_are_the_students() -> None:
    student = classifier(1, 16, 0)
    objective = Objective(ObjectiveRecipe.model_validate(FEATURES).terms, student=student, teacher=classifier(1, 16, 1))
    assert DistillationModel(student, objective).get_input_embeddings() is student.get_input_embeddings()


def test_neftune_adds_noise_to_the_student_alone(tmp_path: Path) -> None:
    runs = {}
    for alpha in (None, 5.0):
        trainer = make_trainer(tmp_path, dropout=0.0, max_steps=3, neftune_noise_alpha=alpha, callbacks=[Recorder()])
        seen: list[Tensor] = []
        trainer.teacher.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(output)
        )
        trainer.train()
        runs[alpha] = trainer, seen
    (plain, plain_seen), (noisy, noisy_seen) = runs.values()
    assert differ(copy_of(plain.student), copy_of(noisy.student))
    assert plain_seen and all(torch.equal(a, b) for a, b in zip(plain_seen, noisy_seen, strict=True))
    assert not noisy.student.get_input_embeddings()._forward_hooks
    assert noisy.evaluate()["eval_loss"] == noisy.evaluate()["eval_loss"]


def test_exact_accumulation_sees_the_same_noise_twice(tmp_path: Path) -> None:
    arguments = {"gradient_accumulation_steps": 2, "exact_accumulation": True, "neftune_noise_alpha": 5.0}
    trainer = make_trainer(tmp_path, max_steps=1, **arguments)
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output.detach().clone())

    trainer.student.bert.embeddings.register_forward_hook(keep)
    trainer.train()
    first, second = seen[:2], seen[2:]
    assert len(first) == len(second) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape != first[1].shape or not torch.equal(*first)


# What is apart


def shared_block(teacher: Any) -> Any:
    student = classifier(2, 16, 1)
    student.bert.encoder.layer[0] = teacher.bert.encoder.layer[0]
    return student


def a_view(teacher: Any) -> Any:
    student = classifier(2, 16, 1)
    student.classifier.weight = nn.Parameter(teacher.classifier.weight.detach()[:])
    return student


@pytest.mark.parametrize("student_of", [lambda teacher: teacher, copy.copy, shared_block, a_view])
def test_shared_parameters_are_refused(student_of: Any) -> None:
    teacher = classifier(2, 16, 0)
    with pytest.raises(GeodistillError, match=r"The student shares the parameter '.*' with the teacher"):
        check_separate(student_of(teacher), teacher)


def test_adapters_over_the_teacher_itself_are_refused() -> None:
    peft = pytest.importorskip("peft")
    teacher = classifier(2, 16, 0)
    adapted = peft.get_peft_model(copy.deepcopy(teacher), peft.LoraConfig(target_modules=["query"]))
    check_separate(adapted, teacher)
    with pytest.raises(GeodistillError, match="shares the parameter"):
        check_separate(peft.get_peft_model(teacher, peft.LoraConfig(target_modules=["query"])), teacher)


def test_what_the_objective_learns_is_its_own() -> None:
    student, teacher, objective = classifier(2, 16, 0), classifier(2, 16, 1), nn.Linear(2, 2)
    check_separate(student, teacher, objective)
    for owner, whose in ((student, "student"), (teacher, "teacher")):
        with pytest.raises(GeodistillError, match=f"The objective shares .* with the {whose}"):
            check_separate(student, teacher, nn.ModuleList([objective, owner.classifier]))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_trainer_refuses_its_teacher_as_the_student(wrapped: bool, tmp_path: Path) -> None:
    teacher = classifier(2, 16, 0)
    recipe = ObjectiveRecipe.model_validate(OBJECTIVE)
    with pytest.raises(GeodistillError, match="The student shares the parameter"):
        DistillationTrainer(
            copy.copy(teacher),
            DistillationConfig(str(tmp_path), use_cpu=True, report_to="none"),
            teacher_model=Teacher(teacher, feature_requests(recipe, teacher, teacher)) if wrapped else teacher,
            terms=recipe.terms,
            train_dataset=make_examples(4),
            data_collator=collate,
        )
