from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from training import PADDING, Batch, Lecture, run
from transformers import BertConfig, BertForSequenceClassification

from geodistill.distillation.objective import Objective
from geodistill.distillation.signals import FeatureRequest, Teacher, model_inputs
from geodistill.errors import GeodistillError
from geodistill.features import Capture
from geodistill.losses import CKALoss, GramLoss, ProcrustesLoss, ProjectionLoss
from geodistill.losses.logits import LogitLoss
from geodistill.recipe import ObjectiveRecipe


def classifier(layers: int, width: int, labels: int = 3) -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=100,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        num_labels=labels,
        max_position_embeddings=32,
        pad_token_id=PADDING,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture
def student() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return classifier(2, 16)


@pytest.fixture
def teacher() -> BertForSequenceClassification:
    torch.manual_seed(1)
    return classifier(4, 32)


def make_batch(lengths: tuple[int, ...] = (9, 4, 7, 5), length: int = 9) -> Batch:
    generator = torch.Generator().manual_seed(2)
    attention = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, 100, (len(lengths), max(lengths)), generator=generator)
    special = torch.ones(len(lengths), length, dtype=torch.long)
    for row, size in enumerate(lengths):
        special[row, 1 : size - 1] = 0
    return {
        "input_ids": functional.pad(ids, (0, length - ids.shape[1]), value=PADDING) * attention,
        "attention_mask": attention,
        "special_tokens_mask": special,
        "labels": torch.arange(len(lengths)) % 3,
    }


Attend = Callable[..., Lecture]


@pytest.fixture
def attend(student: Any, teacher: Any) -> Attend:
    return lambda **recipe: Lecture(student, teacher, recipe)


