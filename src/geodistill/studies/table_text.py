"""The rows of a comparison as text: a table for the terminal, one for Markdown, a legend, and one honest sentence.

The cells are written once, in `columns`; every printed form, the HTML report included, shows the same strings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console, ConsoleOptions, RenderResult

from geodistill.display import (
    ABSENT,
    GAP,
    LEAST_NAME,
    Drawn,
    Table,
    bullets,
    count,
    duration,
    one_line,
    p_value,
    unit,
    width_of,
)
from geodistill.runs.forms import Form
from geodistill.runs.run_results import MEASURE_NAMES
from geodistill.studies.statistics import PairedComparison, minimum_wilcoxon_p
from geodistill.studies.table import MEASURES, Row
from geodistill.tasks.metrics import is_share

SECTIONS = {
    "quality": "Quality",
    "geometry": "Geometry: value (floor, chance)",
    "cost": "Cost",
    "forms": "As ONNX: float32 / fake-quantised / integers",
}
SIGNIFICANT = 0.05
SWEPT = "Every sweep point is shown; to pick the best of them from this table is to choose on the test split."


@dataclass(frozen=True)
class Column:
    """A heading and a cell for each row; columns of one section stay side by side."""

    section: str
    heading: str
    cells: list[str]


def columns(rows: Sequence[Row]) -> list[Column]:
    """All columns that have something to say. An empty cell does not apply; a dash was not computed."""

    def column(section: str, heading: str, cell: Callable[[Row], str]) -> Column:
        return Column(section, heading, [cell(row) for row in rows])

    def tested(heading: str, cell: Callable[[PairedComparison, Row], str]) -> Column:
        def of(row: Row) -> str:
            return cell(row.comparison, row) if row.comparison else (ABSENT if row.role == "candidate" else "")

        return column("quality", heading, of)

    def cost(heading: str, cell: Callable[[Row], str]) -> Column:
        return column("cost", heading, lambda row: "" if row.role == "constant" else cell(row))

    def forms(heading: str, cell: Callable[[Sequence[Form]], str]) -> Column:
        return column("forms", heading, lambda row: cell(row.forms) if row.forms else "")

    confidence = next((f"{100 * row.comparison.confidence:g} %" for row in rows if row.comparison), "95 %")
    every = [
        column("", "", lambda row: one_line(row.name)),
        column("quality", "seeds", lambda row: str(len(row.seeds)) if row.seeds else ""),
        column("quality", one_line(rows[0].metric) if rows else "", lambda row: score(row)),
        column("quality", "diff.", _difference),
        tested(f"{confidence} interval", lambda c, row: _interval(c.t_interval, row.scale)),
        tested("p", lambda c, _: p_value(c.t_p)),
        tested("p Holm", lambda _, row: p_value(row.holm_p)),
        tested("Wilcoxon", lambda c, _: p_value(c.wilcoxon_p)),
        tested("bootstrap", lambda c, row: _interval(c.bootstrap_interval, row.scale)),
        *(column("geometry", MEASURE_NAMES[name], partial(_geometry, measure=name)) for name in MEASURES),
        cost("params", lambda row: count(row.parameters)),
        cost("MB", lambda row: unit(row.megabytes, "")),
        cost("latency", lambda row: unit(row.latency_ms, " ms")),
        cost("training", lambda row: duration(row.training_seconds)),
        column("cost", "tokens/s", lambda row: unit(row.tokens_per_second, "")),
        column("cost", "peak", lambda row: unit(row.peak_megabytes, " MB")),
        column("cost", "skipped", lambda row: str(row.skipped_steps or "")),
        forms("file, MB", lambda found: " / ".join(unit(form.megabytes, "") or ABSENT for form in found)),
        forms("one example, ms", lambda found: " / ".join(unit(form.latency_ms, "") or ABSENT for form in found)),
        forms("agreement, %", lambda found: " / ".join(_percent(form.agreement) for form in found)),
        forms("difference", lambda found: " / ".join(_size(form.difference) for form in found)),
    ]
    return [every[0], *(c for c in every[1:] if any(cell not in ("", ABSENT) for cell in c.cells))]


class ComparisonTable:
    """The table for a terminal: in blocks under one another (quality, geometry, cost) if it is wider than the
    terminal, with the legend under it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names, *others = columns(self.rows)
        sections = [[c for c in others if c.section == section] for section in dict.fromkeys(c.section for c in others)]
        widest = max((sum(map(_width, section)) for section in sections), default=0)
        name_width = min(width_of(names.cells), max(LEAST_NAME, options.max_width - widest))
        for block in _blocks(sections, options.max_width - name_width):
            yield Drawn(as_table([names, *block], self.rows), name_width)
            yield ""
        yield bullets(legend(self.rows))


