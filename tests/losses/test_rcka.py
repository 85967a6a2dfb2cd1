"""RCKA: three CKAs of one batch."""

from __future__ import annotations

import ckatorch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.errors import GeodistillError
from geodistill.losses import RCKALoss


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(12, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 4, 4), (5, 2, 2))]
    logits = [torch.randn(12, 7, generator=generator, dtype=torch.float64) for _ in range(2)]
    return *maps, *logits


def oracle(x, y):
    return ckatorch.core.cka_base(x, y, kernel="linear", unbiased=False, method="fro_norm")


def test_the_sum_of_its_terms():
    student, teacher, student_logits, teacher_logits = batch()
    terms = [
        1 - oracle(student.flatten(1), teacher.flatten(1)),
        1 - oracle(student_logits, teacher_logits),
        1 - oracle(student_logits.T, teacher_logits.T),
    ]
    assert torch.allclose(RCKALoss()(*batch()), sum(terms), rtol=1e-10)
    weighted = RCKALoss(features=0.5, samples=2.0, classes=0.0)
    assert torch.allclose(weighted(*batch()), 0.5 * terms[0] + 2 * terms[1], rtol=1e-10)
    assert RCKALoss(features=0, samples=0, classes=0)(*batch()) == 0


def test_without_centring_as_published():
    student, teacher, student_logits, teacher_logits = batch()

    def raw(x, y):
        k, l = x @ x.T, y @ y.T  # noqa: E741
        return 1 - (k * l).sum() / (k.norm() * l.norm())

    expected = raw(student.flatten(1), teacher.flatten(1)) + raw(student_logits, teacher_logits)
    expected += raw(student_logits.T, teacher_logits.T)
    assert torch.allclose(RCKALoss(centered=False)(*batch()), expected, rtol=1e-10)


def test_a_mask_says_which_samples_count():
    tensors, mask = batch(), torch.arange(12) != 3
    expected = RCKALoss()(*(each[mask] for each in tensors))
    for each in tensors:
        each[3] = torch.nan
    assert torch.allclose(RCKALoss()(*tensors, mask=mask), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_range_identity_and_invariances(seed, centered):
    student, teacher, student_logits, teacher_logits = batch(seed)
    loss = RCKALoss(features=0.5, samples=2.0, centered=centered)
    value = loss(student, teacher, student_logits, teacher_logits)
    assert 0 < value <= 3.5
    assert abs(loss(student, student, student_logits, student_logits)) < 1e-12
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(loss(*(each[order] for each in batch(seed))), value)
    assert torch.allclose(loss(1e6 * student, 1e-6 * teacher, 7 * student_logits, teacher_logits / 7), value)
    rotation = torch.linalg.qr(student.flatten(1).T @ student.flatten(1)).Q  # of the features of a sample
    assert torch.allclose(loss(student.flatten(1) @ rotation, teacher, student_logits, teacher_logits), value)


def test_gradients_reach_the_student_only():
    tensors = [tensor.requires_grad_() for tensor in batch()]
    RCKALoss()(*tensors).backward()
    assert [tensor.grad is not None for tensor in tensors] == [True, False, True, False]
    student, teacher, student_logits, teacher_logits = (tensor.detach() for tensor in tensors)
    leaves = student.requires_grad_(), student_logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, logits: RCKALoss()(s, teacher, logits, teacher_logits), leaves)


def test_logits_of_other_classes_are_refused():
    student, teacher, student_logits, teacher_logits = batch()
    with pytest.raises(GeodistillError, match="by class"):
        RCKALoss()(student, teacher, student_logits, teacher_logits[:, :5])
