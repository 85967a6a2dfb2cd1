"""PCKA: patches of feature maps, channel by channel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.losses import PCKALoss


def maps(*shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
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


def test_maps_are_resized_to_whole_patches_of_the_teacher():
    student, teacher = maps((2, 3, 5, 7), (2, 3, 7, 10))
    resized = [
        functional.interpolate(x, size=(8, 12), mode="bilinear", align_corners=False) for x in (student, teacher)
    ]
    loss = PCKALoss(patch=4)
    assert torch.allclose(loss(student, teacher), slow(*resized, 4, True))
    large, small = maps((2, 3, 16, 16), (2, 3, 8, 8))
    coarser = functional.interpolate(large, size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(loss(large, small), slow(coarser, small, 4, True))


def test_a_learned_map_brings_channels_together():
    torch.manual_seed(0)
    student, teacher = maps((2, 3, 8, 8), (2, 5, 8, 8))
    loss = PCKALoss(3, 5, patch=4).double()
    assert [tuple(each.shape) for each in loss.parameters()] == [(5, 3, 1, 1)]
    (weight,) = loss.parameters()
    mapped = torch.einsum("dc,bchw->bdhw", weight[:, :, 0, 0], student)
    assert torch.allclose(loss(student, teacher), slow(mapped, teacher, 4, True))
    call = lambda s, w: torch.func.functional_call(loss, {"convolution.weight": w}, (s, teacher))  # noqa: E731
    assert torch.autograd.gradcheck(call, (student.requires_grad_(), weight))
    # A student with the channels of its teacher needs no map.
    assert not list(PCKALoss(5, 5).parameters()) and not list(PCKALoss().parameters())


def test_levels_of_a_pyramid_are_averaged():
    student, teacher = maps((2, 3, 16, 16), (2, 3, 8, 8)), maps((2, 3, 16, 16), (2, 3, 8, 8), seed=1)
    loss = PCKALoss(patch=4)
    each = [loss(s, t) for s, t in zip(student, teacher, strict=True)]
    assert torch.allclose(loss(student, tuple(teacher)), sum(each) / 2)
    with pytest.raises(GeodistillError, match="1 feature maps, and the teacher 2"):
        loss(student[:1], teacher)


def test_a_mask_says_which_samples_count():
    student, teacher = maps((4, 3, 8, 8), (4, 3, 8, 8))
    loss, mask = PCKALoss(patch=4), torch.tensor([True, False, True, True])
    expected = loss(student[mask], teacher[mask])
    student[1] = torch.nan
    assert torch.allclose(loss(student, teacher, mask), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_range_identity_and_invariances(seed, centered):
    student, teacher = maps((2, 3, 8, 8), (2, 3, 8, 8), seed=seed)
    loss = PCKALoss(patch=4, centered=centered)
    value = loss(student, teacher)
    assert 0 < value <= 1 and abs(loss(student, student)) < 1e-12
    scales = torch.tensor([0.1, -3.0, 1e5], dtype=torch.float64).view(1, 3, 1, 1)
    assert torch.allclose(loss(student * scales, teacher), value)  # of each channel
    assert torch.allclose(loss(student.flip(1), teacher.flip(1)), value)  # order of the channels
    assert torch.allclose(loss(student.flip(0), teacher.flip(0)), value)  # order of the samples
    patches = [torch.cat([x[..., 4:], x[..., :4]], dim=-1) for x in (student, teacher)]
    assert torch.allclose(loss(*patches), value)  # order of the patches
    if centered:  # what all patches have in common
        common = maps((2, 3, 4, 4), seed=seed + 1)[0].repeat(1, 1, 2, 2)
        assert torch.allclose(loss(student + common, teacher), value)


def test_float32_at_any_scale():
    student, teacher = maps((2, 3, 32, 32), (2, 3, 32, 32), dtype=torch.float32)
    loss = PCKALoss()
    for scale in (1e-4, 1e10):
        assert torch.allclose(loss(student * scale, teacher), loss(student, teacher), rtol=1e-4)
    assert torch.allclose(loss(student + 50, teacher), loss(student, teacher), rtol=1e-3)
    assert PCKALoss(centered=False)(student + 50, teacher + 50) < 1e-2  # what not centring costs


def test_a_channel_without_spread_counts_as_one():
    student, teacher = maps((2, 3, 32, 32), (2, 3, 32, 32), dtype=torch.float32)
    student[:, 0] = 0
    alive = PCKALoss()(student[:, 1:], teacher[:, 1:])
    assert torch.allclose(PCKALoss()(student, teacher), (1 + 2 * alive) / 3)


def test_a_single_patch_has_nothing_to_be_compared_with():
    student, teacher = maps((2, 3, 8, 8), (2, 3, 8, 8))
    with pytest.raises(GeodistillError, match=r"8 × 8 is a single patch of 16 × 16.*Set patch below 8"):
        PCKALoss()(student, teacher)
    large = maps((2, 3, 32, 32), (2, 3, 32, 32), seed=1)
    pyramid = PCKALoss()([large[0], student], [large[1], teacher])  # of a pyramid only some levels may be so small
    assert torch.allclose(pyramid, (PCKALoss()(*large) + 1) / 2)


@pytest.mark.parametrize("shapes", [((2, 3, 8, 8), (2, 4, 8, 8)), ((2, 3, 8, 8), (3, 3, 8, 8)), ((2, 3), (2, 3))])
def test_maps_that_do_not_fit_are_refused(shapes):
    with pytest.raises(GeodistillError, match="same samples and channels"):
        PCKALoss(patch=4)(*maps(*shapes))
