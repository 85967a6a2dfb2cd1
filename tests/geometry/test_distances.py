"""Procrustes, Gram and CKA against independent oracles, and against everything that was seen to go wrong."""

from __future__ import annotations

import ckatorch
import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.spatial
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from geodistill.errors import GeodistillError
from geodistill.geometry import cka, gram_distance, prepare_features, procrustes_distance
from geodistill.geometry import features as rows
from geodistill.geometry.distances import prefer_kernels

DISTANCES = [procrustes_distance, gram_distance]
ALL = [*DISTANCES, cka]
SIDES = {"many rows": (60, 5, 9), "few rows": (12, 9, 30), "wide student": (60, 9, 5), "square": (30, 7, 7)}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(params=SIDES.values(), ids=SIDES.keys())
def shape(request):
    return request.param


@pytest.fixture(params=TOLERANCE, ids=["float64", "float32"])
def dtype(request):
    return request.param


def prepared(x, center, normalize):
    """The slow, obvious way, in float64."""
    x = x.double()
    if normalize == "rows":
        x = x / x.norm(dim=1, keepdim=True) / len(x) ** 0.5
    if center:
        x = x - x.mean(0)
    return x / x.norm() if normalize is True else x


def padded(x, width):
    return torch.nn.functional.pad(x, (0, width - x.shape[1])).numpy()


def slow(distance, student, teacher, center=True, normalize=True):
    """The definition: an optimal rotation, or n × n Gram matrices."""
    s, t = prepared(student, center, normalize), prepared(teacher, center, normalize)
    if distance is procrustes_distance:
        width = max(s.shape[1], t.shape[1])
        rotation, _ = scipy.linalg.orthogonal_procrustes(padded(s, width), padded(t, width))
        return float(np.linalg.norm(padded(t, width) - padded(s, width) @ rotation) ** 2)
    student_kernel, teacher_kernel = s @ s.T, t @ t.T
    if distance is gram_distance:
        return (student_kernel - teacher_kernel).square().sum().item()
    return ((student_kernel * teacher_kernel).sum() / (student_kernel.norm() * teacher_kernel.norm())).item()


def square(distance, student, teacher, **options):
    return (
        distance(student, teacher, **options)
        if distance is cka
        else distance(student, teacher, squared=True, **options)
    )


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalize", [True, False, "rows"])
def test_definition(draw, distance, shape, dtype, center, normalize):
    student, teacher = draw(shape[0], *shape[1:], dtype=dtype)
    value = square(distance, student, teacher, center=center, normalize=normalize)
    expected = slow(distance, student, teacher, center, normalize)
    assert value.dtype == dtype and value.shape == ()
    assert value.item() == pytest.approx(expected, rel=TOLERANCE[dtype])
    if distance is not cka:
        root = distance(student, teacher, center=center, normalize=normalize)
        assert root.item() == pytest.approx(expected**0.5, rel=TOLERANCE[dtype])


def test_scipy_procrustes_disparity(draw, shape, dtype):
    """scipy fits the scale too: its disparity is 1 − ρ², and D_P² = 2 − 2ρ."""
    student, teacher = draw(shape[0], *shape[1:], dtype=dtype)
    width = max(shape[1:])
    _, _, disparity = scipy.spatial.procrustes(padded(teacher.double(), width), padded(student.double(), width))
    rho = 1 - procrustes_distance(student, teacher, squared=True).item() / 2
    assert 1 - rho**2 == pytest.approx(disparity, rel=TOLERANCE[dtype])


