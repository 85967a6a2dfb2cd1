from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geodistill.distillation.cache.rotation import cut_bounds, mean_and_covariance, principal_axes


def unit(rows):
    rows = rows - rows.mean(0)
    return rows / rows.norm()


class Measures(NamedTuple):
    procrustes: float
    procrustes_squared: float
    gram: float
    gram_squared: float
    cka: float


def measures(student, teacher):
    """The definitions, by singular values and n × n Gram matrices."""
    student, teacher = unit(student), unit(teacher)
    square = max(0.0, float(2 - 2 * torch.linalg.svdvals(student.T @ teacher).sum()))
    student_gram, teacher_gram = student @ student.T, teacher @ teacher.T
    gram = float((student_gram - teacher_gram).norm())
    cosine = float((student_gram * teacher_gram).sum() / (student_gram.norm() * teacher_gram.norm()))
    return Measures(square**0.5, square, gram, gram**2, cosine)


def draw_teacher(seed, n, d, decay, offset):
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
    spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -decay
    rows = torch.randn(n, d, dtype=torch.float64, generator=generator) * spectrum @ rotation
    return rows + offset * torch.randn(d, dtype=torch.float64, generator=generator)


CLOUDS = st.tuples(
    st.integers(0, 10**6), st.integers(3, 40), st.integers(2, 12), st.floats(0, 3), st.sampled_from([0.0, 0.1, 10.0])
)


@settings(max_examples=150, deadline=None)
@given(CLOUDS, st.floats(0.2, 1), st.sampled_from(["random", "cut off", "kept", "teacher"]), st.integers(1, 14))
def test_no_student_notices_more_than_the_bounds(cloud, share, kind, width):
    teacher = draw_teacher(*cloud)
    mean, covariance = mean_and_covariance([teacher])
    axes = principal_axes(mean, covariance, share)
    cut = teacher @ axes
    rest = teacher - cut @ axes.T
    generator = torch.Generator().manual_seed(width)
    student = {
        "random": lambda: torch.randn(len(teacher), width, dtype=torch.float64, generator=generator),
        "cut off": lambda: rest,
        "kept": lambda: cut,
        "teacher": lambda: teacher,
    }[kind]()
    assume((student - student.mean(0)).norm() > 1e-6 * teacher.norm())
    bounds = cut_bounds(covariance, axes)
    before, after = measures(student, teacher), measures(student, cut)
    for name in Measures._fields:
        # Unsquared distances near zero are square roots of rounding.
        assert abs(getattr(before, name) - getattr(after, name)) <= getattr(bounds, name) + 1e-6, name


@settings(max_examples=60, deadline=None)
@given(CLOUDS, st.floats(0.3, 0.99))
def test_a_batch_has_bounds_of_its_own(cloud, share):
    teacher = draw_teacher(*cloud)
    axes = principal_axes(*mean_and_covariance([teacher]), share)
    batch = teacher[: max(3, len(teacher) // 3)]
    assume((unit(batch) @ axes).norm() > 1e-3)
    bounds = cut_bounds(mean_and_covariance([batch])[1], axes)
    student = torch.randn(len(batch), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before, after = measures(student, batch), measures(student, batch @ axes)
    for name in Measures._fields:
        assert abs(getattr(before, name) - getattr(after, name)) <= getattr(bounds, name) + 1e-6, name


def test_the_bounds_of_squared_procrustes_and_cka_are_reached():
    """By a student that has learned only what was cut off, one direction."""
    teacher = draw_teacher(0, 50, 6, 1.0, 0.0)
    _, covariance = mean_and_covariance([teacher - teacher.mean(0)])
    axes = torch.linalg.eigh(covariance)[1].flip(1)[:, :5]
    student = teacher - teacher @ axes @ axes.T
    bounds = cut_bounds(covariance, axes)
    before, after = measures(student, teacher), measures(student, teacher @ axes)
    assert after.procrustes_squared - before.procrustes_squared == pytest.approx(bounds.procrustes_squared, abs=1e-9)
    assert before.cka - after.cka == pytest.approx(bounds.cka, abs=1e-9)


def test_the_bounds_of_procrustes_and_gram_are_reached():
    """By the teacher itself: they are its distance from what is left of it."""
    teacher = draw_teacher(0, 50, 6, 1.0, 3.0)
    mean, covariance = mean_and_covariance([teacher])
    axes = principal_axes(mean, covariance, 0.9)
    bounds, after = cut_bounds(covariance, axes), measures(teacher, teacher @ axes)
    assert axes.shape[1] < 6 and after.gram == pytest.approx(bounds.gram, abs=1e-9)
    assert after.procrustes <= bounds.procrustes + 1e-9  # equal when the axes are principal ones alone
    axes = torch.linalg.eigh(covariance)[1].flip(1)[:, :3]
    expected = (2 - 2 * cut_bounds(covariance, axes).share ** 0.5) ** 0.5
    assert measures(teacher, teacher @ axes).procrustes == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(CLOUDS, st.floats(0.1, 1))
def test_axes_are_orthonormal_and_the_fewest_that_keep_the_share_and_the_mean(cloud, share):
    teacher = draw_teacher(*cloud)
    mean, covariance = mean_and_covariance([teacher])
    axes = principal_axes(mean, covariance, share)
    torch.testing.assert_close(axes.T @ axes, torch.eye(axes.shape[1], dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(axes @ axes.T @ mean, mean, atol=1e-5 * float(mean.norm()), rtol=0)
    values = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
    kept = values.cumsum(0) / values.sum()
    fewest = int((kept < share * (1 - 1e-9)).sum()) + 1
    assert axes.shape[1] in (fewest, fewest + 1)
    assert cut_bounds(covariance, axes).share >= share - 1e-9


def test_moments_do_not_depend_on_the_blocks():
    teacher = draw_teacher(1, 40, 5, 1.0, 3.0)
    mean, covariance = mean_and_covariance(teacher.float().split(7))
    torch.testing.assert_close(mean, teacher.float().double().mean(0))
    torch.testing.assert_close(covariance, torch.cov(teacher.float().double().T, correction=0))
    with pytest.raises(ValueError, match="no rows"):
        mean_and_covariance([])


def test_rows_that_are_all_alike_keep_their_mean_and_lose_nothing():
    mean, covariance = mean_and_covariance([torch.full((5, 3), 2.0)])
    axes = principal_axes(mean, covariance, 0.99)
    torch.testing.assert_close(axes @ axes.T @ mean, mean)
    assert cut_bounds(covariance, axes).procrustes == 0


def test_a_tail_of_rounding_is_no_variance():
    rows = torch.zeros(20, 8, dtype=torch.float64)
    rows[:, :2] = draw_teacher(0, 20, 2, 0.0, 0.0)
    rows -= rows.mean(0)
    assert principal_axes(*mean_and_covariance([rows]), 1.0).shape == (8, 2)
