"""Floor, chance and rank."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from geodistill.errors import GeodistillError
from geodistill.geometry import (
    Geometry,
    chance_level,
    cka,
    effective_rank,
    floor,
    gram_distance,
    measure,
    participation_ratio,
    procrustes_distance,
    variance_spectrum,
)

NAMES = ("procrustes", "gram", "cka")


def loss(name, student, teacher):
    if name == "cka":
        return 1 - cka(student, teacher)
    return {"procrustes": procrustes_distance, "gram": gram_distance}[name](student, teacher, squared=True)


@pytest.mark.parametrize("width", [1, 3, 8])
@pytest.mark.parametrize("name", NAMES)
def test_the_floor_is_reached_by_optimising_a_student(draw, name, width):
    """A free student, row by row, comes down to the floor and not below it."""
    _, teacher = draw(30, 5, 12)
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(30, width, dtype=torch.float64, generator=generator).requires_grad_()
    optimizer = torch.optim.LBFGS([student], max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(name, student, teacher)
        value.backward()
        return value

    optimizer.step(closure)
    best = getattr(floor(teacher, width), name)
    assert getattr(measure(student, teacher), name) == pytest.approx(best, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("center", [True, False])
def test_floor_by_its_formulas(draw, center):
    _, teacher = draw(30, 5, 12)
    mask = torch.arange(30) % 5 != 0
    kept = teacher[mask]
    kept = kept - kept.mean(0) if center else kept
    eigenvalues = torch.linalg.eigvalsh(kept @ kept.T).flip(0)[:12].clamp(min=0)
    shares = eigenvalues / eigenvalues.sum()
    kept_share, lost = shares[:4].sum(), shares[4:]
    teacher[~mask] = torch.nan
    found = floor(teacher, 4, mask=mask, center=center)
    assert found.procrustes == pytest.approx((2 - 2 * kept_share.sqrt()).item(), rel=1e-9)
    assert found.gram == pytest.approx((lost.sum() ** 2 / 4 + lost.square().sum()).item(), rel=1e-9)
    assert found.cka == pytest.approx((shares[:4].square().sum() / shares.square().sum()).sqrt().item(), rel=1e-12)


def test_a_wide_enough_student_has_no_floor(draw):
    _, teacher = draw(30, 5, 12)
    assert floor(teacher, 12) == Geometry(0, 0, 1)
    few = floor(teacher[:5], 4)  # five centred rows span four dimensions
    assert few.procrustes == pytest.approx(0, abs=1e-12) and few.cka == pytest.approx(1)
    with pytest.raises(GeodistillError, match="width 0"):
        floor(teacher, 0)


def test_floors_fall_with_width(draw):
    _, teacher = draw(30, 5, 12)
    floors = [floor(teacher, width) for width in range(1, 13)]
    for narrow, wide in itertools.pairwise(floors):
        assert wide.procrustes < narrow.procrustes and wide.gram < narrow.gram and wide.cka > narrow.cka


def test_measure_is_the_three_distances(draw):
    student, teacher = draw(60)
    mask = torch.arange(60) % 4 != 0
    found = measure(student, teacher, mask=mask, center=False)
    assert found.procrustes == procrustes_distance(student, teacher, mask=mask, center=False, squared=True)
    assert found.gram == gram_distance(student, teacher, mask=mask, center=False, squared=True)
    assert found.cka == cka(student, teacher, mask=mask, center=False)


@pytest.mark.parametrize("shape", [(60, 5, 9), (12, 20, 30)])
@pytest.mark.parametrize("masked", [False, True])
def test_chance_is_the_mean_over_orders_of_the_kept_rows(draw, shape, masked):
    student, teacher = draw(*shape)
    mask = torch.arange(shape[0]) % 3 != 0 if masked else torch.ones(shape[0], dtype=torch.bool)
    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(int(mask.sum()), generator=generator) for _ in range(3)]
    drawn = [measure(student[mask][order], teacher[mask]) for order in orders]
    student[~mask], teacher[~mask] = torch.nan, torch.nan
    found = chance_level(student, teacher, mask=mask if masked else None, permutations=3, seed=7)
    for name in NAMES:
        assert getattr(found, name) == pytest.approx(sum(getattr(each, name) for each in drawn) / 3, rel=1e-9)


def test_chance_flatters_few_rows_and_not_many():
    """Independent noise of widths 128 and 384: Procrustes cosine .98 at 16 rows and .33 at 1024, CKA .92 and .17."""
    levels = {}
    for n in (16, 1024):
        generator = torch.Generator().manual_seed(0)
        levels[n] = chance_level(
            torch.randn(n, 128, generator=generator), torch.randn(n, 384, generator=generator), permutations=2
        )
    assert 1 - levels[16].procrustes / 2 == pytest.approx(0.98, abs=0.01)
    assert 1 - levels[1024].procrustes / 2 == pytest.approx(0.33, abs=0.02)
    assert levels[16].cka == pytest.approx(0.92, abs=0.02) and levels[1024].cka == pytest.approx(0.17, abs=0.02)


def test_chance_is_above_a_paired_distance_and_repeats_itself(draw):
    student, teacher = draw(60)
    level = chance_level(student, teacher)
    assert level == chance_level(student, teacher) != chance_level(student, teacher, seed=1)
    paired = measure(student, teacher)
    assert paired.procrustes < level.procrustes and paired.gram < level.gram and paired.cka > level.cka
    with pytest.raises(GeodistillError, match="no permutation"):
        chance_level(student, teacher, permutations=0)


@pytest.mark.parametrize("n", [7, 40])
@pytest.mark.parametrize("center", [True, False])
def test_spectrum_is_the_share_of_variance(draw, n, center):
    _, teacher = draw(n, 5, 9)
    mask = torch.arange(n) != 2
    kept = teacher[mask] - teacher[mask].mean(0) if center else teacher[mask]
    expected = torch.linalg.svdvals(kept).square()
    spectrum = variance_spectrum(teacher, mask=mask, center=center)
    assert spectrum.sum() == pytest.approx(1)
    assert torch.allclose(spectrum[: len(expected)], expected / expected.sum(), atol=1e-12)
    assert spectrum[len(expected) :].abs().sum() < 1e-12


def test_ranks_of_even_clouds_and_of_a_line():
    even = torch.linalg.qr(torch.randn(50, 6, dtype=torch.float64)).Q
    even = torch.cat([even, -even])
    line = torch.outer(torch.arange(50.0), torch.ones(6))
    for rank in (effective_rank, participation_ratio):
        assert rank(even) == pytest.approx(6, rel=1e-6)
        assert rank(line) == pytest.approx(1, rel=1e-5)
        assert rank(even * torch.tensor([1, 1, 1, 1e-3, 1e-3, 1e-3])) == pytest.approx(3, rel=0.03)


def test_effective_rank_is_the_entropy_of_singular_values(draw):
    _, teacher = draw()
    sigma = torch.linalg.svdvals(teacher - teacher.mean(0))
    shares = (sigma / sigma.sum()).tolist()
    assert effective_rank(teacher) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)


def test_a_single_point_and_not_finite_features():
    point = torch.ones(5, 3)
    assert variance_spectrum(point).sum() == 0
    assert floor(point, 1) == Geometry(0, 0, 0)
    assert participation_ratio(point) == 0
    spoilt = torch.ones(5, 3)
    spoilt[2, 1] = torch.nan
    assert math.isnan(floor(spoilt, 2).procrustes) and math.isnan(effective_rank(spoilt))
