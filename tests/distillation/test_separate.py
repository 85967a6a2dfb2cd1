from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from training import OBJECTIVE, classifier, collate, make_examples

from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.separate import check_separate
from geodistill.distillation.signals import Teacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.recipe import ObjectiveRecipe


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
