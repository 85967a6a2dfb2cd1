"""Bundled sessions of spikes and field potentials: a simulator on real trajectories, and a real recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from geodistill.data.bundled.packages import EPHYSIOPY, RATINABOX, package_files
from geodistill.data.sessions import Floats, Session, bin_events, bin_samples

Array = NDArray[np.float64]
SESSIONS = 8
SEED = 0
CHANNELS = 12  # of the LFP
DRIFT = 0.3  # of what the channels mix, from session to session
LATENT = ("x", "y", "vx", "vy")
FREQUENCIES = (6.0, 8.0, 11.0)  # Hz, of the oscillations whose power follows the latent
DIRECTIONS = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2  # of the latent, one for each oscillation
RECORDING = "M851_140908t2rh"
TETRODES = (1, 2, 3, 4)
SPIKE_CLOCK = 96_000  # ticks a second
SPIKE = np.dtype([("wires", [("time", ">u4"), ("form", "i1", 50)], 4)])
TRACKING = np.dtype([("time", ">u4"), ("values", ">u2", 8)])  # x and y of the first light come first
TRACKING_RATE, FIELD_RATE = 50, 250  # samples a second
NOT_TRACKED = 1023
PIXELS_PER_METRE = 300
BANDS = ((1, 4), (5, 11), (12, 25), (25, 45), (55, 90))  # Hz


def simulated(
    bin_ms: float = 10.0, *, minutes: float = 10.0, sessions: int = SESSIONS, seed: int = SEED
) -> list[Session]:
    """Simulated sessions on the way of a real rat (Tanni et al. 2022, from the package ratinabox).

    The way is cut into sessions one after the other. Position and velocity, smoothed over half a second and
    standardised, are the latent z(t) of four dimensions, which all sessions share, and the behaviour that is decoded.

    - spikes: each session has 24 to 32 other neurons. Neuron i fires Poisson(Δt · exp(b_i + w_i·z(t))), with
      random w_i of length 0.4 to 1.2, at 3 to 12 Hz on average.
    - LFP: three sources, fewer than the latent has dimensions: u_j = p_j·z(t − lag_j), with lags of 20 to 100 ms and
      orthogonal p_j, so that of each dimension three quarters are left. A source sets the amplitude of an oscillation,
      exp(0.7 u_j) · cos(2π f_j t + φ_j(t)), whose phase drifts. 12 channels mix these oscillations with three slow
      signals that have nothing to do with the latent and are twice as strong, and add white noise. The electrodes stay
      where they are, so session s mixes by M = √(1 − δ²) M₀ + δ M_s, δ = 0.3: M₀ serves all sessions, M_s one.

    So the LFP tells of three of four directions, by the power of oscillations and not by their values.
    """
    with np.load(package_files(RATINABOX) / "tanni.npz") as file:
        times, places = file["t"] - file["t"][0], file["pos"]
    step = bin_ms / 1000
    bins = int(minutes * 60 / step)
    common = _orthogonal(np.random.default_rng((seed, 0)))
    found = []
    for number in range(sessions):
        draw = np.random.default_rng((seed, number + 1))
        start = number * minutes * 60
        latent = latent_of(times, places, start + np.arange(-20.0, bins) * step, step)
        found.append(
            Session(
                name=f"simulated-{number + 1}",
                spikes=_spikes(latent[20:], step, draw),
                lfp=_potentials(latent, bins, step, draw, common),
                behaviour=latent[20:].astype(np.float32),
                behaviour_names=LATENT,
                bin_ms=bin_ms,
            )
        )
    return found


def real(bin_ms: float = 10.0) -> list[Session]:
    """A recording of 40 minutes of a rodent in a circular box, in Axona's format, from the package ephysiopy.

    - spikes: of four tetrodes, not sorted: the spikes of a tetrode by the wire on which they are largest, 16 channels.
    - LFP: one electrode at 250 Hz: the potential, and the logarithm of its power in five bands, 6 channels. Samples at
      the ends of the range of 8 bits, and a tenth of a second around them, are stimulation and are missing.
    - behaviour: speed in m/s, of the tracked position smoothed over half a second; missing where nothing was tracked.

    Here spikes are no stronger teacher than the LFP: of the speed in bins of 200 ms, ridge regression finds R² of .26
    from spikes and .37 from band power.
    """
    folder = package_files(EPHYSIOPY)
    potential = np.frombuffer(_axona(folder / f"{RECORDING}.eeg"), dtype="i1").astype(np.float64)
    seconds = len(potential) / FIELD_RATE
    bins = int(seconds * 1000 / bin_ms)
    channels = []
    for tetrode in TETRODES:
        content = _axona(folder / f"{RECORDING}.{tetrode}")
        wires = np.frombuffer(content[: len(content) // SPIKE.itemsize * SPIKE.itemsize], dtype=SPIKE)["wires"]
        largest = np.ptp(wires["form"].astype(np.int16), axis=2).argmax(axis=1)
        times = wires["time"][:, 0] / SPIKE_CLOCK
        channels += [bin_events(times[largest == wire], 0.0, bins, bin_ms) for wire in range(4)]
    return [
        Session(
            name=RECORDING,
            spikes=np.stack(channels, axis=1),
            lfp=bin_samples(_bands(potential), FIELD_RATE, 0.0, bins, bin_ms),
            behaviour=bin_samples(_speed(folder / f"{RECORDING}.pos"), TRACKING_RATE, 0.0, bins, bin_ms),
            behaviour_names=("speed",),
            bin_ms=bin_ms,
        )
    ]


def _axona(path: Path) -> bytes:
    """What lies between the header of a file and its end mark."""
    content = path.read_bytes()
    start, mark = content.index(b"data_start") + len(b"data_start"), b"\r\ndata_end"
    return content[start : content.rindex(mark) if mark in content[-32:] else len(content)]


def _bands(potential: Array) -> Array:
    """The potential and the logarithm of its power in each band, (n, 1 + bands); NaN around what is at its limits."""
    limits = np.abs(potential) >= 127
    around = np.convolve(limits, np.ones(FIELD_RATE // 5), mode="same") > 0
    filled = np.where(around, 0.0, potential)
    columns = [potential]
    for low, high in BANDS:
        band = signal.sosfiltfilt(signal.butter(3, (low, high), "bandpass", fs=FIELD_RATE, output="sos"), filled)
        columns.append(np.log(smooth(np.square(band), FIELD_RATE / low) + 1))
    return np.where(around[:, None], np.nan, np.stack(columns, axis=1))


def _speed(path: Path) -> Array:
    """Speed in m/s at each sample of the tracking, (n, 1)."""
    values = np.frombuffer(_axona(path), dtype=TRACKING)["values"][:, :2].astype(np.float64)
    tracked = (values < NOT_TRACKED).all(axis=1)
    grid = np.arange(len(values))
    place = [smooth(np.interp(grid, grid[tracked], values[tracked, axis]), TRACKING_RATE / 2) for axis in (0, 1)]
    speed = np.hypot(*np.gradient(np.stack(place), axis=1)) * TRACKING_RATE / PIXELS_PER_METRE
    return np.where(tracked, speed, np.nan)[:, None]


def latent_of(times: Array, places: Array, grid: Array, step: float) -> Array:
    """Position and velocity (t, 4) at the times of a grid, smoothed over half a second, each standardised."""
    position = np.stack([smooth(np.interp(grid, times, places[:, axis]), 0.5 / step) for axis in (0, 1)], axis=1)
    velocity = np.gradient(position, step, axis=0)
    latent = np.concatenate([position, velocity], axis=1)
    return (latent - latent.mean(axis=0)) / latent.std(axis=0)


def smooth(signal: Array, width: float) -> Array:
    """A signal averaged over a window of so many samples, its ends repeated."""
    size = max(1, round(width)) | 1
    padded = np.pad(signal, size // 2, mode="edge")
    return np.convolve(padded, np.full(size, 1 / size), mode="valid")


def _spikes(latent: Array, step: float, draw: np.random.Generator) -> Floats:
    neurons = int(draw.integers(24, 33))
    weights = draw.normal(size=(latent.shape[1], neurons))
    weights *= draw.uniform(0.4, 1.2, neurons) / np.linalg.norm(weights, axis=0)
    rates = draw.uniform(3, 12, neurons)
    drive = np.exp(latent @ weights)
    return draw.poisson(step * rates * drive / drive.mean(axis=0)).astype(np.float32)


def _potentials(latent: Array, bins: int, step: float, draw: np.random.Generator, common: Array) -> Floats:
    time = np.arange(bins) * step
    oscillations = []
    for frequency, direction in zip(FREQUENCIES, DIRECTIONS, strict=True):
        lag = round(draw.uniform(0.02, 0.1) / step)
        source = latent[20 - min(lag, 20) :][:bins] @ direction
        phase = np.cumsum(draw.normal(size=bins)) * np.sqrt(step) * 2 + draw.uniform(0, 2 * np.pi)
        oscillations.append(np.exp(0.7 * source) * np.cos(2 * np.pi * frequency * time + phase))
    others = [2 * smooth(draw.normal(size=bins), 0.15 / step) for _ in range(3)]
    others = [each * 2 / each.std() for each in others]
    signals = np.stack([each / each.std() for each in oscillations] + others, axis=1)
    mixing = np.sqrt(1 - DRIFT**2) * common + DRIFT * _orthogonal(draw)
    return (signals @ mixing + 0.3 * draw.normal(size=(bins, CHANNELS))).astype(np.float32)


def _orthogonal(draw: np.random.Generator) -> Array:
    """Random weights of the signals on the channels, (signals, channels), with orthogonal rows of length √2."""
    return np.sqrt(2) * np.linalg.qr(draw.normal(size=(CHANNELS, 2 * len(FREQUENCIES))))[0].T
