"""One run, from a recipe to a folder: read this file top to bottom to know what `geodistill train` does."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from geodistill.distillation.cache.format import TopK
from geodistill.distillation.cache.plan import Key
from geodistill.distillation.cache.teacher_cache import prepare_cache
from geodistill.distillation.devices import telling_of_memory
from geodistill.distillation.export import export_student
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.sharding import whole_model
from geodistill.distillation.signals import NoTeacher, SignalSource, Teacher, model_inputs, teacher_view
from geodistill.distillation.students.adapters import Student, adapted_model, merge_adapters
from geodistill.distillation.students.architecture import check_logits_of_tokens, tokenizer_length
from geodistill.distillation.students.build import count_parameters, size_in_megabytes
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.features import is_causal
from geodistill.files import finite, write_json
from geodistill.recipe import TASK_STAGE, LogitTerm, Recipe, StageRecipe, StudentRecipe
from geodistill.runs.arguments import (
    StepBar,
    placed,
    processes,
    run_device,
    send,
    train_to_the_end,
    training_arguments,
)
from geodistill.runs.cost import Cost, peak_megabytes, reset_peak_memory
from geodistill.runs.folder import RESULTS, MetricsFile, claimed, read_json
from geodistill.runs.identity import run_fingerprint, student_side
from geodistill.runs.measure import measure_geometry
from geodistill.runs.precision import describe_precision, slow_settings, warn_of_slow_settings
from geodistill.runs.run_results import RunResults
from geodistill.runs.settings import check_settings
from geodistill.runs.student import start_student
from geodistill.runs.teacher import TaughtTask, prepare_teacher
from geodistill.runs.tell import Teller, records_of
from geodistill.tasks.choose import stage_tasks, task_of
from geodistill.tasks.loading import load_tokenizer
from geodistill.tasks.positions import shared_position_limit
from geodistill.tasks.reading import Reading, read, student_tokenizer
from geodistill.tasks.task import Encoded, Scores, Task


@telling_of_memory()
def train(
    recipe: Recipe,
    folder: Path,
    *,
    fresh: bool = False,
    replace: bool = False,
    onnx: bool = False,
    shared: Path | None = None,
    requests: Mapping[str, Sequence[Key]] | None = None,
    progress: bool = True,
) -> RunResults | None:
    """Train one student, measure it on the test split after its last epoch, and write the run folder.

    A run that is finished is read, not repeated; one that was interrupted goes on from its newest checkpoint.
    `fresh` starts over, `replace` does so only where the folder holds another run. `shared` is where the teacher and
    its cached signals are kept, the run folder by default; `requests` are, by data section, the rows that other runs
    want of the same cache, and None where they want logits.

    Returns what it writes to results.json, and None on every rank but the main one. Raises GeodistillError for
    whatever the user can mend.
    """
    shared = shared or folder
    check_settings(recipe)
    own_tokenizer = student_tokenizer(recipe)
    tasks = stage_tasks(recipe, task_of(recipe))
    fingerprint = run_fingerprint(recipe, tasks)
    content = recipe.model_dump(mode="json", exclude={"compare"})
    precision = describe_precision(recipe, run_device())  # refuses what this machine cannot do
    with ExitStack() as held:
        with processes().main_process_first():
            if processes().is_main_process:  # it holds the folder for the others
                held.enter_context(
                    claimed(folder, content, fingerprint, fresh=fresh, replace=replace, precision=precision)
                )
        if (folder / RESULTS).is_file():
            if not processes().is_main_process:
                return None
            found = finished_run(folder, tasks[TASK_STAGE], onnx=onnx, trust=recipe.trusts_student)
        else:
            found = _train(
                recipe, folder, tasks, own_tokenizer, fingerprint, shared, requests, onnx=onnx, progress=progress
            )
        return RunResults.from_dict(folder, found) if found else None


def _train(
    recipe: Recipe,
    folder: Path,
    tasks: Mapping[str, Task],
    own_tokenizer: PreTrainedTokenizerBase | None,
    fingerprint: str,
    shared: Path,
    requests: Mapping[str, Sequence[Key]] | None,
    *,
    onnx: bool,
    progress: bool,
) -> dict[str, Any]:
    """Train, measure and write a run that is not finished, in a folder that is ours: see `train`."""
    task = tasks[TASK_STAGE]
    teller = Teller(progress)
    if progress:
        warn_of_slow_settings(recipe, run_device())
    teller.tell(records_of(tasks))
    taught = prepare_teacher(recipe.teacher, task, shared / "teacher", progress=progress)
    teller.tell({TASK_STAGE: task.record}, " with the teacher")
    tokenizer = taught.tokenizer if own_tokenizer is None else own_tokenizer
    student = start_student(recipe, taught, own_tokenizer, shared / "students", progress=progress)

    cost = Cost()
    reset_peak_memory()
    skipped = starved = 0
    geometry: dict[str, str] = {}
    for stage in stages_of(recipe):
        wanted = (requests or {}).get(stage.data.model_dump_json(), ())
        rows = {request.rows for request in wanted if request is not None}
        rows |= {term.rows for term in stage.objective.features}
        reading = read(tasks[stage.name], taught, adapted_model(student), tokenizer, words="words" in rows)
        trainer = train_stage(stage, recipe, student, taught, reading, folder, shared / "cache", wanted, cost, progress)
        student = whole_model(student)
        geometry[stage.name] = trainer.geometry
        skipped += trainer.skipped_steps
        starved += trainer.starved_terms
    student = merge_adapters(student)
    memory = peak_megabytes()

    alone = requests is None  # beside other runs a latency would tell of them too
    results: dict[str, Any] = {}
    if processes().is_main_process:
        send(student, run_device()).eval()
        send(taught.model, run_device())
        measured = measure_student(student, taught, reading, progress, timed=alone)  # the task is the last stage
        results = {
            "fingerprint": fingerprint,
            "seed": recipe.training.seed,
            "data_fingerprint": task.fingerprint,
            "positions": shared_position_limit(adapted_model(student), taught.model),
            "epoch": "last",
            "precision": describe_precision(recipe, run_device()),
            "split": "test" if task.labelled else "validation",
            **measured,
            "read": {name: record.to_dict() for name, record in records_of(tasks).items()},
            "notes": [*data_notes(tasks), *slow_settings(recipe, run_device()), *measured["notes"]],
            "teacher": describe_teacher(taught, timed=alone),
            "training_seconds": cost.seconds,
            "tokens_per_second": cost.tokens_per_second,
            "peak_megabytes": memory,
            "feature_batch": geometry,
            "skipped_steps": skipped,
            "starved_terms": starved,
        }
        results["onnx_difference"] = export_student(student, tokenizer, folder / "student", onnx=onnx)
        results = finite(results)  # what is read from the file later is the same
        write_json(folder / RESULTS, results)
        if shared == folder:
            shutil.rmtree(folder / "cache", ignore_errors=True)
    processes().wait_for_everyone()
    return results


def finished_run(folder: Path, task: Task, *, onnx: bool, trust: bool) -> dict[str, Any]:
    """Read the results of a finished run, adding the ONNX file when it is asked for only now."""
    results = read_json(folder / RESULTS)
    if onnx and results.get("onnx_difference") is None:
        student = task.load_model(str(folder / "student"), new_head=False, trust=trust)
        tokenizer = load_tokenizer(str(folder / "student"), trust=trust)
        results["onnx_difference"] = export_student(student, tokenizer, folder / "student", onnx=True)
        write_json(folder / RESULTS, results)
    return results


def stages_of(recipe: Recipe) -> list[StageRecipe]:
    """Return the recipe's stages in order, the task itself last."""
    task = StageRecipe(name=TASK_STAGE, data=recipe.data, objective=recipe.objective, training=recipe.training)
    return [*recipe.stages, task]


