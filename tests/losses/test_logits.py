from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from geodistill.losses.logits import LogitLoss


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
