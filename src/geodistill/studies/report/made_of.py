"""What results were made of, for the end of a page: the data that was read, recipes, and environments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from geodistill.data.record import Record
from geodistill.display import Table
from geodistill.recipe import TASK_STAGE
from geodistill.runs.folder import ENVIRONMENT, RECIPE, read_json, read_recipe
from geodistill.studies.report.page import Block, Folded, Listing, Notes, Section, Tables


class Origin(NamedTuple):
    """The recipe and the environment of a run, or of a comparison."""

    name: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Origin:
        """Read them from the folder of a run, or of a comparison."""
        return cls(folder.name, read_recipe(folder / RECIPE), read_json(folder / ENVIRONMENT))


def read_section(read: Mapping[str, Mapping[str, Any]]) -> Section | None:
    """Return what was read for the task and for each stage: its facts, and the labels with their numbers of rows.

    read: by stage, as results.json holds it
    """
    if not read:
        return None
    if len(read) == 1:
        return Section("What was read", _told(*next(iter(read.items()))))
    return Section("What was read", [Folded(_title(name), _told(name, record)) for name, record in read.items()])


def origin_blocks(origins: Sequence[Origin]) -> list[Block]:
    """Return the recipes and the environments, each on demand; what several have in common is shown once."""
    blocks: list[Block] = []
    for what, contents in (
        ("Recipe", [(origin.name, origin.recipe) for origin in origins]),
        ("Environment", [(origin.name, origin.environment) for origin in origins]),
    ):
        texts: dict[str, list[str]] = {}
        for name, content in contents:
            shown = {key: value for key, value in content.items() if key != "fingerprint"}
            texts.setdefault(json.dumps(shown, indent=2, ensure_ascii=False, default=str), []).append(name)
        for text, names in texts.items():
            title = what if len(texts) == 1 else f"{what} of {', '.join(names)}"
            blocks.append(Folded(title, [Listing(text)]))
    return blocks


def _title(name: str) -> str:
    return "The task" if name == TASK_STAGE else f"Stage '{name}'"


def _told(name: str, content: Mapping[str, Any]) -> list[Block]:
    record = Record.from_dict(content)
    told: list[Block] = [Notes(record.lines(labels=not record.labels))]
    if record.labels:
        counts = [[label, *(f"{n.get(part, 0):,}" for part in record.parts)] for label, n in record.labels.items()]
        labels = Table(["label", *record.parts], counts, f"Rows of each label, {name}")
        told.append(Folded("Labels", [Tables([labels])]))
    return told
