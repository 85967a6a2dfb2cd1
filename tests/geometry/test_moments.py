"""Second moments: their definition, their sums, and the gradients that reach the student's rows."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from geodistill.geometry import Kernels, Moments
from geodistill.geometry import features as rows_module
from geodistill.geometry.features import pair_rows, prepare_features


def naive(student, teacher, weights, center=True):
    """The definition, with explicit centring and an explicit diagonal of weights."""
    w = weights.to(student.dtype)
    count = w.sum()
    mean, teacher_mean = (w @ student) / count, (w @ teacher) / count
    s, t = (student - mean, teacher - teacher_mean) if center else (student, teacher)
    scaled = torch.diag(w)
    return {
        "rows": (w != 0).sum(),
        "count": count,
        "student_mean": mean,
        "teacher_mean": teacher_mean,
        "student_square": (s.T @ scaled @ s).trace(),
        "teacher_square": (t.T @ scaled @ t).trace(),
        "cross": s.T @ scaled @ t,
        "student_gram": s.T @ scaled @ s,
        "teacher_gram": t.T @ scaled @ t,
    }


def assert_close(moments, expected, tolerance=1e-12, skip=()):
    for name, value in expected.items():
        if name not in skip:
            found = getattr(moments, name)
            assert torch.allclose(found, value.to(found.dtype), rtol=tolerance, atol=tolerance), name


@pytest.fixture(params=["ones", "boolean", "weights"])
def weights(request):
    generator = torch.Generator().manual_seed(1)
    random = torch.rand(40, generator=generator, dtype=torch.float64)
    return {"ones": torch.ones(40), "boolean": random > 0.3, "weights": random * (random > 0.2)}[request.param]


@pytest.fixture(params=[False, True])
def in_blocks(request, monkeypatch):
    """Once as one block, once with more rows than a block holds."""
    if request.param:
        monkeypatch.setattr(rows_module, "BLOCK_ELEMENTS", 1)
        monkeypatch.setattr(rows_module.FeatureRows, "parts", lambda self, _=0: [slice(0, 7), slice(7, 40)])


def test_definition(draw, weights, in_blocks):
    student, teacher = draw()
    assert_close(Moments.from_rows(student, teacher, weights), naive(student, teacher, weights))


def test_raw_moments_are_those_about_the_origin(draw, weights):
    student, teacher = draw()
    moments = Moments.from_rows(student, teacher, weights).about_origin()
    assert_close(moments, naive(student, teacher, weights, center=False), skip=("student_mean", "teacher_mean"))
    assert moments.student_mean.abs().sum() == 0


def test_masked_rows_leave_no_trace(draw):
    student, teacher = draw()
    keep = torch.arange(40) % 3 != 0
    clean = Moments.from_rows(student[keep], teacher[keep])
    student[~keep], teacher[~keep] = torch.nan, torch.inf
    student.requires_grad_()
    moments = Moments.from_rows(student, teacher, keep)
    assert_close(moments, {each.name: getattr(clean, each.name) for each in fields(clean)})
    (moments.cross.sum() + moments.student_gram.sum() + moments.student_mean.sum()).backward()
    assert student.grad[~keep].abs().sum() == 0 and student.grad[keep].isfinite().all()


def test_moments_of_parts_add_up(draw, weights):
    student, teacher = draw()
    whole = Moments.from_rows(student, teacher, weights)
    parts = [
        Moments.from_rows(student[part], teacher[part], weights[part])
        for part in (slice(0, 1), slice(1, 20), slice(20, 20), slice(20, 40))
    ]
    total = parts[0] + parts[1] + (parts[2] + parts[3])
    assert_close(total, {each.name: getattr(whole, each.name) for each in fields(whole)})


def test_sum_keeps_what_both_have(draw):
    student, teacher = draw()
    lean = Moments.from_rows(student, teacher, student_gram=False)
    assert lean.student_gram is None and lean.teacher_gram is not None
    total = lean + Moments.from_rows(student, teacher)
    assert total.student_gram is None and total.teacher_gram is not None


def test_a_sum_without_grams_forms_none(draw):
    """d × d products of a wide teacher that nobody reads were formed, and dropped, at each addition."""
    formed = []

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            formed.append(getattr(result, "shape", ()))
            return result

    student, teacher = draw(9, 3, 7)
    part = Moments.from_rows(student, teacher, student_gram=False, teacher_gram=False)
    with Shapes():
        part + part
    assert (3, 7) in formed and (7, 7) not in formed and (3, 3) not in formed


def test_sum_of_two_empty_parts_is_empty(draw):
    student, teacher = draw()
    none = Moments.from_rows(student, teacher, torch.zeros(40))
    total = none + none
    assert total.rows == 0 and total.cross.abs().sum() == 0 and total.student_mean.abs().sum() == 0


def test_a_large_mean_costs_no_digits_in_float32(draw):
    student, teacher = draw(200, dtype=torch.float32)
    exact = Moments.from_rows(student.double() + 1000, teacher.double() - 1000)
    found = Moments.from_rows((student.double() + 1000).float(), (teacher.double() - 1000).float())
    scale = exact.cross.norm()
    assert (found.cross.double() - exact.cross).norm() / scale < 1e-3  # the input itself is rounded to 6e-5
    shifted = Moments.from_rows((student.double() + 1000).float().double(), (teacher.double() - 1000).float().double())
    assert (found.cross.double() - shifted.cross).norm() / scale < 1e-6


def test_about_other_points_parts_simply_add(draw):
    student, teacher = draw()
    whole = Moments.from_rows(student, teacher)
    parts = [Moments.from_rows(student[p], teacher[p]) for p in (slice(0, 13), slice(13, 40))]
    moved = [part.about(whole.student_mean, whole.teacher_mean) for part in parts]
    for name in ("student_square", "teacher_square", "cross", "student_gram", "teacher_gram"):
        assert torch.allclose(sum(getattr(part, name) for part in moved), getattr(whole, name))


def test_normalized_moments_are_those_of_unit_features(draw):
    student, teacher = draw()
    s, t = student - student.mean(0), teacher - teacher.mean(0)
    unit = Moments.from_rows(s / s.norm(), t / t.norm())
    normalized = Moments.from_rows(student, teacher).centered().normalized()
    assert_close(normalized, {each.name: getattr(unit, each.name) for each in fields(unit)})
    point = Moments.from_rows(torch.ones(4, 2), torch.ones(4, 3)).normalized()
    assert point.student_square == 0 and point.cross.isfinite().all()


@pytest.mark.parametrize("grams", [True, False])
def test_gradients(draw, weights, in_blocks, grams):
    student, teacher = draw()
    shape = torch.Generator().manual_seed(2)
    fields_used = ["student_mean", "student_square", "cross", *(["student_gram"] if grams else [])]
    slopes = [torch.randn(1, generator=shape, dtype=torch.float64) for _ in fields_used]

    def combine(values):
        return sum((slope * torch.sin(values[name])).sum() for slope, name in zip(slopes, fields_used, strict=True))

    student.requires_grad_()
    moments = Moments.from_rows(student, teacher, weights, student_gram=grams)
    (ours,) = torch.autograd.grad(combine({name: getattr(moments, name) for name in fields_used}), student)
    (theirs,) = torch.autograd.grad(combine(naive(student, teacher, weights)), student)
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("center", [True, False])
def test_kernels_by_definition_with_their_gradient(draw, weights, center):
    student, teacher = draw()
    student.requires_grad_()
    kernels = Kernels.of(pair_rows(student, teacher, weights), center=center)
    w = weights.to(torch.float64)
    root = w.sqrt()[:, None]
    s, t = (root * (x - (w @ x) / w.sum() if center else x) for x in (student, teacher))
    assert torch.allclose(kernels.student_kernel, s @ s.T) and torch.allclose(kernels.teacher_kernel, t @ t.T)
    assert torch.allclose(kernels.student_square, s.square().sum())
    assert torch.allclose(kernels.teacher_square, t.square().sum())
    slope = torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (ours,) = torch.autograd.grad((slope * kernels.student_kernel).sum(), student, retain_graph=True)
    (theirs,) = torch.autograd.grad((slope * (s @ s.T)).sum(), student)
    assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_both_sides_give_the_same_products(draw):
    student, teacher = draw()
    rows = pair_rows(student, teacher)
    for moments, kernels in zip(Moments.of(rows).gram_squares(), Kernels.of(rows).gram_squares(), strict=True):
        assert torch.allclose(moments, kernels, rtol=1e-12)


def test_low_precision_rows_receive_gradients_in_their_own_dtype(draw):
    student, teacher = draw(dtype=torch.bfloat16)
    student.requires_grad_()
    moments = Moments.from_rows(student, teacher)
    assert moments.cross.dtype == torch.float32 and moments.student_square.dtype == torch.float64
    moments.cross.sum().backward()
    assert student.grad.dtype == torch.bfloat16


def test_the_teachers_own_moments_are_computed_once(draw):
    student, teacher = draw()
    prepared = prepare_features(teacher)
    first, second = Moments.from_rows(student, prepared), Moments.from_rows(student + 1, prepared)
    assert first.teacher_gram is second.teacher_gram
    assert Kernels.of(pair_rows(student, prepared)).teacher_kernel is prepared.kernel(True)


def test_nothing_keeps_the_students_rows_alive(draw):
    """The graph must not hold a reference circle: memory would grow until the collector runs."""
    import gc
    import weakref

    student, teacher = draw()
    gc.collect()
    gc.disable()
    try:
        moments = Moments.from_rows(student.requires_grad_(), teacher)
        kernels = Kernels.of(pair_rows(student, teacher))
        watched = [weakref.ref(tensor) for tensor in (moments.cross, moments.student_gram, kernels.student_kernel)]
        (moments.cross.sum() + kernels.student_kernel.sum()).backward()
        del moments, kernels
        assert [watch() for watch in watched] == [None, None, None]
    finally:
        gc.enable()
