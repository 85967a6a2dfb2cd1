"""PCKA: patches of feature maps, channel by channel."""

from __future__ import annotations

import pytest
import torch

from geodistill.errors import GeodistillError
from geodistill.losses import PCKALoss


def maps(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(*shape, generator=generator, dtype=torch.float64) + 1).to(dtype) for shape in shapes]


def slow(student, teacher, patch, centered):
    """Patch by patch, with an explicit centring matrix."""
    _, channels, h, w = student.shape
    total = 0.0
    for channel in range(channels):
        kernels = []
        for side in (student, teacher):
            rows = [
                side[:, channel, top : top + patch, left : left + patch].flatten()
                for top in range(0, h, patch)
                for left in range(0, w, patch)
            ]
            rows = torch.stack(rows)
            n = len(rows)
            centring = torch.eye(n, dtype=rows.dtype) - (1 / n if centered else 0)
            kernels.append(centring @ rows @ rows.T @ centring)
        total += 1 - (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    return total / channels


@pytest.mark.parametrize("centered", [True, False])
def test_definition_and_gradient(centered):
    student, teacher = maps((2, 3, 8, 12), (2, 3, 8, 12))
    loss = PCKALoss(patch=4, centered=centered)
    assert torch.allclose(loss(student, teacher), slow(student, teacher, 4, centered), rtol=1e-10)
    small = maps((2, 2, 4, 6), (2, 2, 4, 6))
    small_loss = PCKALoss(patch=2, centered=centered)
    assert torch.autograd.gradcheck(lambda s: small_loss(s, small[1]), small[0].requires_grad_())


def test_maps_are_enlarged_to_whole_patches():
    student, teacher = maps((2, 3, 5, 7), (2, 3, 7, 10))
    enlarged = [
        torch.nn.functional.interpolate(x, size=(8, 12), mode="bilinear", align_corners=False)
        for x in (student, teacher)
    ]
    loss = PCKALoss(patch=4)
    assert torch.allclose(loss(student, teacher), loss(*enlarged))


def test_range_scale_and_identity():
    student, teacher = maps((2, 3, 32, 32), (2, 3, 32, 32), dtype=torch.float32)
    loss = PCKALoss()
    assert loss(student, student) < 1e-6 and 0 < loss(student, teacher) <= 1
    for scale in (1e-4, 1e10):
        assert torch.allclose(loss(student * scale, teacher), loss(student, teacher), rtol=1e-4)
    assert torch.allclose(loss(student + 50, teacher), loss(student, teacher), rtol=1e-3)
    assert PCKALoss(centered=False)(student + 50, teacher + 50) < 1e-2  # what not centring costs


def test_edges():
    student, teacher = (x.requires_grad_() for x in maps((2, 3, 8, 8), (2, 3, 8, 8), dtype=torch.bfloat16))
    value = PCKALoss()(student, teacher)  # a single patch
    value.backward()
    assert value == 0 and value.dtype == torch.float32 and student.grad.abs().sum() == 0 and teacher.grad is None
    dead = torch.zeros(2, 3, 32, 32).requires_grad_()
    PCKALoss()(dead, torch.randn(2, 3, 32, 32)).backward()
    assert dead.grad.isfinite().all()
    with pytest.raises(GeodistillError, match="channels"):
        PCKALoss()(torch.ones(2, 3, 8, 8), torch.ones(2, 4, 8, 8))


def test_autocast_changes_nothing():
    student, teacher = maps((2, 3, 32, 32), (2, 3, 32, 32), dtype=torch.float32)
    expected = PCKALoss()(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        assert PCKALoss()(student, teacher) == expected