def test_loss_is_the_weighted_sum_of_its_terms(attend: Attend, student: Any, teacher: Any) -> None:
    lecture = attend(
        label={"weight": 0.7},
        logits={"weight": 0.3, "temperature": 3.0},
        features=[
            {"loss": "procrustes", "weight": 5.0, "layers": "uniform"},
            {"loss": "gram", "weight": 2.0, "rows": "mean", "special_tokens": False, "squared": False},
            {"loss": "cka", "weight": 0.5, "rows": "cls", "layers": [[0, 0]]},
            {"loss": "projection", "weight": 4.0, "rows": "last", "layers": [[1, -2]], "normalize": False},
        ],
    )
    batch = make_batch()
    result = lecture(batch)

    s, t = run(student, batch), run(teacher, batch)
    mask = batch["attention_mask"].bool()
    label = functional.cross_entropy(s.logits, batch["labels"])
    soft = functional.kl_div((s.logits / 3).log_softmax(-1), (t.logits / 3).softmax(-1), reduction="batchmean") * 9
    pairs = [ProcrustesLoss()(s.hidden_states[m], t.hidden_states[2 * m], mask=mask) for m in (1, 2)]
    words = (1 - batch["special_tokens_mask"]).unsqueeze(-1)

    def mean_of(hidden: torch.Tensor) -> torch.Tensor:
        return (hidden * words).sum(1) / words.sum(1)

    gram = GramLoss(squared=False)(mean_of(s.hidden_states[2]), mean_of(t.hidden_states[4]))
    cka = CKALoss()(s.hidden_states[0][:, 0], t.hidden_states[0][:, 0])
    projection = lecture.objective.features[3].losses[0]
    assert isinstance(projection, ProjectionLoss)
    rows, last = torch.arange(4), mask.sum(1) - 1
    mapped = s.hidden_states[1][rows, last] @ projection.weight
    target = t.hidden_states[3][rows, last]
    squared_error = functional.mse_loss(mapped - mapped.mean(0), target - target.mean(0))

    expected = {
        "label": label,
        "logits": soft,
        "procrustes_1_2": pairs[0],
        "procrustes_2_4": pairs[1],
        "gram_2_4": gram,
        "cka_0_0": cka,
        "projection_1_3": squared_error,
    }
    assert list(result.terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(result.terms[name], value.detach(), rtol=1e-5, atol=1e-6, msg=name)
        assert not result.terms[name].requires_grad
    total = 0.7 * label + 0.3 * soft + 5 * sum(pairs) / 2 + 2 * gram + 0.5 * cka + 4 * squared_error
    torch.testing.assert_close(result.loss, total, rtol=1e-5, atol=1e-6)
    assert result.starved.item() == 0
    assert result.chance == {}


def test_gradients_reach_the_student_and_the_projection_but_not_the_teacher(attend: Attend) -> None:
    lecture = attend(features=[{"loss": "projection"}, {"loss": "procrustes"}])
    lecture.teacher.requires_grad_(True)
    lecture(make_batch()).loss.backward()
    assert all(parameter.grad is None for parameter in lecture.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in lecture.objective.parameters())
    assert lecture.student.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_it_asks_for_each_point_and_request_once(attend: Attend) -> None:
    features = [
        {"loss": "procrustes", "layers": "uniform"},
        {"loss": "gram", "layers": "last"},
        {"loss": "cka", "layers": [[-1, -1], [0, 0]], "rows": "cls"},
        {"loss": "cka", "special_tokens": False},
    ]
    objective = attend(features=features).objective
    assert objective.student_points == [1, 2, 0]
    assert objective.requests == [
        FeatureRequest(2, "tokens"),
        FeatureRequest(4, "tokens"),
        FeatureRequest(4, "cls"),
        FeatureRequest(0, "cls"),
        FeatureRequest(4, "tokens", special_tokens=False),
    ]


def test_module_paths(attend: Attend, student: Any, teacher: Any) -> None:
    pair = ["bert.encoder.layer.0.intermediate", "bert.encoder.layer.3.output"]
    lecture = attend(features=[{"loss": "projection", "layers": [pair], "rows": "tokens"}])
    assert lecture.objective.student_points == [pair[0]]
    assert lecture.objective.requests == [FeatureRequest(pair[1], "tokens")]
    assert lecture.objective.features[0].losses[0].weight.shape == (32, 32)
    batch = make_batch()
    _, features = Capture(student, [pair[0]])(**model_inputs(student, batch))
    mask = batch["attention_mask"].bool()
    expected = lecture.objective.features[0].losses[0](features[pair[0]], run(teacher, batch).hidden_states[4], mask)
    torch.testing.assert_close(lecture(batch).loss, expected)


def test_terms_of_the_same_name_are_told_apart(attend: Attend) -> None:
    result = attend(features=[{"loss": "cka", "rows": "cls"}, {"loss": "cka", "rows": "mean"}])(make_batch())
    assert list(result.terms) == ["cka_2_4", "cka_2_4_1"]
    assert result.terms["cka_2_4"] != result.terms["cka_2_4_1"]


EVERY_KIND = [
    {"loss": loss, "rows": rows, "special_tokens": special, "layers": "uniform"}
    for loss in ("procrustes", "gram", "cka", "projection")
    for rows, special in (("tokens", True), ("tokens", False), ("mean", True), ("cls", True), ("last", True))
]


def test_padding_changes_nothing(attend: Attend) -> None:
    lecture = attend(label={}, logits={}, features=EVERY_KIND)
    expected = lecture(make_batch())
    gradient = torch.autograd.grad(expected.loss, lecture.student.classifier.weight)[0]
    longer = lecture(make_batch(length=15))
    with torch.no_grad():
        for model in (lecture.student, lecture.teacher):
            model.bert.embeddings.word_embeddings.weight[PADDING] = torch.randn(model.config.hidden_size) * 100
    perturbed = lecture(make_batch(length=12))
    for other in (longer, perturbed):
        torch.testing.assert_close(other.terms, expected.terms, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(other.loss, expected.loss, rtol=1e-4, atol=1e-6)
        again = torch.autograd.grad(other.loss, lecture.student.classifier.weight)[0]
        torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-6)


def test_label_term_without_labels_is_refused(attend: Attend) -> None:
    batch = make_batch()
    del batch["labels"]
    with pytest.raises(GeodistillError, match="no labels"):
        attend(label={})(batch)
    assert torch.isfinite(attend(logits={})(batch).loss)


def test_terms_with_fewer_than_two_rows_are_counted(attend: Attend) -> None:
    features = [{"loss": "procrustes", "rows": rows} for rows in ("cls", "tokens")]
    features.append({"loss": "gram", "rows": "tokens", "special_tokens": False})
    lecture = attend(features=features)
    result = lecture(make_batch(lengths=(3,), length=5))  # one sentence, three tokens, one word
    assert result.starved.item() == 2
    assert result.terms["procrustes_2_4"] == 0 and result.terms["gram_2_4"] == 0
    assert result.terms["procrustes_2_4_1"] > 0
    alone = attend(features=features[:1])(make_batch(lengths=(3,)))
    alone.loss.backward()
    assert alone.loss.item() == 0


def test_chance_level_leaves_random_state_and_loss_alone(attend: Attend) -> None:
    lecture = attend(label={}, features=EVERY_KIND)
    batch = make_batch()
    expected = lecture(batch)
    before = torch.get_rng_state()
    result = lecture(batch, chance_seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(result.loss, expected.loss)
    torch.testing.assert_close(result.terms, expected.terms, rtol=0, atol=0)
    assert set(result.chance) == set(result.terms) - {"label"}
    assert not any(value.requires_grad for value in result.chance.values())
    torch.testing.assert_close(lecture(batch, chance_seed=5).chance, result.chance, rtol=0, atol=0)


def test_chance_level_is_what_unpaired_rows_give(student: Any) -> None:
    """A teacher that is the student: paired rows are at distance zero, shuffled ones are not."""
    lecture = Lecture(student, student, {"features": [{"loss": "procrustes"}, {"loss": "gram", "rows": "mean"}]})
    result = lecture(make_batch(lengths=(9, 8, 9, 7, 9, 6)), chance_seed=1)
    for name, value in result.terms.items():
        assert value.item() == pytest.approx(0, abs=1e-5)
        assert result.chance[name] > 0.1


def test_chance_level_shuffles_only_rows_that_count(attend: Attend) -> None:
    lecture = attend(features=[{"loss": "procrustes"}, {"loss": "cka", "rows": "mean"}])
    short, long = (lecture(make_batch(length=length), chance_seed=4).chance for length in (9, 15))
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-6)


def test_regression(student: Any, teacher: Any) -> None:
    small, large = classifier(2, 16, labels=1), classifier(4, 32, labels=1)
    batch = {**make_batch(), "labels": torch.tensor([0.5, -1.0, 2.0, 0.0])}
    result = Lecture(small, large, {"label": {}, "logits": {"weight": 2.0}})(batch)
    s, t = run(small, batch).logits, run(large, batch).logits
    label, logits = functional.mse_loss(s.squeeze(-1), batch["labels"]), functional.mse_loss(s, t)
    torch.testing.assert_close(result.loss, label + 2 * logits)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("sides", ["both", "student", "teacher"])
def test_the_logit_term_follows_the_problem_type(student: Any, teacher: Any, kind: Any, sides: str) -> None:
    for side, model in (("student", student), ("teacher", teacher)):
        model.config.problem_type = kind if sides in (side, "both") else None
    batch = {name: value for name, value in make_batch().items() if name != "labels"}
    result = Lecture(student, teacher, {"logits": {"temperature": 3.0}})(batch)
    s, t = run(student, batch).logits, run(teacher, batch).logits
    torch.testing.assert_close(result.loss, LogitLoss(3.0, problem_type=kind)(s, t))
    assert not torch.isclose(result.loss, LogitLoss(3.0)(s, t))


def test_labels_and_logits_of_a_multi_label_head_are_both_means_over_labels(student: Any, teacher: Any) -> None:
    student.config.problem_type = teacher.config.problem_type = "multi_label_classification"
    batch = {**make_batch(), "labels": torch.tensor([[0.0, 0, 0], [1, 0, 1], [1, 1, 1], [0, 1, 0]])}
    result = Lecture(student, teacher, {"label": {}, "logits": {"weight": 2.0, "temperature": 1.0}})(batch)
    s, t = run(student, batch).logits, run(teacher, batch).logits
    label = functional.binary_cross_entropy_with_logits(s, batch["labels"])
    soft, entropy = (functional.binary_cross_entropy_with_logits(each, t.sigmoid()) for each in (s, t))
    torch.testing.assert_close(result.loss, label + 2 * (soft - entropy))


def test_models_of_different_problem_types_are_refused(student: Any, teacher: Any) -> None:
    student.config.problem_type, teacher.config.problem_type = "regression", "multi_label_classification"
    with pytest.raises(GeodistillError, match=r"student's config has the problem type regression.*leave objective"):
        Lecture(student, teacher, {"logits": {}})
    Lecture(student, teacher, {"features": [{"loss": "gram"}]})


def test_several_floats_as_labels_need_a_problem_type(student: Any, teacher: Any) -> None:
    batch = {**make_batch(), "labels": torch.zeros(4, 3)}
    with pytest.raises(GeodistillError, match=r"labels are 3 floats.*Set config.problem_type"):
        Lecture(student, teacher, {"label": {}, "logits": {}})(batch)


def test_options_reach_the_losses(attend: Attend, student: Any, teacher: Any) -> None:
    options = {"center": False, "normalize": "rows", "squared": False}
    features = [{"loss": loss, **options} for loss in ("procrustes", "gram", "cka")]
    features.append({"loss": "projection", **options, "orthogonal": True})
    losses = [match.losses[0] for match in attend(features=features).objective.features]
    assert [type(loss) for loss in losses] == [ProcrustesLoss, GramLoss, CKALoss, ProjectionLoss]
    for loss in losses:
        assert (loss.center, loss.normalize, loss.squared, loss.global_batch) == (False, "rows", False, True)
    assert losses[3].orthogonal
    recipe = ObjectiveRecipe.model_validate({"features": features})
    local = Objective(recipe.terms, student=student, teacher=teacher, global_batch=False)
    assert not any(match.losses[0].global_batch for match in local.features)


@pytest.mark.parametrize("layers", [[[3, 0]], [[0, -6]], [["bert.encoder.layer.2", "bert.encoder.layer.0"]]])
def test_layers_that_do_not_exist_are_refused(attend: Attend, layers: list[Any]) -> None:
    with pytest.raises(GeodistillError):
        attend(features=[{"loss": "cka", "layers": layers}])


def test_feature_terms_alone_need_no_heads(student: Any, teacher: Any) -> None:
    recipe = ObjectiveRecipe.model_validate({"features": [{"loss": "procrustes", "layers": "uniform"}]})
    batch = make_batch()
    results = []
    for pair in ((student, teacher), (student.bert, teacher.bert)):
        objective = Objective(recipe.terms, student=pair[0], teacher=pair[1])
        outputs, features = Capture(pair[0], objective.student_points)(**model_inputs(pair[0], batch))
        signals = Teacher(pair[1], objective.requests, precision="float32")(batch)
        results.append(objective(outputs, features, signals, batch).loss)
    assert results[0] > 0
    assert torch.equal(*results)


def test_a_logit_term_needs_a_teacher_with_logits(student: Any, teacher: Any) -> None:
    lecture = Lecture(student, teacher.bert, {"logits": {}})
    with pytest.raises(GeodistillError, match="the teacher gives no logits"):
        lecture(make_batch())
