"""The CKA loss: its formula, and its blindness to scale."""

from __future__ import annotations

import torch

from geodistill.geometry import cka
from geodistill.losses import CKALoss


def test_one_minus_cka():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    teacher = torch.randn(50, 9, generator=generator, dtype=torch.float64)
    mask = torch.arange(50) % 4 != 0
    for options in ({}, {"center": False}, {"normalize": "rows"}):
        expected = 1 - cka(student, teacher, mask=mask, **options)
        assert torch.allclose(CKALoss(**options)(student, teacher, mask), expected)
        assert torch.allclose(CKALoss(squared=False, **options)(student, teacher, mask), expected.sqrt())


def test_half_the_squared_distance_of_unit_kernels():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(30, d, generator=generator, dtype=torch.float64) for d in (5, 9))
    kernels = [x @ x.T for x in (student - student.mean(0), teacher - teacher.mean(0))]
    unit = [kernel / kernel.norm() for kernel in kernels]
    assert torch.allclose(CKALoss()(student, teacher), (unit[0] - unit[1]).square().sum() / 2)


def test_a_scaled_copy_has_loss_zero():
    student = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert CKALoss()(3 * student + 1, student) < 1e-6
