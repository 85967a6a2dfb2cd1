"""The Gram loss: its formula and the gradient of its docstring."""

from __future__ import annotations

import pytest
import torch

from geodistill.losses import GramLoss


@pytest.mark.parametrize("shape", [(50, 5, 9), (7, 12, 30)])
def test_value_and_closed_form_gradient(shape):
    generator = torch.Generator().manual_seed(0)
    n, student_width, teacher_width = shape
    student = torch.randn(n, student_width, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(n, teacher_width, generator=generator, dtype=torch.float64)
    value = GramLoss(center=False, normalize=False)(student, teacher)
    value.backward()
    s = student.detach()
    assert value.item() == pytest.approx((s @ s.T - teacher @ teacher.T).square().sum().item(), rel=1e-12)
    assert torch.allclose(student.grad, 4 * (s @ s.T @ s - teacher @ teacher.T @ s), rtol=1e-10)
