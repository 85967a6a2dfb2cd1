from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geodistill.studies.statistics import (
    PairedComparison,
    compare_paired,
    holm,
    mean_interval,
    minimum_wilcoxon_p,
    summarize,
    wilcoxon_p,
)


def scores(n: int, seed: int = 0) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    baseline = generator.normal(0.8, 0.02, n)
    return (baseline + generator.normal(0.01, 0.01, n)).tolist(), baseline.tolist()


def enumerated_wilcoxon_p(differences: list[float]) -> float:
    """The slow twin: every one of the 2ⁿ sign patterns, counted."""
    d = [x for x in differences if x != 0]
    ranks = stats.rankdata(np.abs(d)) if d else np.zeros(0)
    centre = ranks.sum() / 2
    observed = abs(sum(rank for rank, x in zip(ranks, d, strict=True) if x > 0) - centre)
    sums = [sum(np.compress(signs, ranks)) for signs in itertools.product([False, True], repeat=len(d))]
    return sum(abs(total - centre) >= observed - 1e-9 for total in sums) / len(sums)


@pytest.mark.parametrize("n", [3, 5, 8, 20, 45])
def test_agrees_with_scipy(n: int) -> None:
    candidate, baseline = scores(n)
    result = compare_paired(candidate, baseline, confidence=0.9)
    test = stats.ttest_rel(candidate, baseline)
    interval = test.confidence_interval(0.9)
    d = np.subtract(candidate, baseline)
    assert result.n == n and result.note is None
    assert result.t_p == pytest.approx(test.pvalue, rel=1e-8)
    assert result.t_interval == pytest.approx((interval.low, interval.high), rel=1e-8)
    assert result.wilcoxon_p == pytest.approx(stats.wilcoxon(candidate, baseline, method="exact").pvalue, rel=1e-10)
    assert result.mean_difference == pytest.approx(d.mean())
    assert result.deviation == pytest.approx(d.std(ddof=1))
    assert result.effect_size == pytest.approx(test.statistic / math.sqrt(n))


@pytest.mark.parametrize(("n", "method"), [(3, "percentile"), (7, "percentile"), (8, "BCa"), (15, "BCa")])
def test_bootstrap_says_its_method_and_agrees_with_scipy(n: int, method: str) -> None:
    candidate, baseline = scores(n, seed=4)
    result = compare_paired(candidate, baseline, resamples=4000, seed=7)
    d = np.subtract(candidate, baseline)
    oracle = stats.bootstrap((d,), np.mean, n_resamples=4000, method=method, random_state=np.random.default_rng(7))
    assert result.bootstrap_method == method
    assert result.bootstrap_interval == pytest.approx(tuple(oracle.confidence_interval), abs=1e-10)
    assert result == compare_paired(candidate, baseline, resamples=4000, seed=7)


def test_the_percentile_interval_of_three_pairs_never_leaves_their_range() -> None:
    candidate, baseline = scores(3, seed=2)
    interval = compare_paired(candidate, baseline).bootstrap_interval
    d = np.subtract(candidate, baseline)
    assert interval == pytest.approx((d.min(), d.max()))


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_wilcoxon_equals_the_enumeration_of_signs_with_ties_and_zeros(differences: list[int]) -> None:
    assert wilcoxon_p(differences) == pytest.approx(enumerated_wilcoxon_p([float(d) for d in differences]), abs=1e-12)


def test_wilcoxon_drops_zeros() -> None:
    assert wilcoxon_p([0, 1, 0, 2, 3]) == wilcoxon_p([1, 2, 3]) == 0.25
    assert wilcoxon_p([0, 0, 0]) == 1.0


def test_wilcoxon_tends_to_the_normal_approximation() -> None:
    d = np.random.default_rng(0).normal(0.2, 1, 200)
    z = stats.wilcoxon(d, correction=False).pvalue
    assert wilcoxon_p(d.tolist()) == pytest.approx(z, rel=0.1)


@pytest.mark.parametrize("n", range(8))
def test_minimum_wilcoxon_p_is_that_of_one_sign(n: int) -> None:
    assert minimum_wilcoxon_p(n) == wilcoxon_p([1.0 + i for i in range(n)])


def test_equal_differences_of_unequal_scores_are_ties() -> None:
    """0.9 − 0.8 and 0.7 − 0.6 differ in the last bit; a test that ranks them apart would be testing rounding."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_paired([0.9, 0.7, 0.5], [0.8, 0.6, 0.4])
    assert result.mean_difference == pytest.approx(0.1) and result.deviation == 0.0
    assert result.wilcoxon_p == 0.25
    assert (result.t_p, result.t_interval, result.bootstrap_interval, result.effect_size) == (None,) * 4
    assert result.note is not None and "same for every seed" in result.note


def test_no_difference_at_all() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare_paired([0.0] * 5, [0.0] * 5)
    assert (result.mean_difference, result.deviation, result.wilcoxon_p, result.t_p) == (0.0, 0.0, 1.0, None)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_no_test_on_fewer_than_three_pairs(n: int) -> None:
    result = compare_paired([0.9, 0.8][:n], [0.7, 0.7][:n])
    assert result.note == "no test was made: fewer than 3 seeds"
    assert result.mean_difference == (None if n == 0 else pytest.approx([0.2, 0.15][n - 1]))
    assert result == PairedComparison(n, result.mean_difference, result.deviation, note=result.note)


def test_no_test_on_a_diverged_run() -> None:
    result = compare_paired([0.9, float("nan"), 0.8], [0.7, 0.7, 0.6])
    assert result.note == "no test was made: a score is not finite"
    assert result.t_p is None and result.wilcoxon_p is None and result.mean_difference is None


def test_refuses_unpaired_scores_and_impossible_confidence() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        compare_paired([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="confidence"):
        compare_paired([1, 2, 3], [1, 2, 4], confidence=95)


def test_t_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    trials = 4000
    samples = generator.normal(0.3, 1.0, (trials, 4))
    intervals = [mean_interval(row.tolist(), confidence=0.9) for row in samples]
    covered = np.mean([low <= 0.3 <= high for low, high in filter(None, intervals)])
    assert covered == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / trials))


def test_mean_interval_needs_two_finite_values() -> None:
    assert mean_interval([0.5]) is None
    assert mean_interval([0.5, float("inf")]) is None
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5)


def test_summarize() -> None:
    assert summarize([1.0, 2.0, 6.0]).mean == 3.0
    assert summarize([1.0, 2.0, 6.0]).deviation == pytest.approx(math.sqrt(7))
    assert summarize([5.0]).deviation is None
    assert math.isnan(summarize([1.0, float("nan")]).mean)
    with pytest.raises(ValueError):
        summarize([])


def test_holm_by_hand() -> None:
    """Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and the last may not be below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError):
        holm([0.2, float("nan")])


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12))
def test_holm_never_helps_and_keeps_the_order(p_values: list[float | None]) -> None:
    adjusted = holm(p_values)
    pairs = [(p, a) for p, a in zip(p_values, adjusted, strict=True) if p is not None and a is not None]
    assert [p is None for p in p_values] == [a is None for a in adjusted]
    assert all(p <= a <= 1 for p, a in pairs)
    ordered = [a for _, a in sorted(pairs)]
    assert ordered == sorted(ordered)
    if pairs:
        assert min(a for _, a in pairs) == min(1.0, len(pairs) * min(p for p, _ in pairs))
