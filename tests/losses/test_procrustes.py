"""The Procrustes loss: its formula and the gradient of its docstring."""

from __future__ import annotations

import pytest
import torch

from geodistill.geometry import procrustes_distance
from geodistill.losses import ProcrustesLoss


@pytest.mark.parametrize("shape", [(50, 5, 9), (7, 12, 30), (50, 9, 5)])
def test_value_and_closed_form_gradient(shape):
    generator = torch.Generator().manual_seed(0)
    n, student_width, teacher_width = shape
    student = torch.randn(n, student_width, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(n, teacher_width, generator=generator, dtype=torch.float64)
    value = ProcrustesLoss(center=False, normalize=False)(student, teacher)
    value.backward()
    left, sigma, right = torch.linalg.svd(student.detach().T @ teacher, full_matrices=False)
    keep = sigma > 1e-10
    polar = left[:, keep] @ right[keep]
    assert value.item() == pytest.approx(
        (student.square().sum() + teacher.square().sum() - 2 * sigma.sum()).item(), rel=1e-12
    )
    assert torch.allclose(student.grad, 2 * (student.detach() - teacher @ polar.T), atol=1e-10)


def test_training_reaches_a_congruent_student():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(40, 6, generator=generator)
    student = torch.randn(40, 6, generator=generator).requires_grad_()
    optimizer = torch.optim.LBFGS([student], max_iter=300, line_search_fn="strong_wolfe")
    loss = ProcrustesLoss()

    def closure():
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        return value

    optimizer.step(closure)
    assert procrustes_distance(student, teacher, squared=True) < 1e-5
