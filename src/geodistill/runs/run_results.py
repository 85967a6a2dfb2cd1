"""What one run reached: the content of results.json with its types, shown as tables in a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from geodistill.display import Drawn, Table, decimal, notebook, one_line, plain, unit, whole_line
from geodistill.errors import GeodistillError
from geodistill.runs.folder import REPORT, RESULTS
from geodistill.runs.forms import Form
from geodistill.tasks.metrics import Constant

MEASURE_NAMES = {"procrustes": "D_P²", "gram": "D_FG²", "cka": "CKA"}
GEOMETRY = "Geometry of each student layer ↔ teacher layer on held-out data: value (floor, chance)."

FORMS = (
    "Forms of the student: its ONNX file; the median of one example by ONNX Runtime on one thread; the share of the "
    "examples that are decided as by the fake-quantised student, and the largest difference of any output."
)


@dataclass(frozen=True)
class TeacherResult:
    """The teacher on the same test split; `notes`: what its metrics hide, one sentence each."""

    metrics: dict[str, float]
    parameters: int
    megabytes: float
    latency_ms: float | None
    name: str = "teacher"
    training_seconds: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunResults:
    """What `geodistill.train` returns and writes to results.json. A number that is not finite is None.

    Attributes:
        folder: of the run; the student is in its folder `student`.
        metrics: of the student on `split`, name → share (0.91, not 91), or a value in the unit of the metric.
        constant: the constant predictor on the same examples; None if nothing is scored.
        details: what was measured beside the metrics, by part of the split.
        geometry: on held-out rows, per matched layer pair from shallow to deep: `student_layer`, `teacher_layer`,
            `rows`, and under `procrustes` (D_P²), `gram` (D_FG²) and `cka` each `value`, `floor` and `chance`.
        latency_ms: for one example on the CPU; None in a comparison, where other runs go beside it.
        read: what was read of the data, by stage.
        tokens_per_second, peak_megabytes: of the training, padding not counted, the teacher's memory included.
        feature_batch: by stage, over which rows the feature losses were computed.
        onnx_difference: the largest difference of the exported ONNX model's logits; None without an export.
        learned_teacher: of a teacher that learned, its metrics on the validation split `before` and `after`.
        forms: a quantised student in float32, fake-quantised and as integers; empty without an export.
        layers: what was chosen for feature terms with `layers: auto`: their path `term`, the `pairs` and the `reasons`.
        notes: what the metrics hide and what was done to the data, one sentence each.
    """

    folder: Path
    fingerprint: str
    seed: int
    data_fingerprint: str
    positions: int | None
    epoch: str
    precision: dict[str, Any]
    split: str
    metrics: dict[str, float | None]
    constant: Constant | None
    validation_metrics: dict[str, float | None]
    details: dict[str, Any]
    geometry: list[dict[str, Any]]
    parameters: int
    megabytes: float
    latency_ms: float | None
    read: dict[str, Any]
    notes: list[str]
    teacher: TeacherResult
    training_seconds: float
    tokens_per_second: float | None
    peak_megabytes: float | None
    feature_batch: dict[str, str]
    skipped_steps: int
    starved_terms: int
    onnx_difference: float | None = None
    learned_teacher: dict[str, dict[str, float | None]] | None = None
    forms: list[Form] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, folder: Path, content: Mapping[str, Any]) -> RunResults:
        """Read what results.json of a run's folder holds.

        Raises GeodistillError for content that this version does not write.
        """
        known = {each.name for each in fields(cls)} - {"folder"}
        needed = {each.name for each in fields(cls) if each.default is each.default_factory is MISSING} - {"folder"}
        if odd := sorted(needed - content.keys()) or sorted(content.keys() - known):
            raise GeodistillError(
                f"{folder / RESULTS} was written by another version of geodistill: '{odd[0]}' is missing or unknown.",
                "Pass --fresh to run again, or choose another --output.",
            )
        constant = content["constant"]
        typed = {
            "teacher": TeacherResult(**content["teacher"]),
            "constant": None if constant is None else Constant(**constant),
            "forms": [Form(**each) for each in content.get("forms", [])],
        }
        return cls(folder, **{**content, **typed})

    def to_dict(self) -> dict[str, Any]:
        """Return what results.json holds."""
        content = asdict(self)
        del content["folder"]
        return content

    @property
    def tables(self) -> list[Table]:
        """The scores of student, teacher and constant predictor; the geometry; the forms of a quantised student. Each
        where it was measured."""
        scored: list[tuple[str, str, Mapping[str, float | None]]] = [(f"student on {self.split}", "", self.metrics)]
        scored += [("teacher", "teacher", self.teacher.metrics)] if self.teacher.metrics else []
        if self.constant:
            scored.append((f"always {self.constant.answer}", "constant", self.constant.metrics))
        rows = [
            [one_line(name), *(decimal(values[metric], 4) if metric in values else "" for metric in self.metrics)]
            for name, _, values in scored
        ]
        tables = [Table(["", *self.metrics], rows, "Scores", kinds=[kind for _, kind, _ in scored])]
        if self.geometry:
            pairs = [
                [
                    f"{pair['student_layer']} ↔ {pair['teacher_layer']}",
                    *(_geometry(pair.get(measure)) for measure in MEASURE_NAMES),
                ]
                for pair in self.geometry
            ]
            heads = ["layers", *MEASURE_NAMES.values()]
            tables.append(Table(heads, pairs, "Geometry of each matched layer pair"))
        if self.forms:
            tables.append(forms_table(self.forms))
        return tables if self.metrics else tables[1:]

    @property
    def report(self) -> Path:
        """The page that tells all of it."""
        return self.folder / REPORT

    @property
    def places(self) -> dict[str, Path]:
        """What of the run someone will open next."""
        places = {"Student": self.folder / "student", "Report": self.report}
        return {name: place for name, place in places.items() if place.exists()}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.metrics:
            yield f"student on {self.split}: no labels, no score"
        for table in self.tables:
            yield Drawn(table)
            yield ""
        for line in self._lines:
            yield Text(line)
        for note in self._notes:
            yield Text(f"note: {note}")
        for name, place in self.places.items():
            yield whole_line(f"{name}: {place}")

    def __str__(self) -> str:
        return plain(self)

    def _repr_html_(self) -> str:
        lead = "" if self.metrics else f"student on {self.split}: no labels, no score"
        return notebook(lead, self.tables, [*self._lines, *self._notes], self.places)

    @property
    def _lines(self) -> list[str]:
        told = [line for line, there in {GEOMETRY: self.geometry, FORMS: self.forms}.items() if there]
        return [*told, *describe_details(self.details)]

    @property
    def _notes(self) -> list[str]:
        return [*self.notes, *self.teacher.notes]


def forms_table(forms: Sequence[Form]) -> Table:
    """Draw the forms of a quantised student: size, speed, and how far each is from the fake-quantised one."""
    rows = [
        [
            form.name,
            unit(form.megabytes, " MB"),
            unit(form.latency_ms, " ms"),
            "" if form.agreement is None else f"{100 * form.agreement:.2f} %",
            "" if form.difference is None else f"{form.difference:.1e}",
        ]
        for form in forms
    ]
    return Table(["form", "file", "one example", "agreement", "difference"], rows, "Forms of the quantised student")


def describe_details(details: Mapping[str, Any] | None) -> list[str]:
    """Say what was measured beside the metrics of generated responses: a line for each part of the split."""
    lines = []
    for part, detail in (details or {}).items():
        deviations = ", ".join(f"{k} ± {v:.4f}" for k, v in detail["deviation"].items() if v is not None)
        text = f"{part}: {detail['prompts']} prompts, {len(detail['seeds'])} seeds"
        text += f" ({deviations})" if deviations else ""
        lines.append(f"{text}, {detail['tokens_per_second']:.0f} tokens/s, {detail['unfinished']:.0%} not ended")
    return lines


def describe_evaluation(results: Mapping[str, Any]) -> str:
    """Return the scores of a student on other data, or another split, as `evaluate` gives them, for the screen."""
    scores = ", ".join(f"{name} {decimal(value, 4)}" for name, value in results["metrics"].items())
    count = results["examples"]
    place = f"{results['split'] or results['source']} ({count} {'example' if count == 1 else 'examples'})"
    replaced = " (the file that was there is replaced)" if results["replaced"] else ""
    return "\n".join(
        [
            f"student on {place}: {scores or 'no labels, no score'}",
            *describe_details(results["details"]),
            *(f"note: {note}" for note in results["notes"]),
            f"Predictions: {results['predictions']}{replaced}",
        ]
    )


def _geometry(measured: Mapping[str, float | None] | None) -> str:
    if measured is None:
        return ""
    value, floor, chance = (decimal(measured[key]) for key in ("value", "floor", "chance"))
    return f"{value} ({floor}, {chance})"
