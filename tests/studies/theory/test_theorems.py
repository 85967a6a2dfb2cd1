from __future__ import annotations

import pytest
import torch

from geodistill.geometry import measure
from geodistill.studies.theory.sizes import QUICK
from geodistill.studies.theory.theorems import antipodal_clouds, few_rows, identities, theorem_1, theorem_2


@pytest.mark.parametrize(
    ("n", "m", "cka", "procrustes", "gram"),
    [(1024, 32, 0.9688, 0.0624, 0.0615), (4096, 512, 0.8750, 0.2499, 0.2343)],
)
def test_theorem_1_has_the_known_numbers(n: int, m: int, cka: float, procrustes: float, gram: float) -> None:
    found = measure(*antipodal_clouds(n, m))
    assert (found.cka, found.procrustes, found.gram) == pytest.approx((cka, procrustes, gram), abs=6e-5)


def test_theorem_1_says_that_the_distances_shrink_too() -> None:
    verdicts = [claim.held for claim in theorem_1(QUICK).claims]
    assert verdicts == [True, True, False, True]


def test_theorem_2_and_its_repair_hold() -> None:
    finding = theorem_2(QUICK)
    assert [claim.held for claim in finding.claims] == [True] * 4
    assert "0.0e+00" in finding.claims[1].numbers or "e-" in finding.claims[1].numbers


def test_the_identities_hold() -> None:
    assert all(claim.held for claim in identities(QUICK).claims)


def test_few_rows_make_noise_alike() -> None:
    finding = few_rows(QUICK)
    assert all(claim.held for claim in finding.claims)
    assert finding.table.rows[0][0] == "n = 16" and float(finding.table.rows[0][1]) == pytest.approx(0.98, abs=0.01)


def test_the_clouds_are_unit_vectors_in_two_points_and_m_directions() -> None:
    student, teacher = antipodal_clouds(10, 3)
    assert torch.equal(student.abs(), torch.ones(10, 1, dtype=torch.float64))
    assert torch.equal(teacher.norm(dim=1), torch.ones(10, dtype=torch.float64))
    assert torch.equal(teacher[:3] @ teacher[:3].T, torch.eye(3, dtype=torch.float64))