def _blocks(sections: Sequence[Sequence[Column]], width: int) -> list[list[Column]]:
    """Put sections side by side if they fit; one that is wider than `width` is itself cut between its columns."""
    blocks: list[list[Column]] = []
    left = 0
    for section in sections:
        size = sum(map(_width, section))
        pieces = [section] if size <= width else [[column] for column in section]
        for place, piece in enumerate(pieces):
            size = sum(map(_width, piece))
            if size > left or (place == 0 and len(pieces) > 1):
                blocks.append([])
                left = width
            blocks[-1].extend(piece)
            left -= size
    return blocks


def _width(column: Column) -> int:
    return width_of([column.heading, *column.cells]) + GAP


def quality_table(rows: Sequence[Row]) -> Drawn:
    """Draw the columns of quality alone: what a further metric of the same runs adds."""
    return Drawn(comparison_table(rows, ("quality",)))


def comparison_table(rows: Sequence[Row], sections: Sequence[str]) -> Table:
    """Return the columns of some sections, grouped under the titles of the sections."""
    names, *others = [column for column in columns(rows) if column.section in ("", *sections)]
    spans = [(SECTIONS[section], sum(c.section == section for c in others)) for section in sections]
    groups = [(title, span) for title, span in spans if span]
    return as_table([names, *others], rows, f"{' and '.join(sections)} of each variant", groups)


def section_tables(rows: Sequence[Row]) -> list[Table]:
    """Return all columns in the tables of a page, one for each section that has any, with the rows that it is about."""
    tables = []
    for section in dict.fromkeys(column.section for column in columns(rows) if column.section):
        whole = comparison_table(rows, (section,))
        kept = [place for place, row in enumerate(whole.rows) if any(row[1:])]
        shown, kinds = [whole.rows[place] for place in kept], [whole.kinds[place] for place in kept]
        tables.append(replace(whole, rows=shown, kinds=kinds))
    return tables


def as_table(
    chosen: Sequence[Column], rows: Sequence[Row], label: str = "", groups: Sequence[tuple[str, int]] = ()
) -> Table:
    cells = list(zip(*(column.cells for column in chosen), strict=True))
    return Table([column.heading for column in chosen], cells, label, groups, [row.role for row in rows])


