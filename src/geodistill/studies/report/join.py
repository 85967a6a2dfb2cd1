"""`geodistill report`: the page of a finished run or comparison written anew, or one page that joins several."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from geodistill.errors import GeodistillError
from geodistill.files import write_text
from geodistill.runs.folder import ENVIRONMENT, RECIPE, RESULTS, make_folder, read_json, read_recipe
from geodistill.runs.run_results import RunResults, TeacherResult
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.report.comparison_page import comparison_page, report_comparison
from geodistill.studies.report.made_of import Origin
from geodistill.studies.report.run_page import run_page
from geodistill.studies.table import ComparedRun, point_names

JOINED = Path("runs") / "report.html"
TEACHERS = "The runs have different teachers, so no teacher stands in the table; each run's geometry is to its teacher."


@dataclass(frozen=True)
class Member:
    """A run of a page that joins several.

    name: of the row that it is a seed of, if no other row has it
    key: what runs of one row have in common: the recipe but its seed, and the teacher
    folder: of the run or the comparison that was given
    results: what results.json of the run itself holds
    """

    name: str
    key: str
    folder: Path
    run: ComparedRun
    recipe: Mapping[str, Any]
    results: Mapping[str, Any]


def report(*folders: str | Path, output: str | Path | None = None, baseline: str | None = None) -> Path:
    """Write the page of a finished run or comparison anew, or one page that joins several.

    The same as `geodistill report`. Runs that differ in nothing but the seed become one row, as in a comparison. All
    rows are tested against the baseline, paired by seed. Nothing is trained or scored again.

    Args:
        folders: of runs and comparisons; several have to be of one task, and scored on the same data.
        output: the file of the page; by default report.html in the folder, and of several folders runs/report.html.
        baseline: the row that others are tested against; by default that of the first comparison, or the first row.

    Returns:
        The path of the page.

    Raises:
        GeodistillError: for a folder without finished results, and for runs that stand in no table together.

    Example:
        >>> geodistill.report("runs/kd", "runs/kd-procrustes", output="both.html")
    """
    if not folders:
        raise GeodistillError("There is no run to report on.", "Give the folder of a run or of a comparison.")
    found = [read_results(Path(folder)) for folder in folders]
    if len(found) == 1 and baseline is not None and isinstance(found[0], RunResults):
        raise GeodistillError(
            "A single run has no other row to test against a baseline.", "Leave --baseline out, or name several runs."
        )
    if len(found) > 1:
        place = Path(output) if output is not None else JOINED
        text = joined_page(found, baseline)
    else:
        results = found[0]
        place = Path(output) if output is not None else results.report
        origin = Origin.read(results.folder)
        if isinstance(results, RunResults):
            text = run_page(results, origin, title=results.folder.name)
        else:
            results = results if baseline is None else replace(results, baseline=baseline)
            if output is None:
                report_comparison(results, origin.recipe)  # its picture as well
                return place
            text = comparison_page(results, [origin], title=f"Comparison on {origin.recipe['data']['source']}")
    if place.is_dir():
        raise GeodistillError(f"'{place}' is a folder, not a file.", "Give --output the name of a file.")
    make_folder(place.parent)
    write_text(place, text)
    return place


def read_results(folder: Path) -> RunResults | ComparisonResults:
    """Read what a finished run or comparison wrote. Raises GeodistillError for a folder that holds neither."""
    if not folder.is_dir():
        raise GeodistillError(
            f"There is no folder '{folder}'.", "Give the folder of a run or of a comparison, such as runs/demo-trec."
        )
    if not (folder / RESULTS).is_file():
        begun = (folder / ENVIRONMENT).is_file()
        raise GeodistillError(
            f"The run in '{folder}' is not finished." if begun else f"'{folder}' is not the folder of a run.",
            "Run the same command again to finish it."
            if begun
            else f"Give a folder with {RESULTS}, as 'geodistill train' and 'geodistill compare' write it.",
        )
    content = read_json(folder / RESULTS)
    kind: Any = ComparisonResults if "runs" in content else RunResults
    return kind.from_dict(folder, content)


def joined_page(found: Sequence[RunResults | ComparisonResults], baseline: str | None = None) -> str:
    """Return one page of several runs and comparisons."""
    members = [member for results in found for member in members_of(results)]
    check_alike(members)
    names = row_names(members)
    runs = [replace(member.run, variant=names[member.key], sweep={}) for member in members]
    twice = [f"'{run.variant}' with seed {run.seed}" for run in runs]
    if (again := next((name for name in twice if twice.count(name) > 1), None)) is not None:
        raise GeodistillError(f"{again} was given twice: one recipe and one seed.", "Name each run once.")
    first = found[0]
    if baseline is None:
        own = next((results for results in found if isinstance(results, ComparisonResults)), None)
        of_own = [m for m in members if own is not None and m.folder == own.folder and m.run.variant == own.baseline]
        baseline = names[(of_own or members)[0].key]
    metrics = [name for name in members[0].run.metrics if all(name in member.run.metrics for member in members)]
    teachers = [TeacherResult(**member.results["teacher"]) for member in members]
    alike = len({_scores(teacher) for teacher in teachers}) == 1
    timed = [results.teacher for results in found if results.teacher is not None and results.teacher.latency_ms]
    results = ComparisonResults(
        folder=first.folder,
        baseline=baseline,
        metrics=metrics,
        constant=first.constant,
        read=first.read,
        teacher=[*timed, *teachers][0] if alike else None,
        runs=runs,
    )
    title = f"{len(runs)} runs on {members[0].recipe['data']['source']}"
    origins = [Origin.read(results.folder) for results in found]
    return comparison_page(results, origins, title=title, notes=[] if alike else [TEACHERS])


def members_of(results: RunResults | ComparisonResults) -> list[Member]:
    """Return the runs of a folder, each with its own results and a path that holds from anywhere."""
    if isinstance(results, RunResults):
        content = results.to_dict()
        run = ComparedRun.from_dict({**content, "variant": results.folder.name, "sweep": {}})
        pairs = [(results.folder.name, replace(run, folder=str(results.folder.resolve())))]
    else:
        places = [str((results.folder / run.folder).resolve()) for run in results.runs]
        placed = [replace(run, folder=place) for run, place in zip(results.runs, places, strict=True)]
        pairs = list(zip(point_names(results.runs), placed, strict=True))
    members = []
    for name, run in pairs:
        recipe, own = read_recipe(Path(run.folder) / RECIPE), read_json(Path(run.folder) / RESULTS)
        members.append(Member(name, _key(recipe, own), results.folder, run, recipe, own))
    return members


def check_alike(members: Sequence[Member]) -> None:
    """Raise GeodistillError for runs whose scores do not belong in one table."""
    first = members[0]
    for member in members[1:]:
        tasks = first.recipe["task"], member.recipe["task"]
        if tasks[0] != tasks[1]:
            raise GeodistillError(
                f"'{first.folder}' is of the task '{tasks[0]}', and '{member.folder}' of the task '{tasks[1]}'.",
                "Report runs of different tasks one by one.",
            )
        if first.results["data_fingerprint"] != member.results["data_fingerprint"]:
            raise GeodistillError(
                f"'{first.folder}' and '{member.folder}' were scored on different data: "
                f"{first.recipe['data']['source']} and {member.recipe['data']['source']}, or other rows of it.",
                "Report them one by one, or score them on the same data.",
            )
    if not set(first.run.metrics).intersection(*(member.run.metrics for member in members)):
        raise GeodistillError("The runs have no metric in common.", "Report them one by one.")


def row_names(members: Sequence[Member]) -> dict[str, str]:
    """Return a name for each row, by its key: the runs' own, with their folder if two rows would have one name."""
    rows: dict[str, list[Member]] = {}
    for member in members:
        rows.setdefault(member.key, []).append(member)
    names = {key: _without_seed([member.name for member in own]) for key, own in rows.items()}
    taken = list(names.values())
    return {key: f"{name} ({rows[key][0].folder})" if taken.count(name) > 1 else name for key, name in names.items()}


def _without_seed(names: Sequence[str]) -> str:
    """The name of a row by those of its seeds: kd for kd-seed1 and kd-seed2."""
    return names[0] if len(set(names)) == 1 else re.sub(r"[-_. ]*(seed)?[-_. ]*\d+$", "", names[0]) or names[0]


def _key(recipe: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    # Where the teacher lies is not what it is, and runs of a comparison name its folder.
    content = {name: value for name, value in recipe.items() if name not in ("teacher", "compare")}
    content["training"] = {name: value for name, value in content["training"].items() if name != "seed"}
    return json.dumps([content, _scores(TeacherResult(**results["teacher"]))], sort_keys=True)


def _scores(teacher: TeacherResult) -> str:
    return json.dumps([teacher.metrics, teacher.parameters], sort_keys=True)
