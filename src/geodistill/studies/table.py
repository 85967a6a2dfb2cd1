"""From single runs to the rows of the comparison: means over seeds, paired tests, the geometry reached.

`ComparedRun` and `TeacherResult` are what a comparison writes to disk, plain data that JSON holds. `build_table` turns
them into rows; `table_text` prints.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from geodistill.errors import GeodistillError, suggest
from geodistill.files import with_nan
from geodistill.runs.forms import Form
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.statistics import PairedComparison, Summary, compare_paired, holm, summarize
from geodistill.tasks.metrics import Constant, is_share

MEASURES = ("procrustes", "gram", "cka")


@dataclass(frozen=True)
class ComparedRun:
    """One variant × seed (× sweep point), scored on the test split after its last epoch.

    Attributes:
        sweep: dotted recipe path → value, for the fields that were swept; {} for a run that no swept field touches.
        metrics: name → share (0.91, not 91), or a value in the unit of the metric (`metrics.is_share`).
        geometry: on held-out rows, per matched layer pair from shallow to deep: `student_layer`, `teacher_layer`,
            `rows`, and under `procrustes` (D_P²), `gram` (D_FG²) and `cka` each `value`, `floor` (the best that a
            student of this width can reach: lowest distance, highest CKA) and `chance` (what unpaired rows give).
            Empty when none was measured.
        skipped_steps: steps left out since their loss was not finite.
        tokens_per_second, peak_megabytes: of the training, padding not counted, the teacher's memory included.
        notes: what the metrics hide and what was done to the data, one sentence each.
        folder: of the run, within the folder of the comparison.
        forms: a quantised student in float32, fake-quantised and as integers; empty without ONNX.
    """

    variant: str
    seed: int
    sweep: dict[str, Any]
    metrics: dict[str, float]
    geometry: list[dict[str, Any]]
    training_seconds: float
    parameters: int
    megabytes: float
    latency_ms: float
    skipped_steps: int
    tokens_per_second: float | None = None
    peak_megabytes: float | None = None
    notes: list[str] = field(default_factory=list)
    folder: str = ""
    forms: list[Form] = field(default_factory=list)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ComparedRun:
        """Read what results.json of a run or of a comparison holds of a run, beside what a comparison leaves out."""
        known = {name: content[name] for name in {each.name for each in fields(cls)} & content.keys()}
        typed = {
            "metrics": with_nan(content["metrics"]),
            "geometry": [with_nan(pair) for pair in content["geometry"]],
            "latency_ms": _number(content["latency_ms"]),
            "forms": [Form(**form) for form in content.get("forms", ())],
        }
        return cls(**{**known, **typed})


@dataclass(frozen=True)
class Geometry:
    """One measure over the seeds of a row, at its deepest matched layer pair."""

    value: Summary
    floor: float
    chance: float

    @property
    def reached(self) -> float | None:
        """How far from chance (0) to the floor (1); None if the two meet."""
        return reached(self.value.mean, self.floor, self.chance)


@dataclass(frozen=True)
class Row:
    """The teacher or the constant predictor (their `role`; no seeds), a baseline, or a candidate with its comparison.

    Attributes:
        against: the name of the row that this row is compared with; None for a teacher, a constant predictor, a
            baseline, and a candidate whose sweep point has no baseline.
        notes: what was said of the row's runs, each with the number of seeds that it was said of.
        forms: of quantised students: sizes and latencies of the first, the mean agreement over the seeds, and the
            largest difference.
        at_constant: whether the score is no better than the constant predictor's, or better by less than 1/√n over n
            examples, which is at least two standard errors of a share.
    """

    name: str
    role: str
    metric: str
    score: Summary
    seeds: tuple[int, ...]
    parameters: int
    megabytes: float
    latency_ms: float | None
    training_seconds: float | None
    variant: str = ""
    sweep: dict[str, Any] = field(default_factory=dict)
    skipped_steps: int = 0
    tokens_per_second: float | None = None
    peak_megabytes: float | None = None
    layers: tuple[Any, Any, str] | None = None
    geometry: dict[str, Geometry] = field(default_factory=dict)
    against: str | None = None
    comparison: PairedComparison | None = None
    holm_p: float | None = None
    notes: Mapping[str, int] = field(default_factory=dict)
    forms: Sequence[Form] = ()
    at_constant: bool = False

    @property
    def is_student(self) -> bool:
        return self.role in ("baseline", "candidate")

    @property
    def scale(self) -> float:
        """What the score is multiplied by when it is shown: 100 for a share, 1 for a metric with another unit."""
        return 100.0 if is_share(self.metric) else 1.0

    @property
    def shown_as(self) -> str:
        """The metric as an axis or a legend names it."""
        return f"{self.metric} × 100" if is_share(self.metric) else self.metric


def reached(value: float, floor: float, chance: float) -> float | None:
    """(chance − value) / (chance − floor): 0 at chance, 1 at the floor, for a distance and a similarity alike."""
    span = chance - floor
    return (chance - value) / span if span and math.isfinite(span) else None


def point_names(runs: Sequence[ComparedRun]) -> list[str]:
    """For each run the name of its row: the variant and the sweep point."""
    short = _short_paths(runs)
    return [_point_name(run, short) for run in runs]


def run_names(runs: Sequence[ComparedRun]) -> list[str]:
    """For each run its own name: variant, sweep point, seed. These are the keys of a report's training curves."""
    return [f"{name}, seed {run.seed}" for name, run in zip(point_names(runs), runs, strict=True)]