def test_bures_distance_of_the_kernels(draw, dtype):
    student, teacher = draw(8, 12, 20, dtype=dtype)  # fewer rows than columns, so that both kernels have full rank
    kernels = [(x.double() @ x.double().T).numpy() for x in (student, teacher)]
    bures = float(ot.gaussian.bures_distance(*kernels))
    distance = procrustes_distance(student, teacher, center=False, normalize=False).item()
    assert distance == pytest.approx(bures, rel=1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("debiased", [False, True])
def test_ckatorch(draw, shape, dtype, debiased):
    student, teacher = draw(shape[0], *shape[1:], dtype=dtype)
    expected = ckatorch.core.cka_base(
        student.double(), teacher.double(), kernel="linear", unbiased=debiased, method="fro_norm"
    )
    value = cka(student, teacher, debiased=debiased)
    assert value.item() == pytest.approx(float(expected), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


def test_debiased_cka_of_noise_is_zero_on_average():
    values, biased = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        student, teacher = torch.randn(16, 128, generator=generator), torch.randn(16, 384, generator=generator)
        values.append(cka(student, teacher, debiased=True).item())
        biased.append(cka(student, teacher).item())
    assert abs(sum(values) / 20) < 0.05 < 0.8 < sum(biased) / 20


def test_debiased_cka_takes_masks_and_needs_four_rows(draw):
    student, teacher = draw(30)
    mask = torch.arange(30) % 3 != 0
    expected = cka(student[mask], teacher[mask], debiased=True)
    student[~mask], teacher[~mask] = torch.nan, torch.nan
    assert torch.allclose(cka(student, teacher, mask=mask, debiased=True), expected)
    assert torch.allclose(cka(student, teacher, mask=mask * 0.5, debiased=True), expected)
    assert cka(student[mask][:3], teacher[mask][:3], debiased=True) == 0


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("normalize", [True, False, "rows"])
@pytest.mark.parametrize("widths", [(3, 4), (8, 9)], ids=["many rows", "few rows"])
def test_gradcheck(draw, distance, center, normalize, widths):
    student, teacher = draw(8, *widths)
    weights = torch.tensor([1, 0.5, 0, 1, 2, 1, 1, 1])
    options = {"mask": weights, "center": center, "normalize": normalize}
    assert torch.autograd.gradcheck(lambda s: distance(s, teacher, **options), student.requires_grad_())


@pytest.mark.parametrize("distance", ALL)
def test_float32_gradients_agree_with_float64(draw, distance, shape):
    student, teacher = draw(shape[0], *shape[1:])
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = student.detach().to(dtype).clone().requires_grad_()
        square(distance, leaf, teacher.to(dtype)).backward()
        gradients.append(leaf.grad.double())
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 1e-4


@pytest.mark.parametrize("distance", ALL)
def test_the_teacher_receives_no_gradient(draw, distance):
    student, teacher = (x.requires_grad_() for x in draw())
    distance(student, teacher).backward()
    assert teacher.grad is None and student.grad is not None


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("scale", [(1e-4, 1.0), (1e4, 1e4), (1e10, 1e10), (1e-4, 1e10), (1e10, 1e-4)])
def test_scale_changes_nothing(draw, distance, shape, scale):
    student, teacher = draw(shape[0], *shape[1:], dtype=torch.float32)
    leaf = student.clone().requires_grad_()
    expected = square(distance, leaf, teacher)
    expected.backward()
    scaled = (student * scale[0]).requires_grad_()
    value = square(distance, scaled, teacher * scale[1])
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(scaled.grad * scale[0], leaf.grad, rtol=1e-3, atol=1e-4 * leaf.grad.abs().max().item())


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("noise", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_small_distances_are_exact_in_float32(draw, distance, shape, noise):
    """The trace form alone is off by 29 % at a noise of 1e-2 when its scalars are float32."""
    student, _ = draw(shape[0], *shape[1:], dtype=torch.float32)
    teacher = student + noise * torch.randn(student.shape, generator=torch.Generator().manual_seed(1))
    for center in (True, False):
        exact = slow(distance, student, teacher, center=center) ** 0.5
        assert distance(student, teacher, center=center).item() == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_identical_features_have_distance_zero_and_gradient_zero(draw, distance, shape, dtype):
    for seed in range(10):
        student, _ = draw(shape[0], *shape[1:], dtype=dtype, seed=seed)
        leaf = student.clone().requires_grad_()
        value = distance(leaf, student)
        value.backward()
        assert value == 0 and leaf.grad.abs().sum() == 0
        leaf.grad = None
        distance(leaf, student, squared=True).backward()
        assert leaf.grad.isfinite().all()
    assert cka(student, student).item() == pytest.approx(1, abs=1e-6)


def test_a_large_offset_changes_nothing(draw):
    """An uncentred similarity moves from 0.27 to 1.00 when 5 is added to every feature."""
    student, teacher = draw(60, dtype=torch.float32)
    for distance in ALL:
        value = square(distance, student + 50, teacher - 50)
        assert value.item() == pytest.approx(square(distance, student, teacher).item(), rel=1e-4)


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(draw, distance, shape, dtype):
    student, teacher = draw(shape[0], *shape[1:], dtype=dtype)
    value = square(distance, student.requires_grad_(), teacher)
    exact = square(distance, student.detach().float(), teacher.float())
    assert value.dtype == torch.float32 and value == exact
    value.backward()
    assert student.grad.dtype == dtype


@pytest.mark.parametrize("distance", ALL)
def test_autocast_changes_nothing(draw, distance, shape):
    student, teacher = draw(shape[0], *shape[1:], dtype=torch.float32)
    expected = square(distance, student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(expected, student)
    with torch.autocast("cpu", torch.bfloat16):
        value = square(distance, student, teacher)
        (found,) = torch.autograd.grad(value, student)  # even the backward pass
    assert value == expected and torch.equal(found, gradient)


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("kept", [0, 1])
def test_fewer_than_two_rows_give_a_zero_that_can_be_differentiated(draw, distance, shape, dtype, kept):
    student, teacher = draw(shape[0], *shape[1:], dtype=dtype)
    mask = torch.arange(shape[0]) < kept
    value = distance(student.requires_grad_(), teacher, mask=mask)
    value.backward()
    assert value == 0 and student.grad.abs().sum() == 0
    empty = student.detach()[:kept].requires_grad_()
    distance(empty, teacher[:kept]).backward()
    assert empty.grad.abs().sum() == 0


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_not_finite_gives_nan(draw, distance, shape, dtype, poison):
    student, teacher = draw(shape[0], *shape[1:], dtype=dtype)
    for side in (student, teacher):
        spoilt = side.clone()
        spoilt[3, 2] = poison
        pair = (spoilt, teacher) if side is student else (student, spoilt)
        assert distance(*pair).isnan() and square(distance, *pair).isnan()
        assert not distance(*pair, mask=torch.arange(shape[0]) != 3).isnan()


@pytest.mark.parametrize("distance", ALL)
def test_degenerate_students_stay_finite(draw, distance, dtype):
    _, teacher = draw(40, dtype=dtype)
    for student in (torch.zeros(40, 5), torch.ones(40, 5), torch.arange(200.0).reshape(40, 5)):
        leaf = student.to(dtype).requires_grad_()
        value = square(distance, leaf, teacher)
        value.backward()
        assert value.isfinite() and leaf.grad.isfinite().all()


@pytest.mark.parametrize("distance", ALL)
def test_prepared_teachers_give_the_same(draw, distance, shape):
    student, teacher = draw(shape[0], *shape[1:])
    mask = torch.arange(shape[0]) % 4 != 0
    kept = prepare_features(teacher, mask)
    for center in (True, False):
        for normalize in (True, False, "rows"):
            for _ in range(2):
                value = distance(student, kept, center=center, normalize=normalize)
                expected = distance(student, teacher, mask=mask, center=center, normalize=normalize)
                assert torch.allclose(value, expected, rtol=1e-11)


def test_no_kernel_when_rows_outnumber_columns():
    for prepared_teacher in (False, True):
        for widths in ((5, 9), (384, 768), (768, 1024), (768, 4096)):
            assert not prefer_kernels(sum(widths), *widths, prepared_teacher)
            assert not prefer_kernels(100_000, *widths, prepared_teacher)
            assert prefer_kernels(min(widths) // 2, *widths, prepared_teacher)


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes, views of the inputs apart."""

    def __init__(self, *inputs):
        super().__init__()
        self.inputs = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in self.inputs:
                self.largest = max(self.largest, made.numel())
        return result


@pytest.mark.parametrize("distance", ALL)
def test_many_rows_make_no_kernel_and_no_copy_of_the_features(distance, monkeypatch):
    """Nothing is larger than the gradient itself: not n × n, and not the teacher's n × d_t."""
    monkeypatch.setattr(rows, "BLOCK_ELEMENTS", 256 * 30)
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4000, 10, generator=generator).requires_grad_()
    teacher = torch.randn(4000, 20, generator=generator)
    with LargestTensor(student, teacher) as watch:
        square(distance, student, teacher).backward()
    assert watch.largest == student.numel()


def test_unknown_normalisation_is_refused(draw):
    with pytest.raises(GeodistillError, match="normalisation"):
        procrustes_distance(*draw(), normalize="row")
