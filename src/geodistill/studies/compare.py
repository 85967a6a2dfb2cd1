"""`geodistill compare`: one teacher, many runs, one table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from geodistill.distillation.cache.plan import Key
from geodistill.distillation.devices import telling_of_memory
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.layer_choice import ChosenLayers
from geodistill.distillation.sides import Reader
from geodistill.distillation.students.adapters import adapted_model
from geodistill.files import write_json
from geodistill.recipe import TASK_STAGE, Recipe, StudentRecipe
from geodistill.runs.arguments import run_device
from geodistill.runs.automatic_layers import LayerChooser, known_layers, with_layers
from geodistill.runs.folder import ENVIRONMENT, RESULTS, claimed, read_json
from geodistill.runs.identity import comparison_fingerprint, run_fingerprint
from geodistill.runs.measure import describe_teacher
from geodistill.runs.precision import describe_precision, warn_of_slow_settings
from geodistill.runs.prepare import (
    Preparation,
    asks_for_logits,
    data_key,
    geometry_pairs,
    stages_before_learning,
)
from geodistill.runs.recipe_file import check_names
from geodistill.runs.run_results import TeacherResult
from geodistill.runs.settings import check_settings
from geodistill.runs.student import build_start, kept_start, trained_start
from geodistill.runs.teacher import PreparedTeacher, as_given, outline_of, prepare_teacher
from geodistill.runs.tell import Teller, records_of
from geodistill.runs.train import check_onnx
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.plan import Job, comparison_of, default_comparison, plan_jobs
from geodistill.studies.report.comparison_page import report_comparison
from geodistill.studies.table import ComparedRun
from geodistill.studies.timing import Timed, measured_before, time_students
from geodistill.studies.workers import PreparedJob, run_jobs
from geodistill.tasks.choose import stage_tasks, task_of
from geodistill.tasks.reading import student_reader
from geodistill.tasks.task import Task

MOST_JOBS = 4  # beyond, small students wait for memory bandwidth rather than cores


@telling_of_memory()
def compare(
    recipe: Recipe,
    folder: Path,
    *,
    sweeps: Mapping[str, Sequence[Any]] | None = None,
    fresh: bool = False,
    onnx: bool = False,
    progress: bool = True,
) -> ComparisonResults:
    """Run every variant with every seed against one teacher, write a report, and return what each run reached on the
    test split.

    With `onnx` each run writes its ONNX file too, and quantised students are measured in all their forms.

    Finished runs in the folder are read, not repeated, so an interrupted comparison goes on and a variant may be added
    to a finished one. Runs go side by side in processes of their own. The teacher is trained once and its signals are
    kept on disk until the last run is done.

    Raises GeodistillError for whatever the user can fix; a run that fails does not stop the others.
    """
    recipe = check_names(recipe)
    jobs = plan_jobs(recipe, folder, sweeps)
    variants = [job for job in jobs if job.seed == jobs[0].seed]
    # Settings and readers refuse what a run would, before the teacher is fine-tuned.
    for job in variants:
        check_settings(job.recipe)
        if onnx:
            check_onnx(job.recipe)
    task = task_of(recipe)
    readers = {job.shape: student_reader(job.recipe, task) for job in variants}
    content, precision = recipe.model_dump(mode="json"), describe_precision(recipe, run_device())
    with claimed(folder, content, comparison_fingerprint(recipe, task), fresh=fresh, precision=precision):
        return _compare(recipe, folder, jobs, task, readers, onnx=onnx, progress=progress)


def _compare(
    recipe: Recipe,
    folder: Path,
    jobs: list[Job],
    task: Task,
    readers: Mapping[str, Reader | None],
    *,
    onnx: bool,
    progress: bool,
) -> ComparisonResults:
    teller = Teller(progress)
    warn_of_slow_settings(recipe, run_device())
    tasks = comparison_tasks(jobs, task)
    teller.tell(records_of(tasks))
    teacher = prepare_teacher(recipe.teacher, task, folder / "teacher", progress=progress)
    teller.tell({TASK_STAGE: task.record}, " with the teacher")
    jobs = [_with_teacher(job, teacher.folder) for job in jobs]

    names = name_stages(jobs)
    planned = [(job, own, run_fingerprint(job.recipe, own)) for job in jobs for own in [tasks_of(job, names, tasks)]]
    todo = [each for each in planned if not is_finished(each[0], each[2], onnx=onnx)]
    prepared = prepare_jobs(todo, teacher, readers, folder, teller)
    run_jobs(prepared, workers=_workers(recipe), done=len(jobs) - len(todo), onnx=onnx, progress=progress)

    shutil.rmtree(folder / "cache", ignore_errors=True)
    before = measured_before(jobs, folder)
    timed = before[0] if before else time_students(jobs, teacher, readers)
    results = ComparisonResults(
        folder=folder,
        baseline=comparison_of(recipe).baseline,
        metrics=list(task.metrics),
        constant=task.constant("test") if task.labelled else None,
        read=collect_read(jobs),
        teacher=before[1] if before else TeacherResult(**describe_teacher(teacher, timed=True)),
        runs=[read_run(job, folder, timed[job.build]) for job in jobs],
    )
    write_json(folder / RESULTS, results.to_dict())
    report_comparison(results, recipe.model_dump(mode="json"))
    return results


def prepare_jobs(
    planned: Sequence[tuple[Job, Mapping[str, Task], str]],
    teacher: PreparedTeacher,
    readers: Mapping[str, Reader | None],
    folder: Path,
    teller: Teller,
) -> list[PreparedJob]:
    """Make once what the jobs share: the data as both sides read it, the teacher's signals, and the students that are
    made out of the teacher. No job has to read the data, or to load the teacher if its signals are kept.

    Args:
        planned: jobs with the tasks of their stages, by name, and the fingerprints of their runs.
        teacher: of all jobs.
        readers: by the shape of a student, its own reader; None if it reads as the teacher does.
        folder: of the comparison.
        teller: tells which layers are chosen.
    """
    if not planned:
        return []
    progress = teller.progress
    begun: dict[tuple[str, int], tuple[StudentRecipe, PreTrainedModel]] = {}
    layers_of: dict[Path, list[ChosenLayers]] = {}
    for job, _, _ in planned:
        if job.beginning not in begun:
            own_reader = readers[job.shape]
            start = trained_start(job.recipe, teacher, own_reader, folder / "students", progress=progress)
            student = build_start(start, teacher, own_reader, job.seed)
            plain = adapted_model(student)
            kept = kept_start(start, job.recipe, student, folder / "students")
            begun[job.beginning] = kept, outline_of(type(plain), plain.config)
            # Of every run that begins with this student, while it is here.
            chooser = LayerChooser(plain, own_reader, teacher)
            for mate, tasks, fingerprint in planned:
                if mate.beginning == job.beginning:
                    known = known_layers(mate.folder, fingerprint)
                    layers_of[mate.folder] = chooser.choose(mate.recipe, tasks) if known is None else known
                    teller.tell_layers(layers_of[mate.folder], f" in '{mate.variant}' with seed {mate.seed}")
    jobs = [replace(job, recipe=with_layers(job.recipe, layers_of[job.folder])) for job, _, _ in planned]
    starts, outlines = zip(*(begun[job.beginning] for job in jobs), strict=True)
    layers = {
        layer
        for job, outline in zip(jobs, outlines, strict=True)
        for _, layer in geometry_pairs(outline, teacher, readers[job.shape] or teacher.reader)
    }
    requests = collect_requests(jobs, outlines, teacher, readers)
    settings = jobs[0].recipe.teacher
    preparation = Preparation(teacher, settings, folder / "cache", requests=requests, progress=progress)
    prepared = []
    for job, (_, tasks, fingerprint), start, outline in zip(jobs, planned, starts, outlines, strict=True):
        chosen = layers_of[job.folder]
        run = preparation.run(job.recipe, tasks, outline, readers[job.shape], held_out=layers, layers=chosen)
        prepared.append(PreparedJob(job, fingerprint, replace(run, start=start)))
    return prepared


def is_finished(job: Job, fingerprint: str, *, onnx: bool = False) -> bool:
    """Tell whether a job's folder holds its very run, finished; with `onnx` also its ONNX file."""
    marker = job.folder / ENVIRONMENT
    if not (job.folder / RESULTS).is_file() or not marker.is_file():
        return False
    lacks_onnx = onnx and read_json(job.folder / RESULTS).get("onnx_difference") is None
    return not lacks_onnx and read_json(marker).get("fingerprint") == fingerprint