def markdown_table(rows: Sequence[Row]) -> str:
    """The same table and legend in GitHub's Markdown."""
    every = columns(rows)
    lines = ["| " + " | ".join(_markdown(c.heading) for c in every) + " |"]
    lines.append("|---|" + "---:|" * (len(every) - 1))
    lines += ["| " + " | ".join(map(_markdown, cells)) + " |" for cells in zip(*(c.cells for c in every), strict=True)]
    return "\n".join([*lines, "", *(f"- {_markdown(line)}" for line in legend(rows))])


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of students that have the best mean; none if no mean is finite."""
    students = [row for row in rows if row.is_student and math.isfinite(row.score.mean)]
    if not students:
        return []
    pick = max if is_share(students[0].metric) else min
    top = pick(row.score.mean for row in students)
    return [row for row in students if row.score.mean == top]


def against(row: Row) -> tuple[str, str]:
    """Return the difference of a row from its baseline, and how sure it is."""
    points = "points" if is_share(row.metric) else ""
    comparison = row.comparison
    if comparison is None or comparison.t_interval is None:
        return _difference(row), points
    interval = f"{100 * comparison.confidence:g} % interval {_interval(comparison.t_interval, row.scale)}"
    return _difference(row), "; ".join(filter(None, [points, interval, f"Holm p {p_value(row.holm_p)}"]))


def headline(rows: Sequence[Row]) -> str:
    """Say who is best by mean, by how much against the baseline, whether that is significant, and whether the students
    are better than the constant predictor at all."""
    students = [row for row in rows if row.is_student and math.isfinite(row.score.mean)]
    best = best_rows(students)
    if not best:
        return "No run has a finite score."
    verb = "share the best mean" if len(best) > 1 else "is best by mean" if len(students) > 1 else "was run alone"
    text = f"{' and '.join(one_line(row.name) for row in best)} {verb}: {one_line(best[0].metric)} {score(best[0])}"
    candidates = [row for row in students if row.comparison and row.comparison.mean_difference is not None]
    rivals = [row for row in candidates if row not in best]
    if len(best) == 1 and best[0] in candidates:
        told = best
        sentences = [f"{text}, {_against(best[0])}."]
    elif rivals:
        told = best_rows(rivals)[:1]
        sentences = [f"{text}.", f"Next comes {one_line(told[0].name)}: {score(told[0])}, {_against(told[0])}."]
    else:
        told, sentences = candidates, [f"{text}."]
    others = [row for row in candidates if row not in told and _significant(row)]
    if others:
        named = [f"{one_line(row.name)} ({_difference(row)}, Holm p {p_value(row.holm_p)})" for row in others]
        sentences.append(f"Significant against the baseline: {', '.join(named)}.")
    return " ".join([*sentences, *_no_better_than_constant(rows, students)])


def _no_better_than_constant(rows: Sequence[Row], students: Sequence[Row]) -> list[str]:
    constant = next((row for row in rows if row.role == "constant"), None)
    low = [one_line(row.name) for row in students if row.at_constant]
    if constant is None or not low:
        return []
    names = "all students" if len(low) == len(students) > 1 else _joined(low)
    verb = "is" if len(low) == 1 else "are"
    return [
        f"But {names} {verb} at the level of the constant predictor ({one_line(constant.name)}: {score(constant)}), so "
        "a difference there says little."
    ]


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def legend(rows: Sequence[Row]) -> list[str]:
    """What the columns mean, how the tests were made, and what was not done."""
    if not rows:
        return []
    swept = any(row.sweep for row in rows)
    lines = [
        f"{one_line(rows[0].shown_as)} on the test split after the last epoch: mean ± sample deviation over the seeds. "
        + (SWEPT if swept else "The test split was not used to choose anything.")
    ]
    points = ", in points" if is_share(rows[0].metric) else ""
    compared = [(row, row.comparison) for row in rows if row.comparison]
    against = list(dict.fromkeys(row.against for row, _ in compared))
    if len(against) == 1:
        lines.append(f"diff.: from {one_line(against[0] or '')}{points}, paired by seed.")
    elif against:
        lines.append(f"diff.: from the baseline at the same sweep point{points}, paired by seed.")
    made = [comparison for _, comparison in compared if comparison.t_p is not None]
    if made:
        few = min(comparison.n for comparison in made)
        kinds = " or ".join(sorted({str(comparison.bootstrap_method) for comparison in made}))
        lines.append(
            f"p and interval: paired t test, two-sided. p Holm: the same, corrected for {_several(len(made), 'test')}, "
            f"all tests of {one_line(rows[0].metric)} in this table; another metric has a correction of its own. "
            f"Wilcoxon: exact signed-rank p, zeros dropped; with {_several(few, 'seed')} it cannot be below "
            f"{minimum_wilcoxon_p(few):.2g}. bootstrap: {kinds} interval, too narrow when seeds are few."
        )
    notes = {row.name: comparison.note for row, comparison in compared if comparison.note}
    if len(notes) == len(compared) and len(set(notes.values())) == 1:
        lines.append(_sentence(next(iter(notes.values()))))
    else:
        lines += [f"{one_line(name)}: {note}." for name, note in notes.items()]
    lines += [
        f"{one_line(row.name)}: {c.n} of {len(row.seeds)} seeds have a partner."
        for row, c in compared
        if c.n < len(row.seeds)
    ]
    unmatched = [one_line(row.name) for row in rows if row.role == "candidate" and row.comparison is None]
    if unmatched:
        lines.append(f"No baseline at the sweep point of {', '.join(unmatched)}.")
    lines += _notes(rows)
    pairs = list(dict.fromkeys(row.layers for row in rows if row.layers))
    if pairs:
        where = "; ".join(f"student layer {s} against teacher layer {t}, rows {r or 'as matched'}" for s, t, r in pairs)
        lines.append(
            f"Geometry on held-out data ({one_line(where)}): value (floor, chance). Floor: the best that a student of "
            "this width can reach. Chance: what unpaired rows give. Near is low in D_P² and D_FG², high in CKA."
        )
    if len(pairs) > 1:
        lines.append("The rows were measured at different layers: compare their geometry with care.")
    if any(row.peak_megabytes for row in rows):
        lines.append("tokens/s and peak: of the training, padding not counted; the memory is the whole process's.")
    if any(row.skipped_steps for row in rows):
        lines.append("skipped: training steps left out over all seeds, since their loss was not finite.")
    if any(row.forms for row in rows):
        lines.append(
            "As ONNX: float32 has rounded weights and rounds no inputs, as plain transformers loads the student. One "
            "example: median by ONNX Runtime on one thread, of the first seed. Agreement: the share of the test split "
            "that is decided as by the fake-quantised student, mean over the seeds; difference: the largest of any "
            "output."
        )
    if any(row.role == "constant" for row in rows):
        lines.append(
            "always …: the constant predictor, which gives every example the most frequent answer in training."
        )
    return lines


def _notes(rows: Sequence[Row]) -> list[str]:
    """The notes of the teacher and of the runs: once if every run has a note, else with the rows that have it.

    A note of the teacher's is followed by the rows whose students do the same.
    """
    students = [row for row in rows if row.is_student]
    having = {note: [row for row in students if note in row.notes] for row in students for note in row.notes}
    lines = []
    for note in dict.fromkeys(note for row in rows if row.role == "teacher" for note in row.notes):
        of_student = note.replace("The teacher", "The student", 1)
        same = having.pop(of_student, [])
        lines.append(f"{note} So do students of {_of_seeds(same, of_student)}." if same else note)
    for note, found in having.items():
        everywhere = len(found) == len(students) and all(row.notes[note] == len(row.seeds) for row in found)
        lines.append(note if everywhere else f"{_of_seeds(found, note)}: {note}")
    return [one_line(line) for line in lines]


def score(row: Row) -> str:
    if not math.isfinite(row.score.mean):
        return "not finite"
    text = f"{row.scale * row.score.mean:.2f}".replace("-", "−")
    return text if row.score.deviation is None else f"{text} ± {row.scale * row.score.deviation:.2f}"


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.2f}"


def _size(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1e}"


def _of_seeds(rows: Sequence[Row], note: str) -> str:
    return _joined([f"{row.name} ({row.notes[note]} of {_several(len(row.seeds), 'seed')})" for row in rows])


def _against(row: Row) -> str:
    points = " points" if is_share(row.metric) else ""
    text = f"{_difference(row)}{points} against {one_line(row.against or '')}"
    comparison = row.comparison
    if comparison is None or comparison.t_interval is None:
        return f"{text} ({comparison.note if comparison else ABSENT})"
    level = f"{100 * comparison.confidence:g} %"
    text += f" ({level} interval {_interval(comparison.t_interval, row.scale)}, Holm p {p_value(row.holm_p)})"
    return f"{text}: {'' if _significant(row) else 'not '}significant with {comparison.n} seeds"


def _significant(row: Row) -> bool:
    return row.holm_p is not None and row.holm_p < SIGNIFICANT


def _difference(row: Row) -> str:
    if row.comparison is None:
        return {"baseline": "baseline", "candidate": ABSENT}.get(row.role, "")
    return _points(row.comparison.mean_difference, row.scale)


def _points(value: float | None, scale: float) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    rounded = round(scale * value, 2) + 0.0  # a difference that is rounded to zero is not negative
    return f"{rounded:+.2f}".replace("-", "−")


def _interval(interval: tuple[float, float] | None, scale: float) -> str:
    return ABSENT if interval is None else f"{_points(interval[0], scale)} … {_points(interval[1], scale)}"


def _geometry(row: Row, measure: str) -> str:
    found = row.geometry.get(measure)
    if found is None:
        return ABSENT if row.is_student else ""
    return f"{found.value.mean:.3f} ({found.floor:.2f}, {found.chance:.2f})"


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sentence(text: str | None) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*<>\[\]|#~])", r"\\\1", text)
