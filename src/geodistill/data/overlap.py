"""What is measured on is not trained on: rows of training data that hold a text or an image of a measured part are left
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from geodistill.data.parts import P, Part
from geodistill.errors import GeodistillError

MEASURED = ("test", "unseen", "validation")


@dataclass(frozen=True)
class HeldOut:
    """The contents of the parts that a task is measured on, by the name of the part: normalised texts, or the hashes
    of images.

    texts: of each row; of a pair, both of its texts as one, in either order; of an image its hash
    sentences: each text of a pair by itself
    """

    texts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sentences: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def find(self, rows: Iterable[Sequence[str]]) -> list[str | None]:
        """For each row the part that holds its text, None if no part does.

        A row is one text, or the two texts of a pair. A pair is found if the part holds the same pair, in either
        order; two pairs with one text in common are not the same. A single text is found in either place of a pair,
        and a pair is found if one of its texts is a text of the part.
        """
        return [next((part for part in self.texts if self._holds(part, row)), None) for row in rows]

    def _holds(self, part: str, row: Sequence[str]) -> bool:
        texts = self.texts[part]
        if len(row) == 1:
            return row[0] in texts or row[0] in self.sentences[part]
        return " ".join(row) in texts or any(text in texts for text in row)


def held_out(parts: Mapping[str, Part]) -> HeldOut:
    """The texts of the parts that are measured on: `test`, `unseen` and `validation`, if they exist."""
    rows = {name: parts[name].contents() for name in MEASURED if name in parts}
    return HeldOut(
        texts={
            name: frozenset(" ".join(order) for row in part for order in (row, row[::-1]))
            for name, part in rows.items()
        },
        sentences={
            name: frozenset(text for row in part if len(row) > 1 for text in row) for name, part in rows.items()
        },
    )


@dataclass(frozen=True)
class LeftOut:
    """Rows of a part that were left out, since their content is measured on.

    part, rows: the name of the part, and how many rows it had
    places: how many of them each measured part holds; a row that is in two is counted for the first
    whose: `data` if the measured parts are of the same data, `task` if this data is a stage of the task
    what: a word for what a row holds
    """

    part: str
    rows: int
    places: dict[str, int]
    whose: Literal["data", "task"] = "data"
    what: str = "text"

    @property
    def note(self) -> str:
        """What its owner should know, as a sentence."""
        count = sum(self.places.values())
        said = f"was left out: its {self.what} is" if count == 1 else f"were left out: their {self.what}s are"
        return f"{count:,} of the {self.rows:,} {self.part} rows {said} also in the held-out data ({self.where})."

    @property
    def where(self) -> str:
        whose = "the task's" if self.whose == "task" else "the"
        return ", ".join(f"{count:,} in {whose} {place} part" for place, count in self.places.items())


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def separate(parts: Mapping[str, P], task: HeldOut | None = None) -> tuple[dict[str, P], HeldOut, list[LeftOut]]:
    """Leave out of `train` what the other parts hold, and of `validation` what `test` and `unseen` hold.

    Rows are left out before any limit, so which ones does not depend on it; what is reported on stays whole. `task` are
    the held-out texts of the task that this data is a stage of: `train` loses their rows as well.

    Returns the parts, the texts that they are measured on, and what was left out.
    Raises GeodistillError if no row of a part is left.
    """
    parts, left_out = dict(parts), []
    reported = held_out({name: part for name, part in parts.items() if name != "validation"})
    for name in ("validation", "train"):
        if name in parts:
            measured = reported if name == "validation" else held_out(parts)
            parts[name], found = _without(parts[name], name, measured)
            left_out += found
    if task is not None:
        parts["train"], found = _without(parts["train"], "train", task, "task")
        left_out += found
    return parts, held_out(parts), left_out


def _without(part: P, name: str, measured: HeldOut, whose: Literal["data", "task"] = "data") -> tuple[P, list[LeftOut]]:
    found = measured.find(part.contents())
    counts = Counter(place for place in found if place is not None)
    if not counts:
        return part, []
    places = {place: counts[place] for place in measured.texts if place in counts}
    left_out = LeftOut(name, len(part), places, whose, part.what)
    kept = [index for index, place in enumerate(found) if place is None]
    if not kept:
        every = "the only one has" if len(part) == 1 else f"all {len(part):,} have"
        raise GeodistillError(
            f"No {name} row is left: {every} {a(part.what)} that is also in the held-out data ({left_out.where}).",
            "Report on this split alone: set data.test_split to its name, and a new validation part is cut from train."
            if name == "validation"
            else f"Train on other {part.what}s, or remove these from the held-out splits.",
        )
    return part.take(kept), [left_out]
