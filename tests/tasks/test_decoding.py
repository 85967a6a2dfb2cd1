"""Linear decoding over blocks of time."""

from __future__ import annotations

import numpy as np
import pytest

from geodistill.errors import GeodistillError
from geodistill.tasks.decoding import decode


def test_it_finds_what_is_linear_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    latents = draw.normal(size=(600, 5))
    noise = draw.normal(size=600)
    behaviour = np.stack([latents @ np.arange(5.0), latents[:, 0] + noise, noise], axis=1)
    found, predicted = decode(latents, behaviour, np.arange(600) // 50)
    expected = 1 - np.square(behaviour - predicted).sum(axis=0) / np.square(behaviour - behaviour.mean(axis=0)).sum(
        axis=0
    )
    assert np.allclose(found, expected)
    assert found[0] > 0.999
    assert found[1] == pytest.approx(0.5, abs=0.08)
    assert abs(found[2]) < 0.05


def test_neighbours_in_time_do_not_tell_on_each_other() -> None:
    """Two independent random walks: bins drawn at random would decode one from the other's time; blocks do not."""
    draw = np.random.default_rng(1)
    time = np.arange(400)
    latents = np.stack([np.exp(-((time - centre) ** 2) / 50) for centre in range(0, 400, 5)], axis=1)
    behaviour = np.cumsum(draw.normal(size=400))[:, None]
    assert decode(latents, behaviour, time).r2[0] > 0.8
    assert decode(latents, behaviour, time // 40).r2[0] < 0.3


def test_missing_behaviour_is_left_out() -> None:
    draw = np.random.default_rng(0)
    latents = draw.normal(size=(200, 2))
    behaviour = latents[:, :1].copy()
    behaviour[::3] = np.nan
    found = decode(latents, behaviour, np.arange(200) // 20)
    assert found.r2[0] > 0.99 and (np.isnan(found.predicted) == np.isnan(behaviour)).all()


def test_too_few_blocks_and_constant_behaviour_are_refused() -> None:
    latents = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(GeodistillError, match="2 blocks of time"):
        decode(latents, latents, np.arange(20) // 10)
    with pytest.raises(GeodistillError, match="constant in this split"):
        decode(latents, np.ones((20, 1)), np.arange(20) // 4)
