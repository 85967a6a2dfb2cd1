"""`load_sessions`: from a data recipe to segments of recording sessions, split by blocks in time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geodistill.data.bundled.neural import real, simulated
from geodistill.data.parts import ALL
from geodistill.data.record import PartRecord, Record
from geodistill.data.session_files import ARRAYS, chosen, read_sessions
from geodistill.data.sessions import MODALITIES, Session, clean
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import DataRecipe

BUNDLED_SESSIONS: dict[str, Callable[[float], list[Session]]] = {"bundled:neural": simulated, "bundled:ephys": real}
PARTS = ("train", "validation", "test")


class Segment(NamedTuple):
    """Some bins on end of a session: of which session, from where to where, and in which block of time."""

    session: int
    start: int
    stop: int
    block: int


@dataclass(frozen=True)
class Segments:
    """The segments of a split, with the sessions that they are of."""

    sessions: Sequence[Session]
    segments: Sequence[Segment]

    def __len__(self) -> int:
        return len(self.segments)

    def of(self, session: int) -> Segments:
        """The segments of one session."""
        return Segments(self.sessions, [each for each in self.segments if each.session == session])

    def there(self, segment: Segment) -> np.ndarray:
        """Which bins of a segment have a value of both modalities: others are left out on both sides."""
        session, place = self.sessions[segment.session], slice(segment.start, segment.stop)
        return np.logical_and(*(np.isfinite(getattr(session, part)[place]).any(axis=1) for part in MODALITIES))


@dataclass(frozen=True)
class NeuralExamples:
    """Sessions ready to be read.

    sessions: all of them, cleaned
    unseen: the names of those that no model is trained on, but for their patch embeddings
    splits: segments of `train`, `validation` and `test`, of sessions that are trained on
    unseen_splits: the same of unseen sessions; empty if `splits` has all sessions (`sessions_to_score`)
    fingerprint: SHA-256 over all values, splits and names
    notes: what was masked, a sentence each
    """

    sessions: Sequence[Session]
    unseen: Sequence[str]
    splits: dict[str, Segments]
    unseen_splits: dict[str, Segments]
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    record: Record = field(default_factory=Record)


def load_sessions(recipe: DataRecipe) -> NeuralExamples:
    """Read sessions from `bundled:neural`, `bundled:ephys`, an .npz or .nwb file or a folder of such files.

    A session is cut into blocks of `data.sessions.block_seconds`. A block is train, validation or test as a whole, the
    parts evenly spread over the session, and is cut into segments of `data.sessions.bins`. Potentials are scaled, and
    artefacts masked (`clean`).

    Raises GeodistillError for what is no session, for an unseen session that is not there, and if all are unseen.
    """
    settings = recipe.sessions
    sessions, notes = _read(recipe)
    names = [session.name for session in sessions]
    for name in settings.unseen:
        if name not in names:
            raise GeodistillError(f"There is no session '{name}' to leave unseen.", suggest(name, names))
    if len(settings.unseen) == len(names):
        raise GeodistillError("All sessions are unseen, so there is nothing to train on.", "Leave one to train on.")
    found: dict[bool, dict[str, list[Segment]]] = {seen: {part: [] for part in PARTS} for seen in (True, False)}
    for number, session in enumerate(sessions):
        for part, segments in cut(number, len(session), recipe).items():
            found[session.name not in settings.unseen][part] += segments
    counted = {part: len(segments) for part, segments in found[True].items()}
    splits = _splits(sessions, found[True], recipe)
    return NeuralExamples(
        sessions=sessions,
        unseen=list(settings.unseen),
        splits=splits,
        unseen_splits={part: _usable(sessions, each, recipe.limit) for part, each in found[False].items()},
        fingerprint=_fingerprint(sessions, splits, recipe),
        notes=notes,
        record=Record(
            source=recipe.source,
            parts={part: PartRecord(len(each), counted[part]) for part, each in splits.items()},
            found=[f"{len(sessions)} sessions, {len(settings.unseen)} of them unseen."],
            problem="neural",
            reason=f"Latents of bins of {settings.bin_ms:g} ms, from which behaviour is decoded.",
            notes=notes,
        ),
    )


def sessions_to_score(recipe: DataRecipe, trained: Collection[str]) -> NeuralExamples:
    """Read sessions for a student that was trained on the sessions named `trained`; all others are `unseen` to it.

    All sessions are cut into blocks as `load_sessions` cuts them, since patch embeddings of unseen sessions are fitted
    to train blocks, and all are in `splits`.
    """
    sessions, notes = _read(recipe)
    found: dict[str, list[Segment]] = {part: [] for part in PARTS}
    for number, session in enumerate(sessions):
        for part, segments in cut(number, len(session), recipe).items():
            found[part] += segments
    return _for_a_student(sessions, notes, trained, _splits(sessions, found, recipe))


def sessions_to_read(recipe: DataRecipe, trained: Collection[str], needs: Collection[str]) -> NeuralExamples:
    """Read sessions as `sessions_to_score` does, in one split, `all`, of all their bins, from files that need not have
    more than `needs`."""
    sessions, notes = _read(recipe, needs)
    size = recipe.sessions.bins
    segments = [
        Segment(number, start, min(start + size, len(session)), 0)
        for number, session in enumerate(sessions)
        for start in range(0, len(session), size)
    ]
    return _for_a_student(sessions, notes, trained, {ALL: _usable(sessions, segments, None, least=1)})


def _for_a_student(
    sessions: Sequence[Session], notes: Iterable[str], trained: Collection[str], splits: dict[str, Segments]
) -> NeuralExamples:
    names = [session.name for session in sessions]
    known = [
        f"The session '{name}' is taken for the session of this name that the student was trained on."
        for name in names
        if name in trained
    ]
    return NeuralExamples(
        sessions=sessions,
        unseen=[name for name in names if name not in trained],
        splits=splits,
        unseen_splits={},
        fingerprint="",
        notes=[*notes, *known],
    )


def _read(recipe: DataRecipe, needs: Collection[str] = ARRAYS) -> tuple[list[Session], list[str]]:
    """Read the sessions that `recipe.source` names, clean them, and say what was masked."""
    settings = recipe.sessions
    if recipe.source in BUNDLED_SESSIONS:
        sessions = [chosen(each, settings) for each in BUNDLED_SESSIONS[recipe.source](settings.bin_ms)]
    elif recipe.source.startswith("bundled:"):
        raise GeodistillError(
            f"No bundled sessions are named '{recipe.source}'.", suggest(recipe.source, BUNDLED_SESSIONS)
        )
    elif Path(recipe.source).expanduser().exists():
        sessions = read_sessions(Path(recipe.source).expanduser(), settings, needs)
    else:
        raise GeodistillError(
            f"There is no file or folder '{recipe.source}'.", "Give an .npz or .nwb file, or a folder of them."
        )
    cleaned = [clean(session) for session in sessions]
    return [session for session, _ in cleaned], [note for _, found in cleaned for note in found]


def _splits(sessions: Sequence[Session], found: dict[str, list[Segment]], recipe: DataRecipe) -> dict[str, Segments]:
    if not all(found.values()):
        raise GeodistillError(
            f"The sessions are too short: there are {len(found['train'])} segments to train on, "
            f"{len(found['validation'])} to validate and {len(found['test'])} to test.",
            "Lower data.sessions.block_seconds and data.sessions.bins.",
        )
    return {part: _usable(sessions, each, recipe.limit) for part, each in found.items()}


def cut(session: int, bins: int, recipe: DataRecipe) -> dict[str, list[Segment]]:
    """Cut a session of so many bins into blocks, blocks into segments, and deal blocks to the parts, evenly in time."""
    settings = recipe.sessions
    size = max(settings.bins, round(settings.block_seconds * 1000 / settings.bin_ms))
    parts: dict[str, list[Segment]] = {part: [] for part in PARTS}
    rest = 0
    for block in range(-(-bins // size)):
        if _falls(block, recipe.test_share):
            part = "test"
        else:
            part = "validation" if _falls(rest, recipe.validation_share / (1 - recipe.test_share)) else "train"
            rest += 1
        end = min(bins, (block + 1) * size)
        for start in range(block * size, end, settings.bins):
            stop = min(start + settings.bins, end)
            if stop - start > 1:
                parts[part].append(Segment(session, start, stop, block))
    return parts


def _falls(place: int, share: float) -> bool:
    """Whether a place is one of the share, dealt as evenly as it goes."""
    return int((place + 1) * share + 1e-9) > int(place * share + 1e-9)


def _usable(sessions: Sequence[Session], segments: list[Segment], most: int | None, least: int = 2) -> Segments:
    """The segments with at least so many bins of both modalities; if they are too many, some, evenly spread."""
    every = Segments(sessions, segments)
    usable = [each for each in segments if every.there(each).sum() >= least]
    if most is not None and most < len(usable):
        usable = [usable[place * len(usable) // most] for place in range(most)]
    return Segments(sessions, usable)


def _fingerprint(sessions: Sequence[Session], splits: dict[str, Segments], recipe: DataRecipe) -> str:
    settings = recipe.sessions.model_dump_json(exclude={"adaptation_steps"})  # which scores alone depend on
    digest = hashlib.sha256(repr((settings, [each.segments for each in splits.values()])).encode())
    for session in sessions:
        digest.update(f"{session.name} {list(session.behaviour_names)}".encode())
        for part in (*MODALITIES, "behaviour"):
            digest.update(np.ascontiguousarray(getattr(session, part)).tobytes())
    return digest.hexdigest()
