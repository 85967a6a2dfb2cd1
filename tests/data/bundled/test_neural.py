"""The simulator and the real recording: what they are, and that they tell what they say."""

from __future__ import annotations

import numpy as np

from geodistill.data.bundled.neural import DIRECTIONS, LATENT, real, simulated, smooth
from geodistill.data.sessions import clean


def test_simulated_sessions_are_the_same_each_time_and_differ_from_each_other() -> None:
    first, second = simulated(40.0, minutes=1, sessions=2)
    (again,) = simulated(40.0, minutes=1, sessions=1)
    assert np.array_equal(first.spikes, again.spikes) and np.array_equal(first.lfp, again.lfp)
    assert not np.array_equal(first.lfp, second.lfp)
    assert len(first) == 1500 and first.lfp.shape[1] == 12 and tuple(first.behaviour_names) == LATENT
    assert all(24 <= each.spikes.shape[1] <= 32 for each in (first, second))
    (other,) = simulated(40.0, minutes=1, sessions=1, seed=1)
    assert not np.array_equal(first.lfp, other.lfp)


def test_spikes_follow_the_latent_and_power_of_potentials_follows_its_sources() -> None:
    (session,) = simulated(20.0, minutes=5, sessions=1)
    rates = np.stack([smooth(each, 50) for each in session.spikes.T.astype(np.float64)], axis=1)
    latent = session.behaviour.astype(np.float64)
    design = np.c_[rates, np.ones(len(rates))]
    fitted = design @ np.linalg.lstsq(design, latent, rcond=None)[0]
    assert (1 - ((latent - fitted) ** 2).mean(axis=0) / latent.var(axis=0) > 0.5).all()
    spectrum = np.fft.rfft(session.lfp[:, :].astype(np.float64), axis=0)
    frequency = np.fft.rfftfreq(len(session), 0.02)
    band = np.where(((frequency > 7) & (frequency < 9))[:, None], spectrum, 0)
    power = smooth((np.fft.irfft(band, len(session), axis=0) ** 2).sum(axis=1), 50)
    correlations = [abs(np.corrcoef(np.log(power), latent @ each)[0, 1]) for each in DIRECTIONS]
    assert correlations[1] > 0.4 and correlations[1] == max(correlations)


def test_the_recording_is_read_whole() -> None:
    (session,) = real(200.0)
    assert len(session) == 12005 and session.spikes.shape[1] == 16
    assert session.spikes.sum() == 162_745
    found, notes = clean(session)
    assert np.isfinite(found.lfp).any(axis=1).mean() > 0.5 and notes
    assert 0.02 < np.nanmean(session.behaviour) < 0.5
