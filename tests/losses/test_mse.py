"""The losses of rows, mean squared error and cosine, against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.losses import CosineLoss, MSELoss


def rows(width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(9, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def slow(loss: type, student: Tensor, teacher: Tensor) -> Tensor:
    if loss is MSELoss:
        return functional.mse_loss(student, teacher)
    return 1 - functional.cosine_similarity(student, teacher).mean()


@pytest.mark.parametrize("loss", [MSELoss, CosineLoss])
def test_value_and_gradient_are_those_of_torch(loss: type) -> None:
    student, teacher = rows().requires_grad_(), rows(seed=1)
    twin = student.detach().clone().requires_grad_()
    value, expected = loss()(student, teacher), slow(loss, twin, teacher)
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    assert student.grad is not None and twin.grad is not None
    assert torch.allclose(student.grad, twin.grad, atol=1e-12)


@pytest.mark.parametrize("loss", [MSELoss, CosineLoss])
def test_rows_that_do_not_count_may_hold_anything(loss: type) -> None:
    torch.manual_seed(0)
    module = loss(5, 3).double()
    student, teacher = rows(), rows(3, seed=1)
    mask = torch.arange(9) < 6
    expected = module(student[:6], teacher[:6])
    student[6:], teacher[6:] = torch.nan, torch.inf
    value = module(student.requires_grad_(), teacher, mask=mask)
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    assert module.weight is not None and module.weight.grad is not None and module.weight.grad.isfinite().all()
    assert student.grad is not None and student.grad.isfinite().all()
    with torch.no_grad():
        mapped = rows()[:6] @ module.weight
    assert value.item() == pytest.approx(slow(loss, mapped, rows(3, seed=1)[:6]).item(), rel=1e-9)


@pytest.mark.parametrize("loss", [MSELoss, CosineLoss])
def test_parts_add_up(loss: type) -> None:
    module, student, teacher = loss(), rows(), rows(seed=1)
    parts = module.moments(student[:4], teacher[:4]) + module.moments(student[4:], teacher[4:])
    assert module.from_moments(parts).item() == pytest.approx(module(student, teacher).item(), rel=1e-9)


def test_lengths_are_free_for_the_cosine_alone() -> None:
    student = rows()
    assert CosineLoss()(3 * student, student).item() == pytest.approx(0, abs=1e-12)
    assert CosineLoss()(-student, student).item() == pytest.approx(2)
    assert MSELoss()(student, student).item() == pytest.approx(0, abs=1e-12)
    assert MSELoss()(3 * student, student) > 1


def test_nothing_is_learned_where_widths_agree_and_other_widths_are_refused() -> None:
    assert not list(MSELoss(5, 5).parameters()) and len(list(CosineLoss(5, 3).parameters())) == 1
    with pytest.raises(GeodistillError, match=r"5 numbers, and the teacher's 3.*MSELoss\(5, 3\)"):
        MSELoss()(rows(), rows(3))
