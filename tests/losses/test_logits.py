from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.losses.divergences import DIVERGENCES
from geodistill.losses.logits import LogitLoss
from geodistill.losses.top_k import TopKLogits


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64) * 4
    return student, teacher


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T² · mean over examples of Σ p_T log(p_T / p_S), written out in float64."""

    def probabilities(logits: Tensor) -> np.ndarray:
        weights = np.exp(logits.double().numpy() / temperature)
        return weights / weights.sum(axis=-1, keepdims=True)

    p, q = probabilities(teacher), probabilities(student)
    return float(temperature**2 * (p * np.log(p / q)).sum(axis=-1).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_softened_divergence(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = logits
    expected = softened_divergence(student, teacher, temperature)
    assert LogitLoss(temperature)(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    single = LogitLoss(temperature)(student.float(), teacher.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_gradient_is_temperature_times_the_difference_of_probabilities(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].requires_grad_(), logits[1]
    LogitLoss(3.0)(student, teacher).backward()
    expected = 3.0 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1)) / len(student)
    torch.testing.assert_close(student.grad, expected.detach())


def test_equal_logits_and_shifted_logits_give_zero(logits: tuple[Tensor, Tensor]) -> None:
    student, _ = logits
    assert LogitLoss()(student, student).item() == pytest.approx(0, abs=1e-15)
    assert LogitLoss()(student + 3, student).item() == pytest.approx(0, abs=1e-14)


def test_leading_dimensions_are_examples(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (side[:6] for side in logits)
    expected = LogitLoss()(student, teacher)
    torch.testing.assert_close(LogitLoss()(student.view(2, 3, 5), teacher.view(2, 3, 5)), expected)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_one_output_is_a_regression(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = (side[:, :1] for side in logits)
    expected = ((student - teacher) ** 2).mean().item()
    assert LogitLoss(temperature)(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes", [1, 5])
def test_teacher_receives_no_gradient(logits: tuple[Tensor, Tensor], classes: int) -> None:
    student, teacher = (side[:, :classes].clone().requires_grad_() for side in logits)
    LogitLoss()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().sum() > 0


@pytest.mark.parametrize("classes", [1, 5])
def test_half_precision_and_autocast_compute_in_float32(logits: tuple[Tensor, Tensor], classes: int) -> None:
    student, teacher = (side[:, :classes].bfloat16() for side in logits)
    expected = LogitLoss()(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LogitLoss()(student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_extreme_logits_stay_finite() -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = LogitLoss(1.0)(student, torch.tensor([[-1e4, 1e4, 0.0]]))
    value.backward()
    assert value.item() == pytest.approx(2e4)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_only_rows_that_count(logits: tuple[Tensor, Tensor], name: str) -> None:
    student, teacher = (side.clone().view(7, 1, 5) for side in logits)
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1]).view(7, 1)
    loss = LogitLoss(3.0, divergence=name)
    expected = loss(student[mask.bool()], teacher[mask.bool()])
    student[1], teacher[4], student[5], teacher[5] = torch.nan, torch.nan, torch.inf, torch.nan
    student.requires_grad_()
    found = loss(student, teacher, mask)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad.isfinite().all()
    assert torch.equal(student.grad.abs().sum((1, 2)) > 0, mask.view(7) > 0)


@pytest.mark.parametrize("classes", [1, 5])
def test_no_row_that_counts_gives_a_differentiable_zero(logits: tuple[Tensor, Tensor], classes: int) -> None:
    student, teacher = (side[:, :classes] * torch.nan for side in logits)
    student.requires_grad_()
    value = LogitLoss()(student, teacher, torch.zeros(7))
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_rows_of_a_regression_that_count(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (side[:, :1].clone() for side in logits)
    student[3] = torch.nan
    expected = ((student - teacher)[:3] ** 2).mean()
    torch.testing.assert_close(LogitLoss()(student, teacher, torch.arange(7) < 3), expected)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_bfloat16_gradients_are_those_of_float32_rounded(logits: tuple[Tensor, Tensor], name: str) -> None:
    student, teacher = (side.bfloat16() for side in logits)
    narrow, wide = student.clone().requires_grad_(), student.float().requires_grad_()
    for each in (narrow, wide):
        LogitLoss(divergence=name)(each, teacher).backward()
    assert narrow.grad.dtype == torch.bfloat16
    assert torch.equal(narrow.grad, wide.grad.bfloat16())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_logits_of_ten_thousand(name: str) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, 1e4]], requires_grad=True)
    value = LogitLoss(1.0, divergence=name)(student, torch.tensor([[-1e4, 1e4, 0.0], [0.0, -1e4, 1e4]]))
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_tokens_that_the_teacher_rules_out(logits: tuple[Tensor, Tensor], name: str) -> None:
    """Reverse KL is infinite where the student has mass there, and all are finite where both have none."""
    student, teacher = (side.clone() for side in logits)
    teacher[:, 2] = -torch.inf
    value = LogitLoss(1.0, divergence=name)(student.requires_grad_(), teacher)
    if name == "reverse_kl":
        assert value.item() == np.inf
    else:
        value.backward()
        assert value.isfinite() and student.grad.isfinite().all()
        assert (student.grad[:, 2] >= 0).all()  # a descent takes the mass away
    both = student.detach().clone()
    both[:, 2] = -torch.inf
    both.requires_grad_()
    kept = [0, 1, 3, 4]
    value = LogitLoss(1.0, divergence=name)(both, teacher)
    torch.testing.assert_close(value, LogitLoss(1.0, divergence=name)(student[:, kept], teacher[:, kept]))
    value.backward()
    assert both.grad.isfinite().all() and not both.grad[:, 2].any()


@pytest.mark.parametrize("name", list(DIVERGENCES)[:-1])
def test_the_factor_keeps_the_gradient_at_high_temperatures(logits: tuple[Tensor, Tensor], name: str) -> None:
    student, teacher = logits
    sizes = []
    for temperature in (1e3, 1e4):
        leaf = student.clone().requires_grad_()
        LogitLoss(temperature, divergence=name)(leaf, teacher).backward()
        sizes.append(leaf.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_it_refuses_what_does_not_fit(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    for other in (teacher[:, :4], teacher[:5], teacher.view(1, 7, 5), TopKLogits.of(teacher[:5], 2, 2.0)):
        with pytest.raises(GeodistillError, match="The student's logits have shape"):
            LogitLoss()(student, other)
    with pytest.raises(GeodistillError, match=r"mask of the logits has shape \(7, 5\).*\(7,\), one entry a row"):
        LogitLoss()(student, teacher, torch.ones(7, 5))
    with pytest.raises(GeodistillError, match="Did you mean 'jensen_shannon'"):
        LogitLoss(divergence="jensen-shannon")
    with pytest.raises(GeodistillError, match="temperature is 0"):
        LogitLoss(0)


def test_its_options_are_shown() -> None:
    shown = "LogitLoss(temperature=1.0, divergence='jensen_shannon', beta=0.2, skew=0.1, problem_type='regression')"
    assert repr(LogitLoss(1.0, divergence="jensen_shannon", beta=0.2, problem_type="regression")) == shown


def bernoulli(name: str, student: float, teacher: float, temperature: float) -> float:
    """A divergence between two coins in float64, written out."""
    q1, p1 = (1 / (1 + math.exp(-logit / temperature)) for logit in (student, teacher))
    q0, p0 = (1 / (1 + math.exp(logit / temperature)) for logit in (student, teacher))

    def kl(one: tuple[float, float], other: tuple[float, float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    def mix(weight: float) -> tuple[float, float]:
        return weight * p1 + (1 - weight) * q1, weight * p0 + (1 - weight) * q0

    p, q = (p1, p0), (q1, q0)
    return {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jensen_shannon": 0.3 * kl(p, mix(0.3)) + 0.7 * kl(q, mix(0.3)),
        "skewed_forward_kl": kl(p, mix(0.2)),
        "skewed_reverse_kl": kl(q, mix(0.8)),
        "total_variation": abs(p1 - q1),
    }[name]


def multi_label(name: str = "forward_kl", temperature: float = 1.0) -> LogitLoss:
    kind = "multi_label_classification"
    return LogitLoss(temperature, divergence=name, beta=0.3, skew=0.2, problem_type=kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_label_of_several_is_a_distribution_of_two(
    logits: tuple[Tensor, Tensor], name: str, temperature: float
) -> None:
    student, teacher = logits
    pairs = list(zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True))
    expected = temperature**2 * sum(bernoulli(name, s, t, temperature) for s, t in pairs) / len(pairs)
    loss = multi_label(name, temperature)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    assert loss(student.float(), teacher.float()).item() == pytest.approx(expected, rel=1e-5)
    assert loss(student.view(7, 1, 5), teacher.view(7, 1, 5)).item() == pytest.approx(expected, rel=1e-12)
    student = student[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher[:3]), student)


def test_several_labels_that_all_differ_are_not_one_distribution_that_agrees() -> None:
    """A softmax over the labels sees no difference between logits that are all shifted by one number."""
    student, teacher = torch.full((4, 3), -1.0), torch.full((4, 3), 0.8)
    assert (student.sigmoid() - teacher.sigmoid()).abs().min() > 0.4
    assert LogitLoss(1.0)(student, teacher).item() == pytest.approx(0, abs=1e-7)
    assert multi_label()(student, teacher).item() == pytest.approx(bernoulli("forward_kl", -1.0, 0.8, 1.0), rel=1e-5)


def test_the_gradient_for_several_labels_is_that_of_the_label_loss(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].requires_grad_(), logits[1]
    multi_label()(student, teacher).backward()
    soft = torch.nn.functional.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    torch.testing.assert_close(student.grad, torch.autograd.grad(soft, student)[0])


@pytest.mark.parametrize("name", DIVERGENCES)
def test_extreme_logits_of_several_labels_stay_finite(name: str) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0, 80.0]], requires_grad=True)
    value = multi_label(name)(student, torch.tensor([[-1e4, -1e4, 1e4, 120.0]]))
    value.backward()
    assert value.isfinite() and value > 0
    assert student.grad.isfinite().all()
    if name == "forward_kl":
        assert value.item() == pytest.approx((1e4 + 0.6931472) / 4)


def test_masked_rows_of_several_labels(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (side.clone() for side in logits)
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1])
    expected = multi_label()(student[mask.bool()], teacher[mask.bool()])
    student[1], teacher[4] = torch.nan, torch.inf
    student.requires_grad_()
    found = multi_label()(student, teacher, mask)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert student.grad.isfinite().all()
    nothing = multi_label()(student, teacher, torch.zeros(7))
    nothing.backward()
    assert nothing.item() == 0


def test_a_regression_of_any_width_is_a_squared_error(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    expected = ((student - teacher) ** 2).mean().item()
    assert LogitLoss(3.0, problem_type="regression")(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_problem_types_that_do_not_fit(logits: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(GeodistillError, match="Did you mean 'multi_label_classification'"):
        LogitLoss(problem_type="multi_label")  # type: ignore[arg-type]
    with pytest.raises(GeodistillError, match=r"one distribution over all outputs.*cache_top_k"):
        multi_label()(logits[0], TopKLogits.of(logits[1], 2, 1.0))
