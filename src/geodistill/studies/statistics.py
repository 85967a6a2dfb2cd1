"""Paired statistics over training seeds: what a handful of runs can say, and what it cannot.

Everything here works on the differences dᵢ = candidateᵢ − baselineᵢ of runs that share a seed. Runs are few and scores
are shares of a small test part, so ties and zeros among the differences are usual: the signed-rank test is exact in
their presence, and a quantity that is not defined is None, with a note that says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

FEWEST_PAIRS = 3
"""No test is made on fewer pairs."""

FEWEST_FOR_BCA = 8
"""On fewer pairs BCa's acceleration, a third moment of as many jackknife means, is noise: percentiles are given."""

ROUNDING = 12
"""Decimals, relative to the largest score, to which differences are kept: 0.9 − 0.8 and 0.7 − 0.6 are a tie."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """Mean, sample deviation (n − 1 in the denominator; None for a single value) and number of the values."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class PairedComparison:
    """A candidate against a baseline over n pairs. Whatever was not computed is None, and `note` says why."""

    n: int
    mean_difference: float | None
    deviation: float | None = None
    confidence: float = 0.95
    t_interval: Interval | None = None
    t_p: float | None = None
    wilcoxon_p: float | None = None
    bootstrap_interval: Interval | None = None
    bootstrap_method: Literal["BCa", "percentile"] | None = None
    effect_size: float | None = None
    note: str | None = None


def summarize(values: Sequence[float]) -> Summary:
    """Mean and sample deviation of at least one value; NaN among the values makes both NaN."""
    if len(values) == 0:
        raise ValueError("summarize needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    deviation = float(array.std(ddof=1)) if array.size > 1 else None
    return Summary(float(array.mean()), deviation, array.size)


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Student's t interval of the mean; None for fewer than two values or values that are not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2 or not np.isfinite(array).all():
        return None
    mean, deviation = float(array.mean()), float(array.std(ddof=1))
    reach = float(stats.t.ppf(0.5 + confidence / 2, array.size - 1)) * deviation / math.sqrt(array.size)
    return mean - reach, mean + reach


def compare_paired(
    candidate: Sequence[float],
    baseline: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedComparison:
    """Test whether the mean of the paired differences is zero.

    t test:     t = d̄ / (s / √n) against Student's t with n − 1 degrees of freedom, and the interval that belongs to it.
    Wilcoxon:   `wilcoxon_p`, exact at any n; zero differences are dropped, ties share their mean rank.
    Bootstrap:  BCa (Efron 1987) from 8 pairs on, percentile below; `bootstrap_method` says which. The percentile
                interval lies within [min d, max d]; for symmetric d that covers the truth with probability
                1 − 2^(1−n) at most, 75 % for three pairs, whatever the confidence asked for.
    Effect:     Cohen's d_z = d̄ / s.

    Fewer than 3 pairs, or a score that is not finite: no test is made. Equal differences: there is no variance to judge
    the mean by, so the t test, both intervals and d_z are None, and only the Wilcoxon test is made.

    Args:
        candidate, baseline: scores of the same runs in the same order, of equal length.
        confidence: coverage of the two-sided intervals, in (0, 1).
        resamples: bootstrap resamples.
        seed: of the bootstrap.
    """
    if len(candidate) != len(baseline):
        raise ValueError(f"paired scores differ in number: {len(candidate)} and {len(baseline)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    d = _differences(candidate, baseline)
    if not np.isfinite(d).all():
        return PairedComparison(d.size, None, None, confidence, note="no test was made: a score is not finite")
    mean = float(d.mean()) if d.size else None
    deviation = float(d.std(ddof=1)) if d.size > 1 else None
    if mean is None or deviation is None or d.size < FEWEST_PAIRS:
        note = f"no test was made: fewer than {FEWEST_PAIRS} seeds"
        return PairedComparison(d.size, mean, deviation, confidence, note=note)
    if np.all(d == d[0]):
        note = "no t test or interval: the difference is the same for every seed"
        return PairedComparison(d.size, float(d[0]), 0.0, confidence, wilcoxon_p=wilcoxon_p(d.tolist()), note=note)
    method: Literal["BCa", "percentile"] = "BCa" if d.size >= FEWEST_FOR_BCA else "percentile"
    bootstrap = stats.bootstrap(
        (d,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method=method,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return PairedComparison(
        n=d.size,
        mean_difference=mean,
        deviation=deviation,
        confidence=confidence,
        t_interval=mean_interval(d.tolist(), confidence=confidence),
        t_p=float(stats.ttest_1samp(d, 0.0).pvalue),
        wilcoxon_p=wilcoxon_p(d.tolist()),
        bootstrap_interval=(float(bootstrap.low), float(bootstrap.high)),
        bootstrap_method=method,
        effect_size=mean / deviation,
    )


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test, exact: zeros are dropped, ties take their mean rank.

    Under the null each rank is added or not with probability ½, so the distribution of the rank sum is the convolution
    of n two-point distributions. Twice the mean ranks are whole numbers, which index it. All zero: p = 1.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[d != 0]
    twice_ranks = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)
    distribution = np.ones(1)
    for rank in twice_ranks:
        gap = np.zeros(rank)
        distribution = (np.concatenate([distribution, gap]) + np.concatenate([gap, distribution])) / 2
    observed = int(twice_ranks[d > 0].sum())
    tail = min(distribution[: observed + 1].sum(), distribution[observed:].sum())
    return min(1.0, 2 * float(tail))


def minimum_wilcoxon_p(n: int) -> float:
    """The least two-sided p that n pairs can reach, all of one sign: 2^(1−n). Three seeds cannot go below 0.25."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction: the k-th smallest of m p-values times m − k + 1, made monotone and at most 1.

    A None is a test that was not made: it stays None and does not count in m.
    """
    made = [(p, index) for index, p in enumerate(p_values) if p is not None]
    if any(not 0 <= p <= 1 for p, _ in made):
        raise ValueError(f"p-values must lie between 0 and 1: {list(p_values)}")
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(sorted(made)):
        highest = max(highest, min(1.0, (len(made) - rank) * p))
        adjusted[index] = highest
    return adjusted


def _differences(candidate: Sequence[float], baseline: Sequence[float]) -> npt.NDArray[np.float64]:
    """Candidate − baseline, with what is only rounding of the scores taken off."""
    a, b = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    scale = float(max(np.abs(a).max(), np.abs(b).max())) if a.size else 0.0
    if scale == 0 or not math.isfinite(scale):
        return a - b
    return np.round((a - b) / scale, ROUNDING) * scale
