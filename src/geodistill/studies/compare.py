"""`geodistill compare`: one teacher, many runs, one table."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields, replace
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from geodistill.distillation.cache.plan import Key
from geodistill.distillation.devices import telling_of_memory
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.students.build import build_student
from geodistill.errors import GeodistillError
from geodistill.files import with_nan, write_json
from geodistill.recipe import TASK_STAGE, Recipe
from geodistill.runs.arguments import run_device
from geodistill.runs.folder import RESULTS, claimed, read_json, read_metrics
from geodistill.runs.identity import comparison_fingerprint
from geodistill.runs.precision import describe_precision, warn_of_slow_settings
from geodistill.runs.run_results import TeacherResult
from geodistill.runs.settings import check_settings
from geodistill.runs.student import start_student
from geodistill.runs.teacher import TaughtTask, as_given, prepare_teacher
from geodistill.runs.tell import Teller, records_of
from geodistill.runs.train import describe_teacher, measure_latency, stages_of, train
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.plan import Job, comparison_of, default_comparison, plan_jobs
from geodistill.studies.report.write import report_comparison
from geodistill.studies.table import ComparedRun
from geodistill.tasks.choose import stage_tasks, task_of
from geodistill.tasks.reading import student_tokenizer
from geodistill.tasks.task import Task

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}]"
MOST_JOBS = 4  # beyond, small students wait for memory bandwidth rather than cores


@telling_of_memory()
def compare(
    recipe: Recipe,
    folder: Path,
    *,
    sweeps: Mapping[str, Sequence[Any]] | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> ComparisonResults:
    """Run every variant with every seed against one teacher, write a report, and return what each run reached on the
    test split.

    Finished runs in the folder are read, not repeated, so an interrupted comparison goes on and a variant may be added
    to a finished one. Runs go side by side in processes of their own. The teacher is trained once and its signals are
    kept on disk until the last run is done.

    Raises GeodistillError for whatever the user can mend; a run that fails does not stop the others.
    """
    jobs = plan_jobs(recipe, folder, sweeps)
    for job in jobs:
        if job.seed == jobs[0].seed:
            # These refuse what its run would, before the teacher is fine-tuned.
            check_settings(job.recipe)
            student_tokenizer(job.recipe)
    task = task_of(recipe)
    content, precision = recipe.model_dump(mode="json"), describe_precision(recipe, run_device())
    with claimed(folder, content, comparison_fingerprint(recipe, task), fresh=fresh, precision=precision):
        return _compare(recipe, folder, jobs, task, progress=progress)


def _compare(recipe: Recipe, folder: Path, jobs: list[Job], task: Task, *, progress: bool) -> ComparisonResults:
    teller = Teller(progress)
    warn_of_slow_settings(recipe, run_device())
    teller.tell(records_of(comparison_tasks(jobs, task)))
    taught = prepare_teacher(recipe.teacher, task, folder / "teacher", progress=progress)
    teller.tell({TASK_STAGE: task.record}, " with the teacher")
    jobs = [_with_teacher(job, taught.folder) for job in jobs]

    for job in {_shape(job): job for job in jobs if job.recipe.student.training}.values():
        # Once, before the runs need it, and with all cores.
        start_student(job.recipe, taught, student_tokenizer(job.recipe), folder / "students", progress=progress)

    run_jobs(jobs, folder, collect_requests(jobs, taught.model), workers=_workers(recipe), progress=progress)

    shutil.rmtree(folder / "cache", ignore_errors=True)
    latencies = time_students(jobs, taught)
    results = ComparisonResults(
        folder=folder,
        baseline=comparison_of(recipe).baseline,
        metrics=list(task.metrics),
        constant=task.constant("test") if task.labelled else None,
        read=collect_read(jobs),
        teacher=TeacherResult(**describe_teacher(taught, timed=True)),
        runs=[read_run(job, folder, latencies[_shape(job)]) for job in jobs],
    )
    write_json(folder / RESULTS, results.to_dict())
    report_comparison(results, recipe)
    return results


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    requests: Mapping[str, Sequence[Key]],
    *,
    workers: int,
    progress: bool,
) -> None:
    """Run the jobs in worker processes, each with its share of the cores, under one progress bar with the time left."""
    # What torch would use here, so that OMP_NUM_THREADS and the cores of a container are heeded.
    threads = max(1, torch.get_num_threads() // workers)
    # Fresh processes: a fork of a process that has used several threads can hang in the first matrix product.
    context = multiprocessing.get_context("spawn")
    failures: list[tuple[Job, BaseException]] = []
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(threads,)) as pool,
        tqdm(total=len(jobs), desc="runs", disable=not progress, bar_format=BAR) as bar,
    ):
        try:
            running: dict[Future[None], Job] = {pool.submit(_run_job, job, folder, requests): job for job in jobs}
            finished = 0
            while running:
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    job = running.pop(future)
                    finished += 1
                    if error := future.exception():
                        failures.append((job, error))
                bar.n = round(finished + sum(_share_done(job) for job in running.values()), 2)
                bar.refresh()
        except BrokenProcessPool as broken:  # a worker ended before all runs were handed out
            raise killed_worker(jobs[:workers]) from broken
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    lost = [job for job, error in failures if isinstance(error, BrokenProcessPool)]
    if lost:  # runs begin in the order of the jobs, so the first of them were under way
        raise killed_worker(sorted(lost, key=jobs.index)[:workers])
    if failures:
        job, error = failures[0]
        if not isinstance(error, GeodistillError):
            raise error
        raise GeodistillError(
            f"{len(failures)} of {len(jobs)} runs failed; the first, '{job.variant}' with seed {job.seed}: "
            f"{error.problem}",
            f"{error.remedy} The other runs are kept: mend the recipe and run the same command again.",
        )


def killed_worker(jobs: Sequence[Job]) -> GeodistillError:
    """Say which runs were under way when a worker process ended without a word, and what to lower."""
    runs = "; ".join(f"'{job.variant}' with seed {job.seed}" for job in jobs)
    under_way = f"this run was under way: {runs}" if len(jobs) == 1 else f"one of these runs was under way: {runs}"
    side_by_side = f"compare.jobs (runs side by side, now {len(jobs)}), " if len(jobs) > 1 else ""
    return GeodistillError(
        f"A worker process was killed while {under_way}; most often the system does that because memory ran out.",
        f"Lower {side_by_side}training.batch_size or data.max_length, and run the same command again: finished runs "
        "are kept.",
    )


def start_worker(threads: int) -> None:
    """Give a worker process its share of the cores, and let it end where the comparison does, however that ends."""
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)  # at once: someone may be starting the comparison again, in the same folders


def collect_requests(jobs: Sequence[Job], teacher: PreTrainedModel) -> dict[str, list[Key]]:
    """Return, for each data section, all that any job wants of the teacher for it, so that one cache serves all: rows,
    and None for logits."""
    wanted: dict[str, dict[Key, None]] = {}
    for job in jobs:
        student = build_student(job.recipe.student, teacher, seed=job.seed)
        for stage in stages_of(job.recipe):
            ours = wanted.setdefault(stage.data.model_dump_json(), {})
            ours |= dict.fromkeys(feature_requests(stage.objective, student, teacher))
            ours |= {None: None} if stage.objective.logits else {}
    return {data: list(requests) for data, requests in wanted.items()}


def comparison_tasks(jobs: Sequence[Job], task: Task) -> dict[str, Task]:
    """Load the data of every stage of any job, once, by a name for each, beside the task itself.

    Stages of one name that read other data are told apart by their variants.
    """
    tasks, data = {TASK_STAGE: task}, {TASK_STAGE: task.record.source}
    for job in jobs:
        for stage in job.recipe.stages:
            content = stage.data.model_dump_json()
            name = stage.name if data.setdefault(stage.name, content) == content else f"{stage.name} of {job.variant}"
            if name not in tasks:
                data[name] = content
                tasks[name] = stage_tasks(job.recipe.model_copy(update={"stages": [stage]}), task)[stage.name]
    return tasks


def collect_read(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return what the finished jobs read, by stage, each record once, named as `comparison_tasks` names it."""
    found: dict[str, Any] = {}
    for job in jobs:
        for name, record in read_json(job.folder / RESULTS).get("read", {}).items():
            if found.setdefault(name, record) != record:
                found[f"{name} of {job.variant}"] = record
    return found