def collect_requests(
    jobs: Sequence[Job],
    students: Sequence[PreTrainedModel],
    teacher: PreparedTeacher,
    readers: Mapping[str, Reader | None],
) -> dict[str, list[Key]]:
    """Return, for each data section, all that any job wants for it of the teacher as it was given, so that one cache
    serves all: rows, and None for logits."""
    wanted: dict[str, dict[Key, None]] = {}
    for job, student in zip(jobs, students, strict=True):
        probes = (readers[job.shape] or teacher.reader).probe(), teacher.reader.probe()
        for stage in stages_before_learning(job.recipe):
            ours = wanted.setdefault(data_key(stage), {})
            requests = feature_requests(stage.objective, student, teacher.outline, *probes)
            ours |= dict.fromkeys([*requests, *([None] if asks_for_logits(stage) else [])])
    return {data: list(requests) for data, requests in wanted.items()}


def name_stages(jobs: Sequence[Job]) -> dict[str, str]:
    """Return a name for the data of every stage of any job, by its data section; the task's own has the task's name.

    Stages of one name that read other data are told apart by their variants.
    """
    names: dict[str, str] = {}
    for job in jobs:
        for stage in job.recipe.stages:
            taken = stage.name in names.values()
            name = f"{stage.name} of {job.variant}" if taken else stage.name
            names.setdefault(data_key(stage), TASK_STAGE if stage.data is None else name)
    return names


