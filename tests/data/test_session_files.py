"""Sessions from NPZ and NWB files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from geodistill.data.session_files import read_npz, read_sessions
from geodistill.errors import GeodistillError
from geodistill.recipe import SessionsRecipe

RECIPE = SessionsRecipe()


def arrays(**changes: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    content = {
        "spikes": draw.poisson(1.0, (60, 3)),
        "lfp": draw.normal(size=(60, 2)),
        "behaviour": draw.normal(size=(60, 2)),
        "behaviour_names": ["x", "speed"],
        "bin_ms": 10.0,
    }
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def test_files_of_a_folder_are_sessions_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("tuesday", "monday"):
        np.savez(tmp_path / f"{name}.npz", **arrays())
    found = read_sessions(tmp_path, RECIPE)
    assert [each.name for each in found] == ["monday", "tuesday"]
    assert found[0].spikes.shape == (60, 3) and list(found[0].behaviour_names) == ["x", "speed"]


def test_behaviour_is_chosen_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    found = read_npz(tmp_path / "a.npz", SessionsRecipe(behaviour=["speed"]))
    np.testing.assert_allclose(found.behaviour[:, 0], arrays()["behaviour"][:, 1], rtol=1e-6)
    with pytest.raises(GeodistillError, match="no behaviour 'sped'"):
        read_npz(tmp_path / "a.npz", SessionsRecipe(behaviour=["sped"]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lfp": None}, "has no array 'lfp'"),
        ({"bin_ms": 20.0}, "20 ms long, and data.sessions.bin_ms is 10: they do not correspond"),
        ({"lfp": np.zeros((50, 2))}, "do not correspond"),
    ],
)
def test_bad_arrays_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(GeodistillError, match=said):
        read_npz(tmp_path / "a.npz", RECIPE)


def test_what_is_no_session_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(GeodistillError, match="no whole NPZ file"):
        read_npz(tmp_path / "a.npz", RECIPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GeodistillError, match="no sessions"):
        read_sessions(tmp_path / "empty", RECIPE)


class ElectricalSeries(SimpleNamespace):
    timestamps = None


class TimeSeries(SimpleNamespace):
    timestamps = None


class Units(dict):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return len(self["spike_times"])


@pytest.fixture
def nwb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a file holds, behind the part of pynwb that is asked."""
    draw = np.random.default_rng(0)
    lfp = ElectricalSeries(name="LFP", data=draw.normal(size=(500, 2)), rate=1000.0, starting_time=0.0)
    speed = TimeSeries(name="speed", data=draw.normal(size=50), rate=100.0, starting_time=0.0)
    content = {"series": [lfp, speed], "units": Units(spike_times=[[0.001, 0.015], [0.3]])}

    class File:
        def __init__(self, *path: Any, **settings: Any) -> None: ...
        def __enter__(self) -> File:
            return self

        def __exit__(self, *error: Any) -> None: ...
        def read(self) -> Any:
            return SimpleNamespace(
                units=content["units"],
                objects=dict(enumerate(content["series"])),  # type: ignore[call-overload]
            )

    stub = SimpleNamespace(NWBHDF5IO=File, ecephys=SimpleNamespace(ElectricalSeries=ElectricalSeries))
    monkeypatch.setitem(sys.modules, "pynwb", stub)
    monkeypatch.setattr("geodistill.data.session_files.require_package", lambda *names: None)
    return content


def test_nwb_is_binned_on_the_grid_of_its_potentials(nwb: dict[str, Any]) -> None:
    (found,) = read_sessions(Path("monday.nwb"), RECIPE)
    assert found.spikes.shape == (50, 2) and found.lfp.shape == (50, 2) and list(found.behaviour_names) == ["speed"]
    assert found.spikes[:2, 0].tolist() == [1, 1] and found.spikes[30, 1] == 1
    np.testing.assert_allclose(found.lfp[0], nwb["series"][0].data[:10].mean(axis=0), rtol=1e-5)


def test_nwb_without_the_named_series_is_refused(nwb: dict[str, Any]) -> None:
    for settings, said in (
        ({"lfp": "LPF"}, "no series 'LPF'"),
        ({"behaviour": ["velocity"]}, "no series 'velocity'"),
    ):
        with pytest.raises(GeodistillError, match=said):
            read_sessions(Path("monday.nwb"), SessionsRecipe(**settings))  # type: ignore[arg-type]
    nwb["units"] = None
    with pytest.raises(GeodistillError, match="no sorted units"):
        read_sessions(Path("monday.nwb"), RECIPE)
