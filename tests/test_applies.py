"""Every key of a recipe changes what is built, or is refused where it would not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForSequenceClassification

from geodistill.applies import DoesNotApply
from geodistill.distillation.feature_terms import FeatureMatch
from geodistill.distillation.students.build import build_student
from geodistill.errors import GeodistillError
from geodistill.losses.terms import make_logit_loss, resolve_term
from geodistill.recipe import FeatureTerm, LogitTerm, LoraRecipe, Recipe, Section, StudentRecipe, TrainingRecipe
from geodistill.runs.arguments import training_arguments
from geodistill.runs.recipe_file import check_recipe, merge

SMALLEST: dict[str, Any] = {"student": {"width": 64, "layers": 2}, "objective": {"label": {}}}
INSTRUCTIONS = {"task": "instructions"}
STAGE = {"name": "first", "data": {}, "objective": {"label": {}}}

REFUSED = [
    ("data.configuration", {"data": {"source": "bundled:spam", "configuration": "a"}}),
    ("data.configuration", {"data": {"source": "glue/rte", "configuration": "a"}}),
    ("data.prompt", {"data": {"prompt": "plain"}}),
    ("data.responses", {"data": {"responses": "teacher"}}),
    ("data.max_prompt_length", {"data": {"max_prompt_length": 5}}),
    ("data.messages", {"data": {"messages": "talk"}}),
    ("stages.0.data.output", {"stages": [merge(STAGE, {"data": {"output": "answer"}})]}),
    ("stages.0.training.seed", {"stages": [merge(STAGE, {"training": {"seed": 1}})]}),
    ("data.label", {**INSTRUCTIONS, "data": {"label": "label"}}),
    ("data.problem", {**INSTRUCTIONS, "data": {"problem": "regression"}}),
    ("generation.limit", {"generation": {"limit": 5}}),
    ("generation.temperature", {**INSTRUCTIONS, "generation": {"sample": False, "temperature": 0.5}}),
    ("generation.top_p", {**INSTRUCTIONS, "generation": {"sample": False, "top_p": 0.5}}),
    ("teacher.revision", {"teacher": {"revision": "v2"}}),
    ("teacher.cache_top_k", {"teacher": {"cache_top_k": 64}}),
    ("teacher.cache_dtype", {"teacher": {"cache": False, "cache_dtype": "float32"}}),
    ("teacher.cache_variance", {"teacher": {"cache": False, "cache_variance": 0.9}}),
    ("teacher.training.warmup", {"teacher": {"training": {"schedule": "constant", "warmup": 0.2}}}),
    ("student.revision", {"student": {"width": 64, "layers": 2, "revision": "v2"}}),
    ("student.revision", {"student": {"model": "bundled:minilm-l3", "revision": "v2"}}),
    ("student.heads", {"student": {"teacher_layers": 1, "heads": 2}}),
    ("student.initialization", {"student": {"model": "a/b", "initialization": "random"}}),
    ("objective.logits.beta", {"objective": {"logits": {"beta": 0.1}}}),
    ("objective.logits.skew", {"objective": {"logits": {"divergence": "jensen_shannon", "skew": 0.2}}}),
    ("objective.features.0.orthogonal", {"objective": {"features": [{"loss": "gram", "orthogonal": True}]}}),
    ("objective.features.0.normalize", {"objective": {"features": [{"loss": "cka", "normalize": False}]}}),
]


@pytest.mark.parametrize(("key", "changes"), REFUSED, ids=[key for key, _ in REFUSED])
def test_a_key_that_would_change_nothing_is_refused(key: str, changes: dict[str, Any]) -> None:
    with pytest.raises(GeodistillError) as caught:
        check_recipe({**SMALLEST, **changes}, source="mine.yaml")
    assert caught.value.problem == f"'{key}' in mine.yaml would change nothing."
    assert caught.value.remedy.startswith("Leave it out")


def test_a_recipe_that_is_written_in_full_is_read_again() -> None:
    full = {**SMALLEST, "stages": [STAGE], "compare": {}, "teacher": {"training": {}, "cache": False}}
    for task in ("classification", "instructions"):
        recipe = check_recipe({**full, "task": task})
        assert check_recipe(recipe.model_dump(mode="json")) == recipe


def test_a_variant_of_another_student_leaves_nothing_of_the_first() -> None:
    new = {"width": 64, "layers": 2, "heads": 2, "initialization": "random"}
    given = {"model": "a/b", "revision": "v2", "trust_remote_code": True}
    for first in (new, given):
        base = check_recipe({**SMALLEST, "student": first}).model_dump(mode="json")
        assert check_recipe(merge(base, {"student": {"teacher_layers": 1}})).student.teacher_layers == 1


def test_the_refusal_can_be_sent_between_processes() -> None:
    refusal = pickle.loads(pickle.dumps(DoesNotApply("beta", "Leave it out.")))
    assert (refusal.key, refusal.remedy) == ("beta", "Leave it out.")


def make(section: type[Section], **values: Any) -> Any:
    """The section, or None where a key of it would change nothing."""
    try:
        return section(**values)
    except ValidationError as error:
        assert isinstance(error.errors()[0].get("ctx", {}).get("error"), DoesNotApply), error
        return None


@pytest.fixture(scope="module")
def teacher() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(num_hidden_layers=2, max_position_embeddings=16, **sizes))


FEATURE_VALUES: dict[str, Any] = {
    "weight": 3.0,
    "rows": "mean",
    "special_tokens": False,
    "layers": "uniform",
    "center": False,
    "normalize": False,
    "squared": False,
    "orthogonal": True,
}


@pytest.mark.parametrize("loss", ["procrustes", "gram", "cka", "projection"])
@pytest.mark.parametrize("key", FEATURE_VALUES)
def test_each_key_of_a_feature_term_is_built_or_refused(
    loss: str, key: str, teacher: BertForSequenceClassification
) -> None:
    def built(term: FeatureTerm) -> str:
        match = FeatureMatch(term, teacher, teacher, {})
        return repr((match.losses, match.names, match.weight, match.request(1)))

    term = FeatureTerm(loss=loss, **{key: FEATURE_VALUES[key]})
    try:
        term = resolve_term(term)
    except GeodistillError as error:
        assert error.problem == f"'{key}' in the feature term would change nothing."
    else:
        assert built(term) != built(resolve_term(FeatureTerm(loss=loss)))


@pytest.mark.parametrize("rows", ["cls", "last", "response", "words"])
def test_special_tokens_are_of_rows_that_may_hold_them(rows: str) -> None:
    assert make(FeatureTerm, loss="gram", rows=rows, special_tokens=False) is None


LOGIT_VALUES: dict[str, Any] = {"weight": 3.0, "temperature": 5.0, "divergence": "total_variation", "beta": 0.3}
LOGIT_VALUES["skew"] = 0.3


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon", "skewed_forward_kl"])
@pytest.mark.parametrize("key", list(LogitTerm.model_fields))
def test_each_key_of_a_logit_term_is_built_or_refused(divergence: str, key: str) -> None:
    student, teacher = torch.tensor([[1.0, 0.0, -2.0]]), torch.tensor([[0.0, 2.0, 1.0]])

    def built(term: LogitTerm) -> float:
        return float(term.weight * make_logit_loss(term)(student, teacher))

    term = LogitTerm(**{"divergence": divergence, key: LOGIT_VALUES[key]})
    try:
        assert built(term) != built(LogitTerm(divergence=divergence))
    except GeodistillError as error:
        assert error.problem == f"'{key}' in the logit term would change nothing."


STUDENTS: dict[str, dict[str, Any]] = {
    "new": {"width": 8, "layers": 1, "heads": 2},
    "cut": {"teacher_layers": 1},
}
STUDENT_VALUES: dict[str, Any] = {
    "teacher_layers": [2],
    "width": 4,
    "layers": 2,
    "heads": 4,
    "intermediate": 6,
    "initialization": "random",
    "lora": LoraRecipe(rank=2),
}
ELSEWHERE = {"model", "revision", "trust_remote_code", "training"}  # what is loaded, and what is done to it afterwards


@pytest.mark.parametrize("way", list(STUDENTS))
@pytest.mark.parametrize("key", [name for name in StudentRecipe.model_fields if name not in ELSEWHERE])
def test_each_key_of_a_student_is_built_or_refused(way: str, key: str, teacher: BertForSequenceClassification) -> None:
    if key == "lora":
        pytest.importorskip("peft")
    try:
        recipe = StudentRecipe(**{**STUDENTS[way], key: STUDENT_VALUES[key]})
    except ValidationError:
        return  # a key of another way, told by name elsewhere
    one, two = (build_student(each, teacher, seed=0) for each in (recipe, StudentRecipe(**STUDENTS[way])))
    first, second = one.state_dict(), two.state_dict()
    same = first.keys() == second.keys() and all(
        first[name].shape == second[name].shape and torch.equal(first[name], second[name]) for name in first
    )
    assert not same or one.config.to_dict() != two.config.to_dict()


TRAINING_VALUES: dict[str, Any] = {
    "epochs": 5,
    "max_steps": 7,
    "batch_size": 5,
    "evaluation_batch_size": 5,
    "gradient_accumulation": 5,
    "learning_rate": 0.5,
    "rates": {"*.bias": 0.5},
    "weight_decay": 0.5,
    "warmup": 0.5,
    "exact_accumulation": True,
    "global_batch": False,
    "schedule": "cosine",
    "max_gradient_norm": 0.5,
    "seed": 5,
    "logging_steps": 5,
    "evaluate_each_epoch": True,
    "save_steps": 5,
    "arguments": {"adam_beta1": 0.5},
}
OTHERWISE = {"bf16", "fp16"}  # the processor has a say


@pytest.mark.parametrize("key", [name for name in TrainingRecipe.model_fields if name not in OTHERWISE])
def test_each_key_of_a_training_reaches_the_trainer(key: str, tmp_path: Path) -> None:
    one, two = (
        training_arguments(training, tmp_path).to_dict()
        for training in (TrainingRecipe(), TrainingRecipe(**{key: TRAINING_VALUES[key]}))
    )
    assert one != two


def test_no_warmup_is_what_a_constant_rate_has() -> None:
    assert TrainingRecipe(schedule="constant", warmup=0).warmup == 0
    with pytest.raises(ValidationError):
        Recipe.model_validate(merge(SMALLEST, {"training": {"schedule": "constant", "warmup": 0.3}}))