def comparison_tasks(jobs: Sequence[Job], task: Task) -> dict[str, Task]:
    """Load the data of every stage of any job, once, by the name of its data, beside the task itself."""
    names, tasks = name_stages(jobs), {TASK_STAGE: task}
    for job in jobs:
        for stage in job.recipe.stages:
            if names[data_key(stage)] not in tasks:
                alone = job.recipe.model_copy(update={"stages": [stage]})
                tasks[names[data_key(stage)]] = stage_tasks(alone, task)[stage.name]
    return tasks


def tasks_of(job: Job, names: Mapping[str, str], tasks: Mapping[str, Task]) -> dict[str, Task]:
    """Return the tasks of a job's stages and its own, of those that `comparison_tasks` loaded."""
    own = {stage.name: tasks[names[data_key(stage)]] for stage in job.recipe.stages}
    return {**own, TASK_STAGE: tasks[TASK_STAGE]}


def collect_read(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return what the finished jobs read, by stage, each record once, named as `comparison_tasks` names it."""
    found: dict[str, Any] = {}
    for job in jobs:
        for name, record in read_json(job.folder / RESULTS).get("read", {}).items():
            if found.setdefault(name, record) != record:
                found[f"{name} of {job.variant}"] = record
    return found


def read_run(job: Job, folder: Path, timed: Timed) -> ComparedRun:
    """Read what a finished job wrote in the folder of the comparison."""
    own = {"variant": job.variant, "seed": job.seed, "sweep": job.sweep, "latency_ms": timed.latency_ms}
    run = ComparedRun.from_dict(
        {**read_json(job.folder / RESULTS), **own, "folder": job.folder.relative_to(folder).as_posix()}
    )
    forms = [
        replace(timed.forms[form.name], agreement=form.agreement, difference=form.difference) for form in run.forms
    ]
    return replace(run, forms=forms)


def _with_teacher(job: Job, teacher: str) -> Job:
    given = as_given(job.recipe.teacher, teacher)
    return replace(job, recipe=job.recipe.model_copy(update={"teacher": given}))


def _workers(recipe: Recipe) -> int:
    chosen = (recipe.compare or default_comparison(recipe)).jobs
    if chosen is not None:
        return chosen
    return 1 if torch.accelerator.is_available() else min(MOST_JOBS, os.cpu_count() or 1)