def build_table(
    runs: Sequence[ComparedRun],
    *,
    baseline: str,
    main_metric: str,
    teacher: TeacherResult | None = None,
    constant: Constant | None = None,
) -> list[Row]:
    """Gather the seeds of each variant and sweep point into a row, and test each candidate against the baseline.

    The baseline of a sweep point is the baseline variant at the same point, or else the one that agrees in most of the
    swept fields: a baseline that no swept field touches serves every point. Pairs are runs of the same seed. Holm's
    correction is over the t tests of all candidates in this metric. The teacher comes first, then the constant
    predictor, then the rows in the order of the runs. The teacher has no row for a metric that it was not scored by,
    such as retrieval of the teacher's own answers.
    """
    _check(runs, baseline, main_metric)
    short = _short_paths(runs)
    points: dict[tuple[str, str], list[ComparedRun]] = {}
    for run in runs:
        points.setdefault((run.variant, json.dumps(run.sweep, sort_keys=True, default=str)), []).append(run)
    baselines = [group for (variant, _), group in points.items() if variant == baseline]
    rows = [_row(group, baseline, baselines, main_metric, short) for group in points.values()]
    rows = [replace(row, at_constant=at_constant(row.metric, row.score.mean, constant)) for row in rows]
    adjusted = holm([row.comparison.t_p if row.comparison else None for row in rows])
    rows = [replace(row, holm_p=p) for row, p in zip(rows, adjusted, strict=True)]
    references = [
        *([_teacher_row(teacher, main_metric)] if teacher and main_metric in teacher.metrics else []),
        *([_constant_row(constant, main_metric)] if constant and main_metric in constant.metrics else []),
    ]
    return [*references, *rows]


