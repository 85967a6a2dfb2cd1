"""The loss of a whole batch that arrives in parts."""

from __future__ import annotations

import pytest
import torch

from geodistill.losses import AccumulatedLoss, CKALoss, GramLoss, ProcrustesLoss, ProjectionLoss

LOSSES = {
    "procrustes": ProcrustesLoss,
    "gram": GramLoss,
    "cka": CKALoss,
    "projection": lambda **options: ProjectionLoss(5, 9, **options),
    "orthogonal": lambda **options: ProjectionLoss(5, 9, orthogonal=True, **options),
}
PARTS = (slice(0, 7), slice(7, 8), slice(8, 30), slice(30, 40))


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalize", [True, False, "rows"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parts_add_up_to_the_whole(make, center, normalize, dtype):
    torch.manual_seed(0)
    loss = make(center=center, normalize=normalize, squared=normalize is not False).to(dtype)
    student = (torch.randn(40, 5, dtype=dtype) + 1).requires_grad_()
    teacher = torch.randn(40, 9, dtype=dtype) - 2
    mask = torch.rand(40) > 0.2
    leaves = [student, *loss.parameters()]
    value = loss(student, teacher, mask)
    expected = torch.autograd.grad(value, leaves)

    with torch.no_grad():
        first, *others = (loss.moments(student[part], teacher[part], mask[part]) for part in PARTS)
        whole = AccumulatedLoss(loss, sum(others, first))
    shares = [whole(student[part], teacher[part], mask[part]) for part in PARTS]
    for share in shares:
        share.backward()

    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    assert whole.value.item() == pytest.approx(value.item(), rel=tolerance)
    assert sum(share.item() for share in shares) == pytest.approx(value.item(), rel=tolerance)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert (leaf.grad - gradient).norm() <= tolerance * gradient.norm() + tolerance**2


def test_averaging_parts_is_another_objective():
    """What this is for: the mean of the micro-batches' losses points elsewhere."""
    torch.manual_seed(0)
    student, teacher = torch.randn(64, 16).requires_grad_(), torch.randn(64, 32)
    teacher[:, :16] += student.detach()
    loss = ProcrustesLoss()
    (whole,) = torch.autograd.grad(loss(student, teacher), student)
    parts = [slice(start, start + 16) for start in range(0, 64, 16)]
    (averaged,) = torch.autograd.grad(sum(loss(student[part], teacher[part]) for part in parts), student)
    assert torch.nn.functional.cosine_similarity(whole.flatten(), averaged.flatten(), dim=0) < 0.95


def test_nothing_kept_anywhere_is_a_zero_that_can_be_differentiated():
    student, teacher = torch.randn(10, 5).requires_grad_(), torch.randn(10, 9)
    loss, nothing = ProcrustesLoss(), torch.zeros(10)
    share = AccumulatedLoss(loss, loss.moments(student, teacher, nothing))(student, teacher, nothing)
    share.backward()
    assert share == 0 and student.grad.abs().sum() == 0


def test_nan_stays_nan():
    student, teacher = torch.randn(10, 5), torch.randn(10, 9)
    student[2, 2] = torch.nan
    loss = GramLoss()
    assert AccumulatedLoss(loss, loss.moments(student, teacher))(student, teacher).isnan()
