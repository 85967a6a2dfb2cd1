"""report.html of one run: what the student reaches, how near it is to its teacher, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geodistill.display import ABSENT, Table, count, decimal, duration, one_line, unit
from geodistill.files import write_text
from geodistill.runs.folder import read_metrics
from geodistill.runs.run_results import FORMS, MEASURE_NAMES, RunResults, describe_details, forms_table
from geodistill.studies.report.answers import against_teacher, confusion, read_answers, read_teachers_answers, samples
from geodistill.studies.report.comparison_page import curve_section, saved
from geodistill.studies.report.made_of import Origin, origin_blocks, read_section
from geodistill.studies.report.page import Block, Folded, Notes, Section, SmallPlots, Tables, Tile, page, small_plots
from geodistill.studies.report.score_plots import depth_plots
from geodistill.studies.report.scores import styles
from geodistill.studies.report.thumbnails import Thumbnails
from geodistill.studies.report.vector_answers import decoded_behaviour, wrong_neighbours
from geodistill.studies.table import MEASURES, at_constant, reached

REFERENCES = (
    "Value beside the floor, the best that a student of this width can reach, and chance, what unpaired rows give. "
    "Reached: the share of the way from chance to the floor. Near is low in D_P² and D_FG², high in CKA."
)
SHOWN = ("metrics", "constant", "details", "geometry", "read", "notes", "forms", "teacher", "validation_metrics")
STUDENT, TEACHER = "student", "teacher"


def report_run(results: RunResults) -> None:
    """Write report.html of a run into its folder."""
    write_text(results.report, run_page(results, Origin.read(results.folder), title=results.folder.name))


def run_page(results: RunResults, origin: Origin, *, title: str) -> str:
    """Return the page of a run."""
    folder = results.folder
    own, theirs = read_answers(folder), read_teachers_answers(folder)
    answers = {STUDENT: [own], TEACHER: [theirs]}
    drawn = styles([STUDENT])
    scores = [results.tables[0]] if results.metrics else []
    notes = [*describe_details(results.details), *results.notes, *results.teacher.notes]
    forms: list[Block] = [Tables([forms_table(results.forms)]), Notes([FORMS])] if results.forms else []
    return page(
        [
            Section("Scores", [*([Tables(scores)] if scores else []), *([Notes(notes)] if notes else [])]),
            _geometry_section(results),
            Section("Cost", [Tables([_cost_table(results)])]),
            Section("Forms of the student", forms),
            confusion(answers, [STUDENT, TEACHER]),
            against_teacher(own, theirs, Thumbnails(folder)),
            wrong_neighbours(answers),
            decoded_behaviour(answers, drawn),
            samples(answers),
            curve_section({STUDENT: [read_metrics(folder)]}, drawn),
            read_section(results.read),
            Section("How it was made", [Folded("All facts", [Tables([_facts(results)])]), *origin_blocks([origin])]),
        ],
        title=title,
        lead=verdict(results),
        kind="geodistill run",
        tiles=_tiles(results),
    )


def verdict(results: RunResults) -> str:
    """Say what a student reaches of its teacher's score, whether that is more than a constant predictor has, and how
    near its features are to its teacher's."""
    if not results.metrics:
        text = "The student was trained without labels, so it has no score."
    else:
        name, value = next(iter(results.metrics.items()))
        text = f"The student has {one_line(name)} {decimal(value, 4)} on {results.split}"
        if name in results.teacher.metrics:
            text += f"; its teacher has {decimal(results.teacher.metrics[name], 4)}"
        text += "."
        constant = results.constant
        if constant is not None and value is not None and at_constant(name, value, constant):
            told = decimal(constant.metrics[name], 4)
            text += f" But that is at the level of the constant predictor (always {one_line(constant.answer)}: {told})."
    share = _reached(results)
    if share is not None:
        text += f" Its features went {100 * share:.0f} % of the way from chance to the floor in D_P²."
    return text


def _reached(results: RunResults) -> float | None:
    """The share of the way from chance to the floor in D_P², at the deepest layer pair."""
    found = results.geometry[-1].get("procrustes") if results.geometry else None
    if not found or None in (numbers := [found[key] for key in ("value", "floor", "chance")]):
        return None
    return reached(*numbers)


def _tiles(results: RunResults) -> list[Tile]:
    tiles = []
    for name, value in list(results.metrics.items())[:1]:
        tiles.append(Tile(one_line(name), decimal(value, 4), f"student on {results.split}"))
        if name in results.teacher.metrics:
            tiles.append(Tile("Teacher", decimal(results.teacher.metrics[name], 4), one_line(results.teacher.name)))
    teacher = results.teacher
    tiles += saved(results.parameters, teacher.parameters, results.latency_ms, teacher.latency_ms)
    share = _reached(results)
    if share is not None:
        note = f"of the way from chance to the floor in {MEASURE_NAMES['procrustes']}"
        tiles.append(Tile("Geometry", f"{100 * share:.0f} %", note))
    return tiles


def _geometry_section(results: RunResults) -> Section | None:
    if not results.geometry:
        return None
    plots = small_plots(
        depth_plots({STUDENT: [results.geometry]}, styles([STUDENT])), "depth", "Geometry of each layer pair"
    )
    return Section(
        "Geometry",
        [
            SmallPlots(plots),
            Notes(["Each matched layer pair. Dashes: the floor and chance."]),
            Tables([_geometry_table(results.geometry)]),
            Notes([REFERENCES]),
        ],
    )


def _geometry_table(geometry: Sequence[Mapping[str, Any]]) -> Table:
    cells = []
    for entry in geometry:
        layers = [f"{entry['student_layer']} ↔ {entry['teacher_layer']}", str(entry.get("rows", ""))]
        for measure in MEASURES:
            if entry.get(measure):
                numbers = [entry[measure].get(key) for key in ("value", "floor", "chance")]
                share = None if None in numbers else reached(*numbers)
                percent = ABSENT if share is None else f"{100 * share:.1f} %"
                cells.append([*layers, MEASURE_NAMES[measure], *(decimal(number, 4) for number in numbers), percent])
    heads = ["layers", "rows", "measure", "value", "floor", "chance", "reached"]
    return Table(heads, cells, "Geometry of each matched layer pair")


def _cost_table(results: RunResults) -> Table:
    teacher = results.teacher
    rows = [
        ["parameters", count(results.parameters), count(teacher.parameters)],
        ["size", unit(results.megabytes, " MB"), unit(teacher.megabytes, " MB")],
        ["latency of one example", unit(results.latency_ms, " ms"), unit(teacher.latency_ms, " ms")],
        ["training", duration(results.training_seconds), duration(teacher.training_seconds)],
        ["tokens a second", unit(results.tokens_per_second, ""), ""],
        ["peak memory of the training", unit(results.peak_megabytes, " MB"), ""],
        ["skipped steps", str(results.skipped_steps or ""), ""],
    ]
    return Table(
        ["", STUDENT, TEACHER], [row for row in rows if any(cell not in ("", ABSENT) for cell in row[1:])], "Cost"
    )


def _facts(results: RunResults) -> Table:
    facts = _flat({name: value for name, value in results.to_dict().items() if name not in SHOWN})
    facts |= {f"validation.{name}": value for name, value in results.validation_metrics.items() if value is not None}
    return Table(["", ""], [[name, _fact(name, value)] for name, value in facts.items()], "Facts")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; what is None is left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _fact(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name.endswith("seconds"):
        return duration(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
