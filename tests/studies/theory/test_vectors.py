from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.geometry import Moments, measure, prepare_features
from geodistill.geometry.projection import projection_residual
from geodistill.studies.theory.descent import OBJECTIVES, descend, distances, random_start
from geodistill.studies.theory.sizes import QUICK
from geodistill.studies.theory.vectors import convergence, count_orthogonal, orthogonal_vectors, partly_orthogonal

SMALL = replace(QUICK, rows=16, widths=(4, 6), steps=40)


def test_a_teacher_has_as_many_orthogonal_vectors_as_asked_and_one_line() -> None:
    assert count_orthogonal(partly_orthogonal(32, 0.5, 0), 0.3) == 17
    assert count_orthogonal(partly_orthogonal(32, 1.0, 0), 0.3) == 32


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.integers(1, 6), st.floats(0.05, 0.9), st.integers(0, 1000))
def test_counted_vectors_are_orthogonal_and_none_is_left_out(n: int, d: int, epsilon: float, seed: int) -> None:
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    kept: list[torch.Tensor] = []
    for vector in vectors:
        if all(abs(torch.cosine_similarity(vector, other, dim=0)) <= epsilon for other in kept):
            kept.append(vector)
    assert count_orthogonal(vectors, epsilon) == len(kept)


def test_a_start_is_the_same_for_every_loss_and_each_loss_lowers_its_own_measure() -> None:
    teacher, start = partly_orthogonal(16, 0.5, 0), random_start(16, 4, 0)
    for name, own in (("procrustes", "procrustes"), ("gram", "gram"), ("projection", "residual")):
        run = descend(OBJECTIVES[name], teacher, start, steps=30)
        first, last = (getattr(run.track[place], own) for place in (0, -1))
        assert last < first
        assert run.track[0] == descend(OBJECTIVES["cka"], teacher, start, steps=1).track[0]
        assert run.steps == [0, 10, 20, 30]


def test_no_student_passes_the_floor() -> None:
    finding = orthogonal_vectors(SMALL)
    assert [claim.held for claim in finding.claims][3]
    assert len(finding.charts) == 8 and finding.charts[0].lines[-1].dotted


def test_procrustes_is_faster_than_fixed_principal_components() -> None:
    finding = convergence(SMALL)
    assert finding.claims[2].held
    assert [row[0] for row in finding.table.rows][-1] == "MSE to principal components"


def test_all_distances_of_one_moment_are_those_of_the_package() -> None:
    teacher, student = partly_orthogonal(16, 0.5, 0), random_start(16, 4, 0)
    expected = measure(student, teacher)
    residual = projection_residual(Moments.from_rows(student, teacher)).item()
    found = distances(student, prepare_features(teacher))
    assert found == pytest.approx((expected.procrustes, expected.gram, expected.cka, residual), rel=1e-9)
