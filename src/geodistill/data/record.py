"""What was read of a data set: a run begins with it, and it stands in the run's results and report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any

from geodistill.data.overlap import LeftOut

MOST_NAMED = 10


@dataclass(frozen=True)
class PartRecord:
    """The rows of one part.

    rows: that are used
    found: that were there before `data.limit`
    split: the split of the source that they are; None if they were cut from train
    """

    rows: int
    found: int
    split: str | None = None


@dataclass(frozen=True)
class ImageRecord:
    """The images of all parts, before any limit.

    width, height: the smallest and the largest, in pixels
    modes: mode of pillow, such as RGB or L → number of images
    """

    width: tuple[int, int]
    height: tuple[int, int]
    modes: Mapping[str, int]

    def described(self) -> str:
        """The sizes and modes in a few words."""
        width, height = ("to".join(f" {side} " for side in dict.fromkeys(sides)).strip() for sides in self._sides)
        size = f"{width} × {height} pixels" if self.one_size else f"{width} pixels wide and {height} pixels high"
        return f"{size}; {', '.join(f'{mode} {count:,}' for mode, count in self.modes.items())}"

    @property
    def one_size(self) -> bool:
        """Whether all images have the same size."""
        return all(smallest == largest for smallest, largest in self._sides)

    @property
    def _sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.width, self.height


@dataclass(frozen=True)
class Record:
    """What was read of a data set, and what was made of it.

    source: `data.source`
    parts: by name
    columns: field of the recipe, such as `text` → the column that it stands for
    found: how each column was found, one sentence each
    problem, reason: what the labels ask for, and a sentence that says what decided that
    labels: label → part → number of rows; empty unless a classification
    values: part → minimum, mean and maximum of the labels; empty unless a regression
    left_out: rows that were left out, since they are measured on
    notes: what was done to the data that its owner should know, one sentence each
    cut: part → rows that are longer than `max_length` tokens and were cut; None until they are tokenised, and if the
        tokenizer does not tell
    max_length: of the tokens of a text or pair
    outputs: label → name of the output of the teacher's head that stands for it; empty until the teacher is loaded
    by_place: whether the names could not be compared, so that the order decided which output it is
    images: sizes and modes; None if the rows are no images
    """

    source: str = ""
    parts: Mapping[str, PartRecord] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    found: Sequence[str] = ()
    problem: str = ""
    reason: str = ""
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    notes: Sequence[str] = ()
    cut: Mapping[str, int] | None = None
    max_length: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    by_place: bool = False
    images: ImageRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it."""
        return asdict(self)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Record:
        """The record that `to_dict` gave."""
        parts = {name: PartRecord(**part) for name, part in content.get("parts", {}).items()}
        left_out = [LeftOut(**each) for each in content.get("left_out", ())]
        images = content.get("images")
        if images is not None:
            sides = {side: tuple(images[side]) for side in ("width", "height")}
            images = ImageRecord(**{**images, **sides})
        return Record(**{**content, "parts": parts, "left_out": left_out, "images": images})

    def lines(self, *, labels: bool = True) -> list[str]:
        """The record in plain text, one fact a line; without `labels` the numbers of their rows are left out."""
        return [
            f"source: {self.source}",
            f"rows: {', '.join(_rows(name, part) for name, part in self.parts.items())}",
            f"columns: {' '.join(self.found)}",
            f"problem: {self.reason or self.problem}",
            *(() if self.images is None else (f"images: {self.images.described()}",)),
            *(self._labels() if labels else ()),
            *self._outputs(),
            *self._cut(),
            *self.notes,
        ]

    def _labels(self) -> list[str]:
        parts = ", ".join(self.parts)
        if self.labels:
            counts = [
                f"'{label}' {', '.join(f'{rows.get(part, 0):,}' for part in self.parts)}"
                for label, rows in islice(self.labels.items(), MOST_NAMED)
            ]
            more = len(self.labels) - MOST_NAMED
            return [f"labels ({parts}): {'; '.join(counts)}" + (f"; and {more} more labels" if more > 0 else "")]
        return [
            f"labels ({name}): from {each['minimum']:.4g} to {each['maximum']:.4g}, {each['mean']:.4g} on average"
            for name, each in self.values.items()
        ]

    def _outputs(self) -> list[str]:
        if not self.outputs or self.by_place:  # a note tells a mapping by place
            return []
        pairs = [f"'{label}' is '{output}'" for label, output in self.outputs.items() if label != output]
        more = f", and {len(pairs) - MOST_NAMED} more" if len(pairs) > MOST_NAMED else ""
        return [f"the teacher's labels, by name: {', '.join(pairs[:MOST_NAMED]) or 'the same'}{more}"]

    def _cut(self) -> list[str]:
        return [
            f"{count:,} of the {self.parts[name].rows:,} {name} texts are longer than {self.max_length} tokens and "
            "were cut."
            for name, count in (self.cut or {}).items()
            if count
        ]


def _rows(name: str, part: PartRecord) -> str:
    limited = f" of {part.found:,}" if part.found > part.rows else ""
    origin = " (cut from train)" if part.split is None else f" (split '{part.split}')" if part.split != name else ""
    return f"{name} {part.rows:,}{limited}{origin}"


def part_records(
    used: Mapping[str, Sized], found: Mapping[str, Sized], origins: Mapping[str, str | None]
) -> dict[str, PartRecord]:
    """The records of the parts that are used, of which more rows were found before the limit."""
    return {name: PartRecord(len(part), len(found[name]), origins.get(name)) for name, part in used.items()}


def count_labels(labels: Mapping[str, Sequence[Any] | None], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many rows of each part have each label, by its name.

    A label is the number of a class, or the list of the numbers of a row's labels.
    """
    counts = {}
    for part, values in labels.items():
        counts[part] = Counter(
            number for value in values or () for number in (value if isinstance(value, list) else [value])
        )
    return {name: {part: count[number] for part, count in counts.items()} for number, name in enumerate(names)}


def summarize_values(labels: Mapping[str, Sequence[Any] | None], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The minimum, mean and maximum of the labels of each part; empty if labels are classes, with names."""
    numbers = {
        part: [number for value in values for number in (value if isinstance(value, list) else [value])]
        for part, values in labels.items()
        if values and not names
    }
    return {
        part: {"minimum": min(values), "mean": fmean(values), "maximum": max(values)}
        for part, values in numbers.items()
    }