def _row(
    group: list[ComparedRun], baseline: str, baselines: list[list[ComparedRun]], metric: str, short: Mapping[str, str]
) -> Row:
    first = group[0]
    reference = None if first.variant == baseline else _baseline_of(first.sweep, baselines)
    comparison = None
    if reference is not None:
        ours, theirs = ({run.seed: run.metrics[metric] for run in side} for side in (group, reference))
        seeds = sorted(ours.keys() & theirs.keys())
        comparison = compare_paired([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    layers, geometry = _geometry(group)
    return Row(
        name=_point_name(first, short),
        role="baseline" if first.variant == baseline else "candidate",
        metric=metric,
        score=summarize([run.metrics[metric] for run in group]),
        seeds=tuple(sorted(run.seed for run in group)),
        parameters=first.parameters,
        megabytes=first.megabytes,
        latency_ms=summarize([run.latency_ms for run in group]).mean,
        training_seconds=summarize([run.training_seconds for run in group]).mean,
        variant=first.variant,
        sweep=first.sweep,
        skipped_steps=sum(run.skipped_steps for run in group),
        tokens_per_second=_mean(run.tokens_per_second for run in group),
        peak_megabytes=_mean(run.peak_megabytes for run in group),
        layers=layers,
        geometry=geometry,
        against=_point_name(reference[0], short) if reference else None,
        comparison=comparison,
        notes=Counter(note for run in group for note in dict.fromkeys(run.notes)),
        forms=_forms(group),
    )


def _forms(group: Sequence[ComparedRun]) -> list[Form]:
    seeds = zip(*(run.forms for run in group if run.forms), strict=True)
    return [
        replace(
            forms[0],
            agreement=_mean(form.agreement for form in forms),
            difference=max((form.difference for form in forms if form.difference is not None), default=None),
        )
        for forms in seeds
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _baseline_of(sweep: Mapping[str, Any], baselines: list[list[ComparedRun]]) -> list[ComparedRun] | None:
    missing = object()
    agreeing = [b for b in baselines if all(sweep.get(path, missing) == value for path, value in b[0].sweep.items())]
    return max(agreeing, key=lambda group: len(group[0].sweep), default=None)


def _teacher_row(teacher: TeacherResult, metric: str) -> Row:
    return Row(
        name=teacher.name,
        role="teacher",
        metric=metric,
        score=summarize([teacher.metrics[metric]]),
        seeds=(),
        parameters=teacher.parameters,
        megabytes=teacher.megabytes,
        latency_ms=teacher.latency_ms,
        training_seconds=teacher.training_seconds,
        notes=dict.fromkeys(teacher.notes, 1),
    )


def _constant_row(constant: Constant, metric: str) -> Row:
    return Row(
        name=f"always {constant.answer}",
        role="constant",
        metric=metric,
        score=summarize([constant.metrics[metric]]),
        seeds=(),
        parameters=0,
        megabytes=0.0,
        latency_ms=0.0,
        training_seconds=None,
    )


def at_constant(metric: str, value: float, constant: Constant | None) -> bool:
    """Tell whether a score is no better than the constant predictor's; see `Row.at_constant`."""
    if constant is None or metric not in constant.metrics or not is_share(metric):
        return False
    return value < constant.metrics[metric] + 1 / math.sqrt(constant.examples)


def _geometry(group: list[ComparedRun]) -> tuple[tuple[Any, Any, str] | None, dict[str, Geometry]]:
    """The deepest layer pair of the first run that has one, over all runs that measured this pair."""
    deepest = [run.geometry[-1] for run in group if run.geometry]
    if not deepest:
        return None, {}
    layers = _layers(deepest[0])
    same = [entry for entry in deepest if _layers(entry) == layers]
    geometry = {}
    for measure in MEASURES:
        found = [entry[measure] for entry in same if entry.get(measure)]
        if found:
            value, floor, chance = (summarize([_number(entry.get(key)) for entry in found]) for key in _GEOMETRY_KEYS)
            geometry[measure] = Geometry(value, floor.mean, chance.mean)
    return layers, geometry


_GEOMETRY_KEYS = ("value", "floor", "chance")


def _layers(entry: Mapping[str, Any]) -> tuple[Any, Any, str]:
    return entry["student_layer"], entry["teacher_layer"], str(entry.get("rows", ""))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _point_name(run: ComparedRun, short: Mapping[str, str]) -> str:
    return ", ".join([run.variant, *(f"{short[path]}={_plain(value)}" for path, value in run.sweep.items())])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short_paths(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """The shortest dotted ending that tells a swept field from the others: objective.features.0.weight → weight."""
    paths = list(dict.fromkeys(path for run in runs for path in run.sweep))
    short = {}
    for path in paths:
        parts = path.split(".")
        endings = (".".join(parts[-k:]) for k in range(1, len(parts) + 1))
        short[path] = next((e for e in endings if sum(f".{p}".endswith(f".{e}") for p in paths) == 1), path)
    return short


def _check(runs: Sequence[ComparedRun], baseline: str, main_metric: str) -> None:
    if not runs:
        raise GeodistillError("There are no runs to compare.", "Finish at least one run of the comparison.")
    variants = list(dict.fromkeys(run.variant for run in runs))
    if baseline not in variants:
        raise GeodistillError(f"The baseline '{baseline}' is not among the variants.", suggest(baseline, variants))
    for metrics in (run.metrics for run in runs):
        if main_metric not in metrics:
            raise GeodistillError(f"No result of the metric '{main_metric}'.", suggest(main_metric, metrics))
    names = run_names(runs)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise GeodistillError(f"There are two results of '{twice}'.", "List each seed and each variant once.")