def data_notes(tasks: Mapping[str, Task]) -> list[str]:
    """Return what was done to the data of the task and, by name, of each stage: one sentence each."""
    stages = [f"Stage '{name}': {note}" for name, task in tasks.items() if name != TASK_STAGE for note in task.notes]
    return [*tasks[TASK_STAGE].notes, *stages]


def train_stage(
    stage: StageRecipe,
    recipe: Recipe,
    student: Student,
    taught: TaughtTask,
    reading: Reading,
    folder: Path,
    cache: Path,
    requests: Sequence[Key],
    cost: Cost,
    progress: bool,
) -> DistillationTrainer:
    """Train the student through one stage, going on from the stage's newest checkpoint if there is one."""
    task = reading.task
    paired = reading.tokenizer is not taught.tokenizer
    checkpoints = folder / "checkpoints" / stage.name
    training = stage.training.model_copy(update={"seed": recipe.training.seed})
    arguments = training_arguments(training, checkpoints)
    wanted = feature_requests(stage.objective, student, taught.model)
    rows = {*wanted, *(request for request in requests if request is not None)}
    logits = stage.objective.logits is not None or None in requests
    vocabulary = None if paired else vocabulary_of(adapted_model(student), taught)
    online = Teacher(
        taught.model, sorted(rows, key=str), precision=recipe.teacher.precision, logits=logits, vocabulary=vocabulary
    )
    teacher: SignalSource = online.to(arguments.device)
    with processes().main_process_first():
        learnt = task.learnt(
            reading.examples["train"],
            taught.model,
            taught.tokenizer,
            positions=shared_position_limit(adapted_model(student), taught.model),
            teacher_side=taught.side,
            folder=cache,
            progress=progress,
        )
    if not wanted and stage.objective.logits is None:
        teacher = NoTeacher()
    elif recipe.teacher.cache:
        top_k = kept_logits(stage, recipe.teacher.cache_top_k)
        with processes().main_process_first():
            teacher = prepare_cache(
                cache / cache_name(task, top_k, recipe.student if paired else None),
                online,
                [teacher_view(example) for example in learnt],
                reading.collate_taught,
                dtype=recipe.teacher.cache_dtype,
                variance=recipe.teacher.cache_variance,
                top_k=top_k,
                limit_bytes=int(recipe.teacher.cache_limit_gb * 1e9),
                progress=progress,
            ).select(wanted)
    trainer = DistillationTrainer(
        student,
        arguments,
        teacher_model=teacher,
        terms=stage.objective.terms,
        train_dataset=learnt,
        eval_dataset=reading.examples["validation"],
        data_collator=reading.collate,
        compute_metrics=task.compute_metrics(reading.encoded["validation"]),
        callbacks=[MetricsFile(folder, stage.name), cost, *([StepBar(stage.name)] if progress else [])],
    )
    train_to_the_end(trainer, checkpoints)
    return trainer