def read_run(job: Job, folder: Path, latency_ms: float) -> ComparedRun:
    """Read what a finished job wrote in the folder of the comparison."""
    results = read_json(job.folder / RESULTS) | {"latency_ms": latency_ms}
    results |= {"metrics": with_nan(results["metrics"]), "geometry": [with_nan(pair) for pair in results["geometry"]]}
    results["folder"] = job.folder.relative_to(folder).as_posix()
    names = {field.name for field in fields(ComparedRun)} & results.keys() - {"seed"}
    return ComparedRun(variant=job.variant, seed=job.seed, sweep=job.sweep, **{name: results[name] for name in names})


def _run_job(job: Job, folder: Path, requests: Mapping[str, Sequence[Key]]) -> None:
    # The folder is the comparison's own, so what another recipe left there is replaced.
    train(job.recipe, job.folder, replace=True, shared=folder, requests=requests, progress=False)


def _with_teacher(job: Job, teacher: str) -> Job:
    given = as_given(job.recipe.teacher, teacher)
    return replace(job, recipe=job.recipe.model_copy(update={"teacher": given}))


def time_students(jobs: Sequence[Job], taught: TaughtTask) -> dict[str, float]:
    """Return the latency of each shape of student, taken now that nothing runs beside it."""
    latencies: dict[str, float] = {}
    for job in jobs:
        if _shape(job) not in latencies:
            student = taught.task.load_model(
                str(job.folder / "student"), new_head=False, trust=job.recipe.trusts_student
            )
            tokenizer, encoded = taught.as_read_by(student, student_tokenizer(job.recipe))
            latencies[_shape(job)] = measure_latency(student, taught.task, tokenizer, encoded)
    return latencies


def _shape(job: Job) -> str:
    return job.recipe.student.model_dump_json()


def _workers(recipe: Recipe) -> int:
    chosen = (recipe.compare or default_comparison(recipe)).jobs
    if chosen is not None:
        return chosen
    return 1 if torch.accelerator.is_available() else min(MOST_JOBS, os.cpu_count() or 1)


def _share_done(job: Job) -> float:
    names = [stage.name for stage in stages_of(job.recipe)]
    # Until its job begins, a folder may hold another run, with stages of other names.
    entries = [entry for entry in read_metrics(job.folder) if entry["stage"] in names]
    if not entries:
        return 0.0
    return (names.index(entries[-1]["stage"]) + entries[-1]["done"]) / len(names)
