"""Images of one split as parallel lists, and the checks that every split goes through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from geodistill.data.columns import ImageColumns, listed
from geodistill.data.decoding import GREY, MODES, RGB, EncodedImage, Facts, Unreadable, all_facts, encoded, refuse
from geodistill.data.label_lists import are_several, lacks_label
from geodistill.data.tables import Table
from geodistill.data.texts import label_column
from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class ImageRows:
    """`ids` are the rows' places in their split; `labels` are as they came, or class numbers."""

    what: ClassVar[str] = "image"
    ids: list[int]
    images: list[EncodedImage]
    facts: list[Facts]
    labels: list[Any]

    def take(self, indices: Sequence[int], ids: Sequence[int] | None = None) -> ImageRows:
        """The rows at `indices`, with their ids or with new ones."""
        return ImageRows(
            ids=[self.ids[index] for index in indices] if ids is None else list(ids),
            images=[self.images[index] for index in indices],
            facts=[self.facts[index] for index in indices],
            labels=[self.labels[index] for index in indices],
        )

    def __len__(self) -> int:
        return len(self.images)

    def keys(self) -> list[str]:
        """For each row the hash of its pixels."""
        return [facts.digest for facts in self.facts]

    def contents(self) -> list[tuple[str, ...]]:
        """For each row the hash of its pixels."""
        return [(facts.digest,) for facts in self.facts]


def clean_images(
    table: Table, columns: ImageColumns, part: str, notes: list[str], class_names: Sequence[str]
) -> ImageRows:
    """The rows of a split that have an image and a label; those that lack one are counted in `notes`.

    `class_names` are the names of the classes that labels may be numbers of. Every image is decoded once.
    Raises GeodistillError for a column that is missing or of another kind, for images that cannot be read, which it
    names, and when no row is left.
    """
    if columns.image not in table.columns:
        raise GeodistillError(
            f"The {part} split has no column '{columns.image}'; its columns are {listed(table.columns)}.",
            "Give every split the same columns.",
        )
    labels = label_column(table, columns.label, part, class_names)
    if are_several(labels):
        raise GeodistillError(
            f"The column '{columns.label}' of the {part} split holds lists of labels.",
            "Give one label an image, or name another column with data.label.",
        )
    values = table.raw(columns.image)
    images: dict[int, EncodedImage] = {}
    names: dict[int, str] = {}
    unreadable = []
    for row, value in enumerate(values):
        try:
            image = encoded(value, table.folder)
        except Unreadable as error:
            unreadable.append((f"row {row + 1}", error))
            continue
        if image is not None:
            images[row], names[row] = image, image["path"] or f"row {row + 1}"
    refuse(unreadable, part)
    kept = [row for row in images if not lacks_label(labels[row])]
    if dropped := len(values) - len(images):
        notes.append(f"{dropped} of the {len(values)} {part} rows have no image and were dropped.")
    if dropped := len(images) - len(kept):
        notes.append(f"{dropped} of the {len(values)} {part} rows have no label and were dropped.")
    if not kept:
        lacking = "label" if images else "image"
        raise GeodistillError(
            f"The {part} split is empty: none of its {len(values)} rows has {'a' if images else 'an'} {lacking}.",
            f"Check the column '{columns.label if images else columns.image}', or name another with data.{lacking}.",
        )
    chosen = [images[row] for row in kept]
    facts = all_facts(chosen, [names[row] for row in kept], part)
    return ImageRows(kept, chosen, facts, [labels[row] for row in kept])


def count_modes(facts: Iterable[Facts]) -> dict[str, int]:
    """How many images there are of each mode of pillow, the most frequent first."""
    return dict(Counter(each.mode for each in facts).most_common())


def channels_of(modes: Iterable[str]) -> int:
    """1 if all images are grey, else 3."""
    return 1 if all(mode in GREY for mode in modes) else 3


def modes_note(modes: dict[str, int]) -> list[str]:
    """Say what is converted, if images are not all RGB or all grey."""
    if set(modes) in ({RGB}, {"L"}):
        return []
    counts = ", ".join(
        f"{count:,} are {MODES[mode]}" + (f" ({mode})" if mode != MODES[mode] else "") for mode, count in modes.items()
    )
    goal = "grey" if channels_of(modes) == 1 else "RGB"
    lost = "; transparency is dropped" if any(mode.endswith("A") for mode in modes) else ""
    return [f"Of the {sum(modes.values()):,} images {counts}: all are converted to {goal}{lost}."]
