"""Recording sessions from files: NPZ with arrays on one grid of bins, and NWB with spike times and series."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geodistill.data.sessions import Session, bin_events, bin_samples
from geodistill.errors import GeodistillError, require_package, suggest
from geodistill.recipe import SessionsRecipe

SUFFIXES = (".npz", ".nwb")
ARRAYS = ("spikes", "lfp", "behaviour")


def read_sessions(path: Path, recipe: SessionsRecipe, needs: Collection[str] = ARRAYS) -> list[Session]:
    """Read a file, or all files of a folder in the order of their names: a session each, named as its file.

    `needs` has `lfp`, and what else of `ARRAYS` is read. What is not read need not be there: a session then has one
    neuron that never fires, and no behaviour.

    Raises GeodistillError if there is none, or if one lacks what a session has.
    """
    files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or any(file.suffix not in SUFFIXES for file in files):
        raise GeodistillError(
            f"There are no sessions in '{path}'.",
            "Give an .npz or .nwb file, or a folder with a file for each session.",
        )
    return [(read_npz if file.suffix == ".npz" else read_nwb)(file, recipe, needs) for file in files]


def read_npz(path: Path, recipe: SessionsRecipe, needs: Collection[str] = ARRAYS) -> Session:
    """Read a session whose arrays are binned: `spikes` (t, neurons), `lfp` (t, channels), `behaviour` (t, k), and
    optionally `behaviour_names` (k,) and `bin_ms`.

    Raises GeodistillError for a missing array, and for bins of another length than the recipe's.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise GeodistillError(f"'{path}' is no whole NPZ file: {error}.", "Write it with numpy.savez.") from error
    for name in needs:
        if name not in arrays:
            raise GeodistillError(
                f"'{path}' has no array '{name}'.", f"Give it {', '.join(needs)}, with bins as rows, by numpy.savez."
            )
    own = float(arrays.get("bin_ms", recipe.bin_ms))
    if abs(own - recipe.bin_ms) > 1e-6:
        raise GeodistillError(
            f"The bins of '{path}' are {own:g} ms long, and data.sessions.bin_ms is {recipe.bin_ms:g}: they do not "
            "correspond.",
            f"Set data.sessions.bin_ms={own:g}, or bin the recording anew.",
        )
    arrays = {**_nothing(len(arrays["lfp"])), **{name: arrays[name] for name in arrays if name not in _unread(needs)}}
    spikes, lfp, behaviour = (arrays[name].astype(np.float32) for name in ARRAYS)
    behaviour = behaviour.reshape(len(behaviour), -1)
    names = [str(each) for each in arrays.get("behaviour_names", range(behaviour.shape[1]))]
    return chosen(Session(path.stem, spikes, lfp, behaviour, names, recipe.bin_ms), recipe)


def read_nwb(path: Path, recipe: SessionsRecipe, needs: Collection[str] = ARRAYS) -> Session:
    """Read a session of Neurodata Without Borders: spike times of `units`, an ElectricalSeries named by
    `data.sessions.lfp`, and the time series that `data.sessions.behaviour` names; binned on the grid of the
    ElectricalSeries.

    Raises GeodistillError without pynwb, without units, and for a series that the file does not have.
    """
    require_package("pynwb", "neural", f"'{path.name}' is an NWB file")
    import pynwb  # type: ignore[import-not-found]  # an extra

    with pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True) as file:
        content = file.read()
        if "spikes" in needs and (content.units is None or not len(content.units)):
            raise GeodistillError(f"'{path}' has no sorted units.", "Give a file with a units table of spike times.")
        series = {each.name: each for each in content.objects.values() if hasattr(each, "timestamps")}
        fields = {name: each for name, each in series.items() if isinstance(each, pynwb.ecephys.ElectricalSeries)}
        if recipe.lfp is None and len(fields) == 1:
            field = next(iter(fields.values()))
        else:
            field = _named(path, recipe.lfp or "LFP", fields, "data.sessions.lfp")
        samples, rate, first = _samples(field)
        bins = int(len(samples) / rate * 1000 / recipe.bin_ms)
        grid = first, bins, recipe.bin_ms
        spikes = _nothing(bins)["spikes"]
        if "spikes" in needs:
            times = content.units["spike_times"][:]
            spikes = np.stack([bin_events(np.asarray(each), *grid) for each in times], axis=1)
        columns: list[Any] = []
        names: list[str] = []
        decoded = recipe.behaviour or [name for name in series if name not in fields]
        for name in decoded if "behaviour" in needs else []:
            values, own_rate, own_first = _samples(_named(path, name, series, "data.sessions.behaviour"))
            columns.append(bin_samples(values, own_rate, *grid, first=own_first))
            many = values.shape[1] > 1
            names += [f"{name}_{number}" if many else name for number in range(values.shape[1])]
        lfp = bin_samples(samples, rate, *grid, first=first)
    behaviour = np.concatenate(columns, axis=1) if columns else np.empty((bins, 0), dtype=np.float32)
    return Session(path.stem, spikes, lfp, behaviour, names, recipe.bin_ms)


def _nothing(bins: int) -> dict[str, np.ndarray]:
    """What stands for spikes and behaviour that are not read."""
    return {"spikes": np.zeros((bins, 1), np.float32), "behaviour": np.empty((bins, 0), np.float32)}


def _unread(needs: Collection[str]) -> list[str]:
    unread = [name for name in ARRAYS if name not in needs]
    return [*unread, "behaviour_names"] if "behaviour" in unread else unread


def chosen(session: Session, recipe: SessionsRecipe) -> Session:
    """Return a session with the dimensions of behaviour that the recipe names; all if it names none."""
    if recipe.behaviour is None:
        return session
    names = list(session.behaviour_names)
    for name in recipe.behaviour:
        if name not in names:
            raise GeodistillError(f"The session '{session.name}' has no behaviour '{name}'.", suggest(name, names))
    places = [names.index(name) for name in recipe.behaviour]
    return Session(
        session.name, session.spikes, session.lfp, session.behaviour[:, places], recipe.behaviour, session.bin_ms
    )


def _named(path: Path, name: str, found: Mapping[str, Any], key: str) -> Any:
    if name not in found:
        remedy = f"Name it by {key}: there are {', '.join(found)}." if found else f"Leave {key} out, or add the series."
        raise GeodistillError(f"'{path}' has no series '{name}'.", remedy)
    return found[name]


def _samples(series: Any) -> tuple[np.ndarray, float, float]:
    """The samples (n, c) of a time series, how many there are a second, and the time of the first."""
    samples = np.asarray(series.data[:], dtype=np.float64)
    samples = samples.reshape(len(samples), -1)
    if series.rate is not None:
        return samples, float(series.rate), float(series.starting_time or 0.0)
    times = np.asarray(series.timestamps[:])
    return samples, 1 / float(np.median(np.diff(times))), float(times[0])