def vocabulary_of(student: PreTrainedModel, taught: TaughtTask) -> int | None:
    """Return how many logits of two language models stand for a token of their tokenizer; None for other models."""
    if not is_causal(taught.model):
        return None
    check_logits_of_tokens(student, taught.tokenizer, "student")
    check_logits_of_tokens(taught.model, taught.tokenizer, "teacher")
    return tokenizer_length(taught.tokenizer)


def kept_logits(stage: StageRecipe, k: int | None) -> TopK | None:
    """How the stage's cached logits are cut; one without a logit term shares the cache of the default temperature."""
    return None if k is None else TopK(k, (stage.objective.logits or LogitTerm()).temperature)


def cache_name(task: Task, top_k: TopK | None, paired: StudentRecipe | None = None) -> str:
    """The folder of a task's cache; those of other cuts, and of words paired with a student's, lie beside it, so that
    variants do not overwrite each other."""
    name = task.fingerprint[:12]
    if paired is not None and (side := student_side(paired)) is not None:
        name += f"-{side[:6]}"
    return name if top_k is None else f"{name}-top-{top_k.k}-at-{top_k.temperature:g}"


def measure_student(
    student: PreTrainedModel, taught: TaughtTask, reading: Reading, progress: bool, *, timed: bool
) -> dict[str, Any]:
    """Return the student's metrics and geometry on the test split, its size and, if it is timed, its speed."""
    task, split = taught.task, "test" if taught.task.labelled else "validation"
    found = Scores()
    if task.labelled:
        found = task.score(student, reading.tokenizer, reading.encoded, split, progress=progress)
    validation = task.validate(student, reading.tokenizer, reading.encoded)
    constant = task.constant(split)
    return {
        "metrics": found.metrics,
        "constant": None if constant is None else asdict(constant),
        "validation_metrics": validation.metrics,
        "details": found.details,
        "notes": [f"The student {note}." for note in found.notes],
        "geometry": measure_geometry(
            student,
            taught.model,
            reading.examples[split],
            reading.collate,
            rows=reading.rows,
            most=task.measured,
        ),
        "parameters": count_parameters(student),
        "megabytes": size_in_megabytes(student),
        "latency_ms": measure_latency(student, task, reading.tokenizer, reading.encoded) if timed else None,
    }


def describe_teacher(taught: TaughtTask, *, timed: bool) -> dict[str, Any]:
    """Return the teacher's metrics on the test split, its size and, if it is timed, its speed."""
    return {
        "name": f"teacher: {Path(taught.name).name}",
        "metrics": taught.scores.metrics,
        "notes": [f"The teacher {note}." for note in taught.scores.notes],
        "parameters": count_parameters(taught.model),
        "megabytes": size_in_megabytes(taught.model),
        "latency_ms": measure_latency(taught.model, taught.task, taught.tokenizer, taught.encoded) if timed else None,
        "training_seconds": taught.training_seconds,
    }


@torch.no_grad()
def measure_latency(
    model: PreTrainedModel, task: Task, tokenizer: PreTrainedTokenizerBase, encoded: Encoded, repeats: int = 30
) -> float:
    """Return the median milliseconds for one example on the CPU, one at a time, over the first of validation."""
    model.eval()
    examples, collate = encoded["validation"][:repeats], task.collator(tokenizer)
    times = []
    with placed(model, torch.device("cpu")):
        for example in [*examples[:5], *examples]:  # the first five warm up
            inputs = model_inputs(model, collate([example]))
            started = time.perf_counter()
            model(**inputs)
            times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times[5:] or times)
