"""What the tests of pages share: comparisons and runs on disk, and what a browser would make of a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from geodistill.data.record import PartRecord, Record
from geodistill.files import write_json, write_lines
from geodistill.runs.folder import ENVIRONMENT, METRICS, RECIPE, RESULTS, TEST_PREDICTIONS
from geodistill.runs.run_results import RunResults, TeacherResult
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.table import ComparedRun

EVIL = "<img src=x onerror=alert('1')></script><script>alert('1')</script>\"&"
CURVE = [{"step": step, "loss": 1 / step, "procrustes": 0.5, "chance/procrustes": 1.7} for step in (1, 2, 3)]


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and its text without scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def cells(self) -> set[str]:
        return {text.strip() for text in self.texts}

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    @property
    def loads_nothing(self) -> bool:
        outward = [value for _, found in self.elements for key in ("src", "href") if (value := found.get(key))]
        return all(value[0] == "#" for value in outward) and not {"link", "iframe", "img", "object"} & self.tags()


def answers(*predictions: str) -> list[dict[str, Any]]:
    """Lines of so many questions, which are right with 'a'."""
    return [
        {
            "split": "test",
            "row": row,
            "text": f"question {row}",
            "prediction": each,
            "probability": 0.5,
            "reference": "a",
        }
        for row, each in enumerate(predictions)
    ]


def write_origin(folder: Path, **recipe: Any) -> None:
    """Write the recipe and the environment of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / RECIPE, {"task": "classification", "data": {"source": "lost.csv"}, "training": {"seed": 1}, **recipe}
    )  # YAML, too
    write_json(folder / ENVIRONMENT, {"fingerprint": "abc", "cores": 2})


MakeComparison = Callable[..., ComparisonResults]
MakeResults = Callable[..., RunResults]


@pytest.fixture
def make_comparison(tmp_path: Path, teacher: TeacherResult) -> MakeComparison:
    """Write a comparison of some runs as it is on disk when its report is written."""

    def make(
        runs: Sequence[ComparedRun],
        curve: Sequence[Any] = CURVE,
        folder: Path = tmp_path / "comparison",
        **changes: Any,
    ) -> ComparisonResults:
        write_origin(folder)
        placed = [replace(run, folder=f"runs/{place}") for place, run in enumerate(runs)]
        for place, run in enumerate(placed):
            write_origin(folder / run.folder, objective=run.variant, training={"seed": run.seed})
            own = {"data_fingerprint": "data", "teacher": asdict(changes.get("teacher") or teacher)}
            write_json(folder / run.folder / RESULTS, own)
            write_lines(folder / run.folder / METRICS, [{"stage": "task", **entry} for entry in curve])
            write_lines(folder / run.folder / TEST_PREDICTIONS, answers("a", "b" if place % 2 else "a", "b"))
        (folder / "teacher").mkdir(exist_ok=True)
        write_lines(folder / "teacher" / TEST_PREDICTIONS, answers("a", "a", "b"))
        content: dict[str, Any] = {
            "folder": folder,
            "baseline": runs[0].variant,
            "metrics": ["accuracy"],
            "constant": None,
            "read": {},
            "teacher": teacher,
            "runs": placed,
        }
        results = ComparisonResults(**content | changes)
        write_json(folder / RESULTS, results.to_dict())
        return results

    return make


@pytest.fixture
def make_results(tmp_path: Path, make_run: Any, teacher: TeacherResult) -> MakeResults:
    """Write a run as it is on disk when its report is written."""

    def make(folder: Path = tmp_path / "a run", recipe: dict[str, Any] = {}, **changes: Any) -> RunResults:  # noqa: B006
        write_origin(folder, **recipe)
        write_lines(folder / METRICS, CURVE)
        content: dict[str, Any] = {
            "folder": folder,
            "fingerprint": "abc",
            "seed": 1,
            "data_fingerprint": "data",
            "positions": None,
            "epoch": "last",
            "precision": {"student": "float32"},
            "split": "test",
            "metrics": {"accuracy": 0.8125, "macro_f1": 0.75},
            "constant": None,
            "validation_metrics": {"accuracy": 0.5},
            "details": {},
            "geometry": make_run("KD", 1, 0.8).geometry,
            "parameters": 4_386_178,
            "megabytes": 17.6,
            "latency_ms": 1.25,
            "read": {"task": Record(source="rows", parts={"train": PartRecord(9, 9, "train")}).to_dict()},
            "notes": [],
            "teacher": teacher,
            "training_seconds": 134.2,
            "tokens_per_second": 5000.0,
            "peak_megabytes": None,
            "feature_batch": {},
            "skipped_steps": 0,
            "starved_terms": 0,
        }
        results = RunResults(**content | changes)
        write_json(folder / RESULTS, results.to_dict())
        return results

    return make
