"""Sessions as data: blocks of time, segments, unseen sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geodistill.data.neural import load_sessions
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, SessionsRecipe

SETTINGS = {"bins": 10, "block_seconds": 0.2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in ("monday", "tuesday"):
        lfp = draw.normal(size=(600, 2))
        lfp[:10] = np.nan
        np.savez(
            tmp_path / f"{name}.npz",
            spikes=draw.poisson(1.0, (600, 3)),
            lfp=lfp,
            behaviour=draw.normal(size=(600, 1)),
        )
    return tmp_path


def load(folder: Path, limit: int | None = None, **changes: object) -> object:
    sessions = SessionsRecipe(**{**SETTINGS, **changes})  # type: ignore[arg-type]
    return load_sessions(DataRecipe(source=str(folder), sessions=sessions, limit=limit))


def test_no_block_is_in_two_parts_and_parts_are_spread_over_time(folder: Path) -> None:
    examples = load(folder)
    blocks = {
        part: {(each.session, each.block) for each in split.segments}
        for part, split in examples.splits.items()  # type: ignore[attr-defined]
    }
    assert not blocks["train"] & blocks["test"] and not blocks["train"] & blocks["validation"]
    assert {part: len(found) for part, found in blocks.items()} == {"train": 42, "validation": 6, "test": 12}
    tested = sorted(block for session, block in blocks["test"] if session == 0)
    assert tested == [4, 9, 14, 19, 24, 29]


def test_segments_without_a_bin_of_both_modalities_are_left_out(folder: Path) -> None:
    examples = load(folder)
    assert all(each.start >= 10 for each in examples.splits["train"].segments)  # type: ignore[attr-defined]


def test_an_unseen_session_is_in_no_split(folder: Path) -> None:
    examples = load(folder, unseen=["tuesday"])
    assert {each.session for split in examples.splits.values() for each in split.segments} == {0}  # type: ignore[attr-defined]
    assert {each.session for each in examples.unseen_splits["train"].segments} == {1}  # type: ignore[attr-defined]
    assert examples.fingerprint != load(folder).fingerprint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "changes", [{"bin_ms": 20.0}, {"bins": 20}, {"block_seconds": 0.3}, {"behaviour": ["0"]}, {"lfp": "other"}]
)
def test_the_fingerprint_depends_on_how_sessions_are_read(folder: Path, changes: dict[str, object]) -> None:
    fingerprints = [load(folder, **each).fingerprint for each in ({}, {}, changes)]  # type: ignore[attr-defined]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_only_scores_depend_on_the_steps_of_adaptation(folder: Path) -> None:
    assert load(folder, adaptation_steps=7).fingerprint == load(folder).fingerprint  # type: ignore[attr-defined]


def test_limit_keeps_so_many_segments(folder: Path) -> None:
    examples = load(folder, limit=5)
    assert {part: len(split) for part, split in examples.splits.items()} == dict.fromkeys(  # type: ignore[attr-defined]
        ("train", "validation", "test"), 5
    )


def test_what_cannot_be_split_is_refused(folder: Path) -> None:
    for changes, said in (
        ({"unseen": ["tusday"]}, "no session 'tusday'"),
        ({"unseen": ["monday", "tuesday"]}, "All sessions are unseen"),
        ({"block_seconds": 60.0}, "too short"),
    ):
        with pytest.raises(GeodistillError, match=said):
            load(folder, **changes)
    with pytest.raises(GeodistillError, match="No bundled sessions"):
        load_sessions(DataRecipe(source="bundled:nerual"))
    with pytest.raises(GeodistillError, match="no file or folder"):
        load_sessions(DataRecipe(source="nowhere"))
