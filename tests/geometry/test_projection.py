from __future__ import annotations

import pytest
import torch

from geodistill.geometry import Moments
from geodistill.geometry.projection import projection_residual


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def residual(student: torch.Tensor, teacher: torch.Tensor) -> float:
    return projection_residual(Moments.from_rows(student, teacher)).item()


@pytest.mark.parametrize("shape", [(50, 3, 7), (50, 7, 3), (6, 9, 4)])
def test_it_is_the_residual_of_least_squares(shape: tuple[int, int, int]) -> None:
    n, d_s, d_t = shape
    student, teacher = rows(n, d_s), rows(n, d_t, 1) + 3
    s, t = student - student.mean(0), teacher - teacher.mean(0)
    solution = torch.linalg.lstsq(s, t, driver="gelsd").solution
    expected = ((t - s @ solution).square().sum() / t.square().sum()).item()
    assert residual(student, teacher) == pytest.approx(expected, abs=1e-10)


def test_a_stretch_leaves_nothing_and_a_dead_column_does_not_matter() -> None:
    teacher = rows(40, 5)
    student = torch.cat([teacher * torch.tensor([1.0, 2, 5, 10, 50]), torch.zeros(40, 2)], 1)
    assert residual(student, teacher) < 1e-12
    assert residual(torch.zeros(40, 2, dtype=torch.float64), teacher) == 1
    assert residual(student.float(), teacher.float()) < 1e-5
