"""What every feature loss must do, whatever its formula."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.errors import GeodistillError
from geodistill.geometry import prepare_features
from geodistill.losses import CKALoss, GramLoss, ProcrustesLoss, ProjectionLoss

WIDTHS = (5, 9)
LOSSES = {
    "procrustes": ProcrustesLoss,
    "gram": GramLoss,
    "cka": CKALoss,
    "projection": lambda **options: ProjectionLoss(*WIDTHS, **options),
    "orthogonal": lambda **options: ProjectionLoss(*WIDTHS, orthogonal=True, **options),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def make(request):
    def seeded(**options):
        torch.manual_seed(0)
        return request.param(**options)

    return seeded


def features(*rows, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(*rows, 9, generator=generator, dtype=torch.float64)
    noise = torch.randn(*rows, 5, generator=generator, dtype=torch.float64)
    return (latent[..., :5] + 0.5 * noise + 1).to(dtype), (latent - 2).to(dtype)


def value_and_gradient(loss, student, teacher, mask=None):
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher, mask)
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("n", [6, 60])
def test_a_scalar_that_pulls_the_student_closer(make, n):
    loss = make().double()
    student, teacher = features(n, dtype=torch.float64)
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.shape == () and value > 0 and gradient.shape == student.shape
    step = 1e-4 * value / gradient.square().sum()
    gain = value - value_and_gradient(loss, student - step * gradient, teacher)[0]
    assert gain.item() == pytest.approx(1e-4 * value.item(), rel=0.02)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalize", [True, False, "rows"])
@pytest.mark.parametrize("squared", [True, False])
def test_gradcheck(make, center, normalize, squared):
    loss = make(center=center, normalize=normalize, squared=squared).double()
    student, teacher = features(8, dtype=torch.float64)
    mask = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1])
    names = [name for name, _ in loss.named_parameters()]

    def call(s, *parameters):
        return torch.func.functional_call(loss, dict(zip(names, parameters, strict=True)), (s, teacher, mask))

    assert torch.autograd.gradcheck(call, (student.requires_grad_(), *loss.parameters()))


@pytest.mark.parametrize("squared", [True, False])
def test_the_root_of_the_square(make, squared):
    student, teacher = features(60)
    square, root = make(squared=True)(student, teacher), make(squared=False)(student, teacher)
    assert root.item() == pytest.approx(square.sqrt().item(), rel=1e-6)


def test_masks_leading_dimensions_and_order(make):
    loss = make()
    student, teacher = features(6, 10)
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(1)) > 0.3
    value, gradient = value_and_gradient(loss, student[mask], teacher[mask])
    spoilt = [torch.where(mask[..., None], side, torch.nan) for side in (student, teacher)]
    found, found_gradient = value_and_gradient(loss, *spoilt, mask)
    assert torch.allclose(found, value, rtol=1e-5)
    assert torch.allclose(found_gradient[mask], gradient, rtol=1e-3, atol=1e-6)
    assert found_gradient[~mask].abs().sum() == 0
    order = torch.randperm(int(mask.sum()), generator=torch.Generator().manual_seed(2))
    assert torch.allclose(loss(student[mask][order], teacher[mask][order]), value, rtol=1e-5)
    assert torch.allclose(loss(*spoilt, mask.long()), value, rtol=1e-5)


def test_the_teacher_receives_no_gradient(make):
    student, teacher = features(60)
    teacher.requires_grad_()
    make()(student.requires_grad_(), teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("n", [6, 60])
@pytest.mark.parametrize("normalize", [True, "rows"])
def test_teachers_of_inference_mode(make, n, normalize):
    student, teacher = features(n)
    with torch.inference_mode():
        inferred = teacher * 1
    loss = make(normalize=normalize)
    value, gradient = value_and_gradient(loss, student, teacher)
    found, found_gradient = value_and_gradient(loss, student, inferred)
    assert found == value and torch.equal(found_gradient, gradient)


def test_half_precision_and_autocast(make):
    loss = make()
    student, teacher = features(60, dtype=torch.bfloat16)
    value, gradient = value_and_gradient(loss, student.float(), teacher.float())
    low, low_gradient = value_and_gradient(loss, student, teacher)
    assert low.dtype == torch.float32 and low == value and low_gradient.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        cast, cast_gradient = value_and_gradient(loss, student.float(), teacher.float())
    assert cast == value and torch.equal(cast_gradient, gradient)  # even the backward pass


@pytest.mark.parametrize("rows", [0, 1])
def test_a_mask_of_fewer_than_two_rows(make, rows):
    loss = make()
    student, teacher = features(4, 5)
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, :rows] = True
    value, gradient = value_and_gradient(loss, student, teacher, mask)
    assert value == 0 and gradient.abs().sum() == 0


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_not_finite_gives_nan(make, poison):
    loss = make()
    student, teacher = features(60)
    student[3, 1] = poison
    assert loss(student, teacher).isnan()
    assert loss(teacher[:, :5], teacher, torch.arange(60) != 3).isfinite()


def test_identical_and_degenerate_students_have_finite_gradients(make):
    for squared in (True, False):
        loss = make(squared=squared)
        _, teacher = features(60)
        for student in (teacher[:, :5], torch.zeros(60, 5), torch.ones(60, 5)):
            value, gradient = value_and_gradient(loss, student, teacher)
            assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("scale", [(1e-4, 1e-4), (1e4, 1e10), (1e10, 1e-4)])
def test_scale_changes_nothing(make, scale):
    loss = make()
    student, teacher = features(60)
    value, gradient = value_and_gradient(loss, student, teacher)
    scaled, scaled_gradient = value_and_gradient(loss, student * scale[0], teacher * scale[1])
    assert torch.allclose(scaled, value, rtol=1e-4)
    assert torch.allclose(scaled_gradient * scale[0], gradient, rtol=1e-3, atol=1e-5)


def test_prepared_teachers_give_the_same(make):
    student, teacher = features(60)
    mask = torch.arange(60) % 7 != 0
    prepared = prepare_features(teacher, mask)
    for n in (60, 4):
        kept = prepared if n == 60 else prepare_features(teacher[:n], mask[:n])
        for _ in range(2):
            value = make()(student[:n], kept)
            assert torch.allclose(value, make()(student[:n], teacher[:n], mask[:n]), rtol=1e-6)


def test_losses_hold_no_state(make):
    loss = make()
    before = {name: value for name, value in vars(loss).items() if not name.startswith("_")}
    loss(*features(60)).detach()
    assert {name: value for name, value in vars(loss).items() if not name.startswith("_")} == before
    again = pickle.loads(pickle.dumps(loss))
    assert again(*features(60)) == loss(*features(60))


def test_options_are_keywords_and_are_shown(make):
    assert "normalize='rows', squared=False" in repr(make(normalize="rows", squared=False))
    with pytest.raises(GeodistillError, match="normalisation"):
        make(normalize="unit")(*features(60))
    with pytest.raises(GeodistillError, match="same rows"):
        make()(torch.ones(3, 5), torch.ones(4, 9))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 100), st.booleans())
def test_moments_in_parts_give_the_loss_of_the_whole(n, cut, center):
    student, teacher = features(n, dtype=torch.float64)
    cut = min(cut, n)
    for make_loss in LOSSES.values():
        loss = make_loss(center=center).double()
        parts = [loss.moments(student[part], teacher[part]) for part in (slice(None, cut), slice(cut, None))]
        assert torch.allclose(loss.from_moments(parts[0] + parts[1]), loss(student, teacher), rtol=1e-9, atol=1e-10)
