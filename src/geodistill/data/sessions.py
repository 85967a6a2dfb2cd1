"""A recording session: spike counts, field potentials and behaviour on one grid of time bins, checked and cleaned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from geodistill.errors import GeodistillError

Floats = NDArray[np.float32]
CLIPPED = (
    8.0  # robust standard deviations from the median; a potential beyond is an artefact of stimulation or movement
)
MOST_CLIPPED = 0.2  # share of a channel's bins; one with more is no recording
MODALITIES = ("spikes", "lfp")


@dataclass(frozen=True)
class Session:
    """One recording.

    name: unique among the sessions of a data set
    spikes: (t, neurons), counts; NaN where a neuron was not recorded
    lfp: (t, channels), potentials; NaN where a channel was not recorded
    behaviour: (t, k), what is decoded; NaN where it was not tracked
    behaviour_names: of the k dimensions
    bin_ms: the length of a bin in milliseconds
    """

    name: str
    spikes: Floats
    lfp: Floats
    behaviour: Floats
    behaviour_names: Sequence[str]
    bin_ms: float

    def __post_init__(self) -> None:
        lengths = {part: len(getattr(self, part)) for part in (*MODALITIES, "behaviour")}
        if len(set(lengths.values())) > 1:
            described = ", ".join(f"{part} {length:,}" for part, length in lengths.items())
            raise GeodistillError(
                f"The time bins of session '{self.name}' do not correspond: {described}.",
                "Bin all of them on one grid: the same start, the same bin length, the same number of bins.",
            )
        for part in MODALITIES:
            if getattr(self, part).ndim != 2 or getattr(self, part).shape[1] == 0:
                raise GeodistillError(
                    f"The session '{self.name}' has no {part} channels.", "Leave this session out of the data."
                )
        counts = self.spikes[np.isfinite(self.spikes)]
        if (counts < 0).any() or (counts != np.round(counts)).any():
            raise GeodistillError(
                f"The spikes of session '{self.name}' are no counts: there are negative or broken numbers.",
                "Give the number of spikes in each bin.",
            )
        for place, dimension in enumerate(self.behaviour_names):
            values = self.behaviour[:, place]
            if not np.nanstd(values) > 0:
                raise GeodistillError(
                    f"The behaviour '{dimension}' of session '{self.name}' is constant, so nothing can be decoded.",
                    "Leave this column out of the behaviour.",
                )

    def __len__(self) -> int:
        return len(self.spikes)


def clean(session: Session) -> tuple[Session, list[str]]:
    """Scale the potentials of each channel, and mask what is no recording: artefacts, and channels that are not there.

    Each channel becomes (x − median) / s, with s the standard deviation that its quartiles tell. Values more than
    `CLIPPED` from zero are artefacts and become NaN. So does a whole channel that has too many of them, that is not
    finite in most bins, or that is constant.

    Returns the session, and what was masked, a sentence each.
    Raises GeodistillError if no channel is left.
    """
    lfp = session.lfp.astype(np.float64)
    lfp[~np.isfinite(lfp)] = np.nan
    missing = int(np.isnan(lfp).sum())
    dropped, clipped = 0, 0
    for channel in range(lfp.shape[1]):
        values = lfp[:, channel]
        there = values[np.isfinite(values)]
        low, middle, high = np.percentile(there, (25, 50, 75)) if len(there) > len(values) / 2 else (0.0, 0.0, 0.0)
        scale = (high - low) / 1.349
        scaled = (values - middle) / scale if scale > 0 else np.full_like(values, np.nan)
        beyond = np.abs(scaled) > CLIPPED
        if scale > 0 and beyond.mean() <= MOST_CLIPPED:
            scaled[beyond] = np.nan
            clipped += int(beyond.sum())
        else:
            scaled[:] = np.nan
            dropped += 1
        lfp[:, channel] = scaled
    if dropped == lfp.shape[1]:
        raise GeodistillError(
            f"All LFP channels of session '{session.name}' are constant, clipped, or missing in most bins of "
            f"{session.bin_ms:g} ms.",
            "Leave this session out of the data; if only some samples are missing, raise data.sessions.bin_ms.",
        )
    notes = [
        f"Session '{session.name}': {count:,} {what}."
        for count, what in (
            (missing, "LFP values are missing and masked"),
            (clipped, f"LFP values lie beyond {CLIPPED:g} standard deviations and are masked as artefacts"),
            (dropped, f"of {lfp.shape[1]} LFP channels are constant, missing or clipped, and masked"),
        )
        if count
    ]
    return replace(session, lfp=lfp.astype(np.float32)), notes


def bin_events(times: NDArray[np.float64], start: float, bins: int, bin_ms: float) -> Floats:
    """Count events, at times in seconds, in bins from `start` on: (bins,)."""
    edges = start + np.arange(bins + 1) * bin_ms / 1000
    return np.histogram(times, edges)[0].astype(np.float32)


def bin_samples(samples: NDArray, rate: float, start: float, bins: int, bin_ms: float, *, first: float = 0.0) -> Floats:
    """Average samples (n, c), the first of them at time `first` in seconds and `rate` a second, in each bin: (bins, c).

    A bin without a finite sample is NaN.
    """
    place = np.floor((first + np.arange(len(samples)) / rate - start) * 1000 / bin_ms + 1e-6).astype(np.int64)
    means = np.empty((bins, samples.shape[1]), dtype=np.float32)
    for channel in range(samples.shape[1]):
        values = samples[:, channel].astype(np.float64)
        there = (place >= 0) & (place < bins) & np.isfinite(values)
        total = np.bincount(place[there], values[there], minlength=bins)
        count = np.bincount(place[there], minlength=bins)
        means[:, channel] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def channels_of(sessions: Sequence[Session], modality: str) -> Mapping[str, int]:
    """Return the number of channels of each session, by its name."""
    return {session.name: getattr(session, modality).shape[1] for session in sessions}
