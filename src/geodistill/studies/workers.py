"""The processes in which the runs of a comparison go side by side."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from geodistill.errors import GeodistillError
from geodistill.runs.folder import read_metrics
from geodistill.runs.prepare import (
    PreparedRun,
    stages_of,
)
from geodistill.runs.train import train_prepared
from geodistill.studies.plan import Job

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}]"


class PreparedJob(NamedTuple):
    """A job, the fingerprint of its run, and what was made for it."""

    job: Job
    fingerprint: str
    run: PreparedRun


def run_jobs(
    prepared: Sequence[PreparedJob], *, workers: int, done: int = 0, onnx: bool = False, progress: bool
) -> None:
    """Run the jobs in worker processes, each with its share of the cores, under one progress bar with the time left.

    done: how many other jobs are finished already
    """
    jobs = [each.job for each in prepared]
    # What torch would use here, so that OMP_NUM_THREADS and the cores of a container are heeded.
    threads = max(1, torch.get_num_threads() // workers)
    # Fresh processes: a fork of a process that has used several threads can hang in the first matrix product.
    context = multiprocessing.get_context("spawn")
    failures: list[tuple[Job, BaseException]] = []
    with (
        ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(threads,)) as pool,
        tqdm(total=done + len(jobs), initial=done, desc="runs", disable=not progress, bar_format=BAR) as bar,
    ):
        try:
            running: dict[Future[None], Job] = {pool.submit(_run_job, each, onnx): each.job for each in prepared}
            finished = done
            while running:
                ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in ended:
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
        job, error = min(failures, key=lambda failure: jobs.index(failure[0]))
        if not isinstance(error, GeodistillError):
            raise error
        raise GeodistillError(
            f"{len(failures)} of {len(jobs)} runs failed; the first, '{job.variant}' with seed {job.seed}: "
            f"{error.problem}",
            f"{error.remedy} The other runs are kept: fix the recipe and run the same command again.",
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
    """Give a worker process its share of the cores, and let it end with the comparison, however that ends."""
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)  # at once: someone may be starting the comparison again, in the same folders


def _run_job(prepared: PreparedJob, onnx: bool) -> None:
    job, fingerprint, run = prepared
    train_prepared(job.recipe, job.folder, run, fingerprint, onnx=onnx)


def _share_done(job: Job) -> float:
    names = [stage.name for stage in stages_of(job.recipe)]
    # Until its job begins, a folder may hold another run, with stages of other names.
    entries = [entry for entry in read_metrics(job.folder) if entry["stage"] in names]
    if not entries:
        return 0.0
    return (names.index(entries[-1]["stage"]) + entries[-1]["done"]) / len(names)
