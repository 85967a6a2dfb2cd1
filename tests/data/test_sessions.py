"""Sessions: what is refused, what is masked, and how time is binned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geodistill.data.sessions import CLIPPED, Session, bin_events, bin_samples, clean
from geodistill.errors import GeodistillError


def session(**changes: Any) -> Session:
    draw = np.random.default_rng(0)
    content: dict[str, Any] = {
        "name": "monday",
        "spikes": draw.poisson(1.0, (500, 3)).astype(np.float32),
        "lfp": draw.normal(3.0, 2.0, (500, 4)).astype(np.float32),
        "behaviour": draw.normal(size=(500, 2)).astype(np.float32),
        "behaviour_names": ["x", "speed"],
        "bin_ms": 10.0,
    }
    return Session(**{**content, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lfp": np.zeros((400, 4))}, "time bins of session 'monday' do not correspond: spikes 500, lfp 400"),
        ({"spikes": np.zeros((500, 0))}, "'monday' has no spikes channels"),
        ({"lfp": np.zeros((500, 0))}, "'monday' has no lfp channels"),
        ({"spikes": np.full((500, 2), 0.5)}, "are no counts"),
        ({"behaviour": np.stack([np.arange(500.0), np.ones(500)], axis=1)}, "behaviour 'speed' .* is constant"),
    ],
)
def test_what_is_no_session_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(GeodistillError, match=said):
        session(**changes)


def test_potentials_are_scaled_and_artefacts_masked_and_counted() -> None:
    lfp = session().lfp.copy()
    lfp[10, 0] = 1000.0
    lfp[20:22, 1] = np.nan
    lfp[:, 2] = 7.0
    found, notes = clean(session(lfp=lfp))
    assert np.isnan(found.lfp[10, 0]) and np.isnan(found.lfp[20:22, 1]).all() and np.isnan(found.lfp[:, 2]).all()
    there = found.lfp[:, 3]
    assert abs(np.median(there)) < 1e-6 and abs(there.std() - 1) < 0.1
    assert np.nanmax(np.abs(found.lfp)) <= CLIPPED
    assert notes == [
        "Session 'monday': 2 LFP values are missing and masked.",
        "Session 'monday': 1 LFP values lie beyond 8 standard deviations and are masked as artefacts.",
        "Session 'monday': 1 of 4 LFP channels are constant, missing or clipped, and masked.",
    ]


def test_a_session_without_a_usable_channel_is_refused() -> None:
    with pytest.raises(GeodistillError, match="All LFP channels of session 'monday'"):
        clean(session(lfp=np.ones((500, 2))))


def test_events_and_samples_are_binned_on_one_grid() -> None:
    times = np.array([0.001, 0.0101, 0.0199, 0.05, -1.0])
    assert bin_events(times, 0.0, 3, 10.0).tolist() == [1, 2, 0]
    samples = np.arange(8.0)[:, None]
    samples[2] = np.nan
    found = bin_samples(samples, 200.0, 0.0, 5, 10.0)
    assert found[:4, 0].tolist() == [0.5, 3.0, 4.5, 6.5] and np.isnan(found[4, 0])
    shifted = bin_samples(samples, 200.0, 0.01, 3, 10.0, first=0.01)
    np.testing.assert_array_equal(shifted, found[:3])
