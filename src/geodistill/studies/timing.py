"""How fast the students of a comparison are, taken when nothing runs beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from geodistill.distillation.sides import Reader
from geodistill.errors import GeodistillError
from geodistill.runs.folder import RESULTS, read_json
from geodistill.runs.forms import Form, measure_forms
from geodistill.runs.measure import measure_latency
from geodistill.runs.run_results import TeacherResult
from geodistill.runs.teacher import PreparedTeacher
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.plan import Job
from geodistill.tasks.loading import ModelSource


class Timed(NamedTuple):
    """What was measured of one student for all that are built alike: milliseconds for one example in torch, and the
    forms of a quantised student with their sizes and latencies, by name."""

    latency_ms: float
    forms: Mapping[str, Form]


def time_students(
    jobs: Sequence[Job], teacher: PreparedTeacher, readers: Mapping[str, Reader | None]
) -> dict[str, Timed]:
    """Time one student of each build, now that nothing runs beside it."""
    timed: dict[str, Timed] = {}
    for job in jobs:
        if job.build in timed:
            continue
        folder = job.folder / "student"
        source = ModelSource(str(folder), trust_remote_code=job.recipe.trusts_student)
        student = teacher.task.load_model(source, new_head=False).eval()
        reader, encoded = teacher.as_read_by(student, readers[job.shape])
        results = read_json(job.folder / RESULTS)
        forms = [Form(**form) for form in results["forms"]]
        if forms:
            forms = measure_forms(forms, student, reader, encoded[results["split"]], folder)
        latency = measure_latency(student, reader, encoded)
        timed[job.build] = Timed(latency, {form.name: form for form in forms})
    return timed


def measured_before(jobs: Sequence[Job], folder: Path) -> tuple[dict[str, Timed], TeacherResult] | None:
    """Read the sizes and times that a finished comparison wrote, and its teacher, so that reading it again changes
    nothing; None if a run was finished later, or other runs are compared."""
    written = folder / RESULTS
    if not written.is_file() or any((job.folder / RESULTS).stat().st_mtime > written.stat().st_mtime for job in jobs):
        return None
    try:
        results = ComparisonResults.from_dict(folder, read_json(written))
    except GeodistillError:  # of another version
        return None
    runs = {run.folder: run for run in results.runs}
    found = [runs.get(job.folder.relative_to(folder).as_posix()) for job in jobs]
    if results.teacher is None or None in found:
        return None
    timed = {
        job.build: Timed(run.latency_ms, {form.name: form for form in run.forms})
        for job, run in zip(jobs, found, strict=True)
        if run is not None
    }
    return timed, results.teacher
