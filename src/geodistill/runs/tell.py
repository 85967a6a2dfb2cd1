"""A run says what was read before it trains on it, and what the teacher adds as soon as the teacher is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from geodistill.data.record import Record
from geodistill.distillation.cache.plan import say
from geodistill.distillation.layer_choice import ChosenLayers
from geodistill.recipe import TASK_STAGE
from geodistill.runs.arguments import processes
from geodistill.tasks.task import Task


def records_of(tasks: Mapping[str, Task]) -> dict[str, Record]:
    """Return what was read of the task and of each stage with separate data, by name, the task first."""
    return {name: each.record for name, each in {TASK_STAGE: tasks[TASK_STAGE], **own_data(tasks)}.items()}


def own_data(tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return the stages that have separate data."""
    return {name: each for name, each in tasks.items() if each is not tasks[TASK_STAGE]}


class Teller:
    """Prints each line of a record once: first the lines of the data, and later what became known since.

    Nothing is printed if no progress is wanted, and on any process but the main one.
    """

    def __init__(self, progress: bool) -> None:
        self.progress = progress and processes().is_main_process
        self.told: dict[str, list[str]] = {}

    def tell(self, records: Mapping[str, Record], source: str = "") -> None:
        """Tell what is new in the records, which are known by the name of their stage; `source` is where it is from."""
        for name, record in records.items():
            known = self.told.setdefault(name, [])
            lines = [line for line in record.lines() if line not in known]
            known += lines
            if lines and self.progress:
                say("\n  ".join([f"{heading(name)}{source}:", *lines]), True)

    def tell_layers(self, chosen: Sequence[ChosenLayers], run: str = "") -> None:
        """Tell which layers were chosen for the terms that say `layers: auto`; `run` says of which run of several."""
        for each in chosen:
            if self.progress:
                say("\n  ".join([f"Layers of {each.term}{run}:", *each.reasons]), True)


def heading(name: str) -> str:
    """Return the heading of the record of a stage, or of the task."""
    return "Read for the task" if name == TASK_STAGE else f"Read for the stage '{name}'"
