"""From two models and the terms of a loss to the module that is trained, and to what says the teacher's signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from geodistill.distillation.learning_teacher import TEACHER_TERM, LearningTeacher, roles_swapped
from geodistill.distillation.model import DistillationModel, check_separate
from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import SignalSource, Teacher, check_requests, teacher_view
from geodistill.distillation.students.adapters import Student, adapted_model
from geodistill.distillation.students.architecture import tokenizer_length
from geodistill.errors import GeodistillError
from geodistill.features import is_causal
from geodistill.recipe import Term


def bind(
    student: Student,
    given: nn.Module | SignalSource,
    terms: Sequence[Term],
    teacher_terms: Sequence[Term],
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    probe: Mapping[str, Tensor] | None,
    seed: int,
    global_batch: bool,
) -> tuple[DistillationModel, SignalSource]:
    """Make the objective of a student and, with `teacher_terms`, the teacher's; return the module of all that is
    trained, and the source of the teacher's signals.

    Args:
        student: what is trained, or a PeftModel around it.
        given: the teacher, or what says its signals.
        terms, teacher_terms: of the student's objective and of the teacher's.
        tokenizer: of both models, if there is one.
        probe: a tiny batch that both models read.
        seed: of the first weights of projections.
        global_batch: whether feature terms are of all ranks together.

    Raises GeodistillError for terms that do not fit the models, and for a student that is no model of transformers.
    """
    source = None if isinstance(given, nn.Module) else given
    model: Any = given if isinstance(given, nn.Module) else given.model
    vocabulary = shared_vocabulary(tokenizer, student, model) if source is None else source.vocabulary
    shared: dict[str, Any] = {"vocabulary": vocabulary, "global_batch": global_batch}
    teacher_probe = None if probe is None else teacher_view(probe)
    # A projection's first weights are drawn here. They must not depend on what ran just now and what was read.
    set_seed(seed)
    objective = Objective(
        terms,
        student=student,
        teacher=model,
        widths=None if source is None else source.widths,
        student_probe=probe,
        teacher_probe=teacher_probe,
        **shared,
    )
    if model is not None:
        check_separate(student, model, objective)
    learning: tuple[Any, ...] = ()
    if teacher_terms:
        set_seed(seed)
        with roles_swapped():
            teacher_objective = Objective(
                teacher_terms,
                student=model.requires_grad_(True),
                teacher=student,
                student_probe=teacher_probe,
                teacher_probe=probe,
                prefix=TEACHER_TERM,
                **shared,
            )
        learning = model, teacher_objective
        source = LearningTeacher(model, objective.requests, vocabulary)
    elif source is None:
        source = Teacher(model, objective.requests, logits=objective.asks_for_logits, vocabulary=vocabulary)
    check_requests(source, objective.requests)
    inner = adapted_model(student)
    if not isinstance(inner, PreTrainedModel):
        raise GeodistillError(
            f"The student is a {type(inner).__name__}, which is no model of transformers: it could be neither "
            "saved nor loaded.",
            "Give a PreTrainedModel; of images, geodistill.models.PythonForImageClassification makes one of any "
            "torch model.",
        )
    return DistillationModel(inner, objective, *learning), source


def shared_vocabulary(tokenizer: PreTrainedTokenizerBase | None, student: Student, teacher: nn.Module) -> int | None:
    """Return how many logits of two language models stand for a token of their tokenizer; None if that is not known."""
    models = adapted_model(student), adapted_model(teacher)
    known = tokenizer is not None and all(is_causal(model) for model in models)
    return tokenizer_length(tokenizer) if known else None  # type: ignore[arg-type]  # there is one
