"""What a comparison found: the content of results.json with its types, shown as the table of the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from geodistill.display import notebook, plain, whole_line
from geodistill.errors import GeodistillError
from geodistill.files import with_nan
from geodistill.runs.folder import REPORT, RESULTS
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.table import ComparedRun, Row, build_table
from geodistill.studies.table_text import (
    ComparisonTable,
    comparison_table,
    headline,
    legend,
    quality_table,
    section_tables,
)
from geodistill.tasks.metrics import Constant


@dataclass(frozen=True)
class ComparisonResults:
    """What `geodistill.compare` returns and writes to results.json.

    Attributes:
        folder: of the comparison; the folder of each run is in it, as `runs[i].folder` says.
        baseline: the variant that the others are tested against.
        metrics: the reported metrics, the main one first.
        constant: the constant predictor on the test split; None if there is none.
        read: what the runs read, by stage.
        teacher: on the same test split; None if the runs had several.
        runs: one for each variant, sweep point and seed, in the order in which they were planned.
    """

    folder: Path
    baseline: str
    metrics: list[str]
    constant: Constant | None
    read: dict[str, Any]
    teacher: TeacherResult | None
    runs: list[ComparedRun]

    @classmethod
    def from_dict(cls, folder: Path, content: Mapping[str, Any]) -> ComparisonResults:
        """Read what results.json of a comparison's folder holds.

        Raises GeodistillError for content that this version does not write.
        """
        known = {each.name for each in fields(cls)} - {"folder"}
        if odd := sorted(known ^ content.keys()):
            raise GeodistillError(
                f"{folder / RESULTS} was written by another version of geodistill: '{odd[0]}' is missing or unknown.",
                "Run the same command again: finished runs are kept.",
            )
        constant, teacher = content["constant"], content["teacher"]
        typed = {
            "constant": None if constant is None else Constant(**constant),
            "teacher": TeacherResult(**{**teacher, "metrics": with_nan(teacher["metrics"])}),
            "runs": [ComparedRun.from_dict(run) for run in content["runs"]],
        }
        return cls(folder, **{**content, **typed})

    def to_dict(self) -> dict[str, Any]:
        """Return what results.json holds."""
        content = asdict(self)
        del content["folder"]
        return content

    def rows(self, metric: str | None = None) -> list[Row]:
        """Return the rows of the table in a metric, the main one by default: means over seeds with paired tests.

        Raises GeodistillError for a metric that was not reported.
        """
        return build_table(
            self.runs,
            baseline=self.baseline,
            main_metric=metric or self.metrics[0],
            teacher=self.teacher,
            constant=self.constant,
        )

    @property
    def report(self) -> Path:
        """The page that tells all of it."""
        return self.folder / REPORT

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield ComparisonTable(self.rows())
        yield ""
        for metric in self.metrics[1:]:
            yield quality_table(self.rows(metric))
            yield ""
        yield whole_line(f"Report: {self.report}")

    def __str__(self) -> str:
        return plain(self)

    def _repr_html_(self) -> str:
        rows = self.rows()
        tables = section_tables(rows)
        tables += [comparison_table(self.rows(metric), ("quality",)) for metric in self.metrics[1:]]
        return notebook(headline(rows), tables, legend(rows), {"Report": self.report})
