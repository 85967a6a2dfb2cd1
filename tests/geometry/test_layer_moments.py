from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from geodistill.errors import GeodistillError
from geodistill.geometry import (
    cka,
    effective_rank,
    floor,
    gram_distance,
    layer_moments,
    procrustes_distance,
    variance_spectrum,
)
from geodistill.geometry.layer_moments import LayerMoments
from geodistill.geometry.reference import floor_of_spectrum, rank_of_spectrum


def clouds(n: int, widths: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [5 + torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1, d + 1) for d in widths]


def streamed(student: list[torch.Tensor], teacher: list[torch.Tensor], size: int) -> LayerMoments:
    moments = LayerMoments()
    for start in range(0, len(student[0]), size):
        part = slice(start, start + size)
        moments.add([rows[part] for rows in student], [rows[part] for rows in teacher])
    return moments


@pytest.mark.parametrize(("size", "at_once"), [(7, 512), (64, 512), (1000, 512), (1000, 40)])
def test_every_pair_equals_brute_force_whatever_the_batches(
    size: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_moments, "AT_ONCE", at_once)
    student, teacher = clouds(150, (3, 8), 0), clouds(150, (5, 4, 9), 1)
    teacher[1] = student[1] @ torch.randn(8, 4, dtype=torch.float64) + teacher[1] / 3
    moments = streamed(student, teacher, size)
    assert moments.rows == 150 and moments.widths == ([3, 8], [5, 4, 9])
    for i, s in enumerate(student):
        for j, t in enumerate(teacher):
            found = moments.compare(i, j)
            assert found.procrustes == pytest.approx(procrustes_distance(s, t, squared=True).item(), abs=1e-12)
            assert found.gram == pytest.approx(gram_distance(s, t, squared=True).item(), abs=1e-12)
            assert found.cka == pytest.approx(cka(s, t).item(), abs=1e-12)
            assert found.cka_debiased == pytest.approx(cka(s, t, debiased=True).item(), abs=1e-9)
            a, b = s - s.mean(0), t - t.mean(0)
            left = b - a @ torch.linalg.lstsq(a, b).solution
            assert found.residual == pytest.approx((left.square().sum() / b.square().sum()).item(), abs=1e-10)


def test_spectra_and_what_follows_from_them_equal_those_of_the_rows() -> None:
    student, teacher = clouds(90, (6,), 0), clouds(90, (5, 7), 1)
    own, others = streamed(student, teacher, 20).spectra()
    assert torch.allclose(own[0], variance_spectrum(student[0]))
    assert rank_of_spectrum(others[1]) == pytest.approx(effective_rank(teacher[1]))
    assert floor_of_spectrum(others[1], 3) == floor(teacher[1], 3) or floor_of_spectrum(
        others[1], 3
    ).procrustes == pytest.approx(floor(teacher[1], 3).procrustes)


def test_nothing_is_held_twice_while_batches_are_added() -> None:
    """The products of all student columns with all teacher columns are by far the largest tensor."""
    moments = LayerMoments()
    made: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            made.extend(each.numel() for each in (result,) if isinstance(each, torch.Tensor) and each is not args[0])
            return result

    moments.add(clouds(8, (16, 16), 0), clouds(8, (24,), 1))
    with Sizes():
        for seed in range(20):
            moments.add(clouds(8, (16, 16), seed), clouds(8, (24,), seed + 1))
    assert moments.rows == 21 * 8
    assert max(made) < 34 * 25, "a second tensor of that size was made"


def test_rows_that_do_not_fit_or_are_not_finite_are_refused() -> None:
    moments = LayerMoments()
    with pytest.raises(GeodistillError, match="different numbers of rows: 10, 11"):
        moments.add(clouds(10, (3,), 0), clouds(11, (3,), 0))
    broken = clouds(10, (3,), 0)
    broken[0][4, 1] = float("nan")
    with pytest.raises(GeodistillError, match="student's features hold NaN"):
        moments.add(broken, clouds(10, (3,), 0))
