from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import orthogonal_procrustes

from geodistill.tasks.retrieval import Alignment, nearest, ranks, similarity_structure


def rows(seed: int, n: int = 12, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def turned(seed: int, d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_rotated_and_shifted_student_retrieves_everything(seed: int) -> None:
    teacher = rows(seed)
    student = 3 * teacher @ turned(seed, 4) + 7
    sides = Alignment.fit(student, teacher).apply(student, teacher)
    assert ranks(*sides).tolist() == [1] * 12
    assert similarity_structure(*sides) == pytest.approx(1)


def test_the_rotation_is_that_of_scipy() -> None:
    student, teacher = rows(1), rows(2)
    expected, _ = orthogonal_procrustes(student - student.mean(0), teacher - teacher.mean(0))
    assert np.allclose(Alignment.fit(student, teacher).rotation, expected)


@pytest.mark.parametrize(("narrow", "wide"), [(3, 5), (5, 3)])
def test_sides_of_different_widths(narrow: int, wide: int) -> None:
    alignment = Alignment.fit(rows(1, d=narrow), rows(2, d=wide))
    student, teacher = alignment.apply(rows(1, d=narrow), rows(2, d=wide))
    assert student.shape == teacher.shape == (12, wide)
    square = alignment.rotation @ alignment.rotation.T if narrow < wide else alignment.rotation.T @ alignment.rotation
    assert np.allclose(square, np.eye(3))


def test_ranks_and_structure_the_slow_way() -> None:
    student, teacher = Alignment.fit(rows(1), rows(2)).apply(rows(3), rows(4))
    slow = []
    for place, row in enumerate(student):
        own = float(row @ teacher[place])
        slow.append(sum(float(row @ other) >= own - 1e-12 for other in teacher))
    assert ranks(student, teacher).tolist() == slow
    pairs = [(a, b) for a in range(12) for b in range(a)]
    expected = stats.spearmanr(*([side[a] @ side[b] for a, b in pairs] for side in (student, teacher))).statistic
    assert similarity_structure(student, teacher) == pytest.approx(expected)


def test_a_student_that_says_the_same_of_everything_retrieves_nothing() -> None:
    teacher = rows(1)
    sides = Alignment.fit(np.ones((12, 4)), teacher).apply(np.ones((12, 4)), teacher)
    assert ranks(*sides).tolist() == [12] * 12
    assert all(nearest(*sides) != np.arange(12))
    assert similarity_structure(*sides) == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_nearest_row_is_the_own_one_exactly_if_its_rank_is_one(seed: int) -> None:
    student, teacher = Alignment.fit(rows(seed), rows(seed + 1)).apply(rows(seed), rows(seed + 1))
    found = nearest(student, teacher)
    assert found.tolist() == [max(range(12), key=lambda other: float(row @ teacher[other])) for row in student]
    assert ((found == np.arange(12)) == (ranks(student, teacher) == 1)).all()
