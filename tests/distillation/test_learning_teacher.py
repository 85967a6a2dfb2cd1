"""A teacher that learns beside its student, in the same steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from split_over_ranks import BOTH, TEACHER_RECIPE, one_step
from torch import Tensor, nn
from training import (
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
from transformers import AutoModelForSequenceClassification

from geodistill.distillation.cache.teacher_cache import prepare_cache
from geodistill.distillation.checkpoint import last_checkpoint
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.signals import Teacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.recipe import LabelTerm, LogitTerm, ObjectiveRecipe

TEACHER_TERMS = ObjectiveRecipe.model_validate(TEACHER_RECIPE).terms
STEPS = {"save_strategy": "steps", "save_steps": 6}


def side(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize("clipping", [0.0, 0.5])
def test_each_model_gets_the_gradient_of_a_training_of_its_own(tmp_path: Path, clipping: float) -> None:
    """Each model is compared with the other before the step, frozen, and clipped by its norm."""
    shared = {"dropout": 0.0, "max_grad_norm": clipping}
    both = one_step(tmp_path, 8, 1, **BOTH, **shared)["gradient"]
    student = one_step(tmp_path, 8, 1, **shared)["gradient"]
    swapped = one_step(tmp_path, 8, 1, recipe=TEACHER_RECIPE, swapped=True, **shared)["gradient"]
    for name, parts in {"student": ("student.", "objective."), "teacher": ("teacher.", "teacher_objective.")}.items():
        alone = student if name == "student" else swapped
        for prefix, theirs in zip(parts, ("student.", "objective."), strict=True):
            assert_same(side(both, prefix), side(alone, theirs))
    assert any(value.abs().max() > 1e-4 for value in side(both, "teacher.").values())


def test_in_bfloat16_each_model_gets_nearly_the_gradient_of_float32(tmp_path: Path) -> None:
    """Autocast rounds what the models compute; weights, gradients and the mathematics of the terms stay float32."""
    exact, rounded = (one_step(tmp_path, 8, 1, **BOTH, bf16=bf16)["gradient"] for bf16 in (False, True))
    for prefix in ("student.", "teacher."):
        names = list(side(exact, prefix))
        one, other = (torch.cat([side(each, prefix)[name].flatten() for name in names]) for each in (exact, rounded))
        assert other.dtype == torch.float32 and not torch.equal(one, other), prefix
        assert torch.cosine_similarity(one, other, dim=0) > 0.99, prefix


def test_each_model_runs_once_a_step(make: Make) -> None:
    trainer = make(options={"teacher_terms": TEACHER_TERMS}, max_steps=3)
    calls = {"student": 0, "teacher": 0}
    for name, model in {"student": trainer.student, "teacher": trainer.teacher.model}.items():
        model.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    trainer.train()
    assert calls == {"student": 3, "teacher": 3}


def test_both_learn_and_both_are_logged(make: Make) -> None:
    recorder = Recorder()
    trainer = make(options={"teacher_terms": TEACHER_TERMS}, num_train_epochs=8, dropout=0.0, callbacks=[recorder])
    before = copy_of(trainer.teacher.model)
    trainer.train()
    first, last = recorder.logs[0], recorder.logs[-2]
    for name in ("procrustes_2_3", "teacher/label", "teacher/gram_3_2"):
        assert last[name] < 0.9 * first[name], name
    assert {"label", "logits", "teacher/logits", "chance/teacher/gram_3_2"} <= set(last)
    assert differ(copy_of(trainer.teacher.model), before)
    loss = sum(first[name] * weight for name, weight in {"teacher/label": 0.5, "teacher/logits": 0.5}.items())
    loss += first["teacher/gram_3_2"] + first["teacher/projection_3_2"] + 0.5 * first["label"] + first["logits"]
    loss += first["procrustes_1_2"] + first["procrustes_2_3"] + first["projection_2_3"]
    assert first["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "exact_accumulation": True}])
def test_a_training_that_is_resumed_ends_with_the_same_weights_of_both(tmp_path: Path, options: dict[str, Any]) -> None:
    both: dict[str, Any] = {"options": {"teacher_terms": TEACHER_TERMS}, "rates": {"teacher.*": 1e-3}, **STEPS}
    whole = make_trainer(tmp_path / "whole", max_steps=9, **both, **options)
    whole.train()
    make_trainer(tmp_path / "cut", callbacks=[Recorder(7)], max_steps=9, **both, **options).train()
    resumed = make_trainer(tmp_path / "cut", seed=50, max_steps=9, **both, **options)
    with torch.no_grad():
        for parameter in resumed.teacher.model.parameters():
            parameter.add_(1.0)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(tmp_path / "cut")))
    assert resumed.state.global_step == 9
    assert_same(copy_of(resumed.model), copy_of(whole.model))
    assert {name.split(".")[0] for name in copy_of(whole.model)} == {
        "student",
        "objective",
        "teacher",
        "teacher_objective",
    }


def test_a_checkpoint_holds_the_teacher_in_a_folder_and_a_saved_model_does_not(make: Make, tmp_path: Path) -> None:
    trainer = make(options={"teacher_terms": TEACHER_TERMS}, max_steps=6, **STEPS)
    trainer.train()
    checkpoint = last_checkpoint(tmp_path / "out")
    assert checkpoint is not None
    saved = AutoModelForSequenceClassification.from_pretrained(checkpoint / "teacher")
    assert_same(copy_of(saved), copy_of(trainer.teacher.model))
    student = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    assert_same(copy_of(student), copy_of(trainer.student))
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "teacher").exists()
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_teacher_that_was_frozen_learns_again(tmp_path: Path) -> None:
    """As in the third stage of a run whose teacher learned in the second."""
    student, teacher = classifier(1, 16, 0), classifier(2, 16, 1)
    Teacher(teacher)
    before = copy_of(teacher)
    trainer = DistillationTrainer(
        student,
        DistillationConfig(str(tmp_path), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True),
        teacher_model=Teacher(teacher),
        terms=[LabelTerm()],
        teacher_terms=[LabelTerm(weight=0.5), LogitTerm(weight=0.5)],
        train_dataset=make_examples(4),
        data_collator=collate,
    )
    trainer.train()
    assert all(differ({name: each}, {name: before[name]}) for name, each in teacher.named_parameters())


# What cannot be trained


def refused(tmp_path: Path, teacher: Any, **more: Any) -> GeodistillError:
    with pytest.raises(GeodistillError) as caught:
        DistillationTrainer(
            None if "model_init" in more else classifier(1, 16, 0),
            DistillationConfig(str(tmp_path / "out"), use_cpu=True, report_to="none"),
            teacher_model=teacher,
            terms=[LabelTerm()],
            train_dataset=make_examples(4),
            data_collator=collate,
            **{"teacher_terms": [LabelTerm()], **more},
        )
    return caught.value


def test_a_cached_teacher_cannot_learn(tmp_path: Path) -> None:
    teacher = Teacher(classifier(1, 16, 1))
    cache = prepare_cache(tmp_path / "cache", teacher, make_examples(4), collate, limit_bytes=10**8, progress=False)
    error = refused(tmp_path, cache)
    assert "come from a TeacherCache" in error.problem and "without a cache" not in error.problem
    assert "Give the model" in error.remedy
    assert "there is none" in refused(tmp_path, None).problem


def test_what_is_no_model_of_transformers_cannot_learn(tmp_path: Path) -> None:
    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)

    assert "Answers is no transformers model" in refused(tmp_path, Answers()).problem


def test_weights_below_float32_cannot_learn(tmp_path: Path) -> None:
    error = refused(tmp_path, classifier(1, 16, 1).bfloat16())
    assert "weights in bfloat16" in error.problem and "float32" in error.remedy


def test_a_model_init_has_no_teacher_that_learns(tmp_path: Path) -> None:
    error = refused(tmp_path, classifier(1, 16, 1), model_init=lambda: classifier(1, 16, 0))
    assert "model_init" in error.problem


def test_an_error_of_the_teachers_objective_says_so(tmp_path: Path) -> None:
    terms = [{"loss": "gram", "layers": [[7, 1]]}]
    recipe = ObjectiveRecipe.model_validate({"features": terms})
    error = refused(tmp_path, classifier(1, 16, 1), teacher_terms=recipe.terms)
    assert error.problem.startswith("In the objective of the teacher")


def test_models_that_share_weights_are_refused(tmp_path: Path) -> None:
    teacher = classifier(1, 16, 1)
    student = copy.copy(teacher)
    with pytest.raises(GeodistillError, match="shares the parameter"):
        DistillationTrainer(
            student,
            DistillationConfig(str(tmp_path), use_cpu=True, report_to="none"),
            teacher_model=teacher,
            terms=[LabelTerm()],
            teacher_terms=[LabelTerm()],
            train_dataset=make_examples(4),
            data_collator=collate,
        )


def test_language_models_score_each_token_once(tmp_path: Path) -> None:
    """Their label and logit terms are means over the tokens of a step, the teacher's as well."""
    answers: dict[str, Any] = {
        "causal": True,
        "recipe": {"label": {}, "logits": {"temperature": 1.0}},
        "teacher_recipe": {"label": {"weight": 0.5}, "logits": {"weight": 0.5, "temperature": 1.0}},
    }
    whole, split = (one_step(tmp_path, batch, 8 // batch, **answers) for batch in (8, 2))
    for name, value in whole["gradient"].items():
        assert (split["gradient"][name] - value).abs().max() <= 1e-6 * max(1.0, value.norm().item()), name
    for name in ("loss", "teacher/label", "teacher/logits"):
        assert split["logs"][name] == pytest.approx(whole["logs"][name], rel=1e-5)
