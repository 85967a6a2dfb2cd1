"""One run, from a recipe to a folder: read this file top to bottom to know what `geodistill train` does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from geodistill.distillation.devices import telling_of_memory
from geodistill.distillation.export import export_student, no_integers_of_decoders
from geodistill.distillation.model_card import StudentFacts
from geodistill.distillation.onnx_file import require_onnx
from geodistill.distillation.sharding import whole_model
from geodistill.distillation.sides import Reader
from geodistill.distillation.students.adapters import Student, adapted_model, merge_adapters
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.files import finite, write_json, write_lines
from geodistill.quantization import is_quantized
from geodistill.recipe import TASK_STAGE, Recipe, StageRecipe
from geodistill.runs.arguments import (
    StepBar,
    placed,
    processes,
    run_device,
    send,
    train_to_the_end,
    training_arguments,
)
from geodistill.runs.automatic_layers import LayerChooser, keep_layers, known_layers, with_layers
from geodistill.runs.cost import Cost, peak_megabytes, reset_peak_memory
from geodistill.runs.folder import RECIPE, RESULTS, TEST_PREDICTIONS, MetricsFile, claimed, read_json
from geodistill.runs.forms import Form, compare_forms, measure_forms
from geodistill.runs.identity import run_fingerprint
from geodistill.runs.measure import describe_teacher, measure_student, validate_teacher
from geodistill.runs.precision import describe_precision, slow_settings, warn_of_slow_settings
from geodistill.runs.prepare import (
    Preparation,
    PreparedRun,
    PreparedStage,
    stages_of,
)
from geodistill.runs.quantize import quantize_student
from geodistill.runs.recipe_file import check_names, load_recipe
from geodistill.runs.run_results import RunResults
from geodistill.runs.settings import check_settings
from geodistill.runs.student import build_start, start_student
from geodistill.runs.teacher import PreparedTeacher, prepare_teacher
from geodistill.runs.tell import Teller, own_data, records_of
from geodistill.tasks.choose import TASKS, stage_tasks, task_of
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.reading import student_reader
from geodistill.tasks.task import Task, measured_split


@telling_of_memory()
def train(
    recipe: Recipe,
    folder: Path,
    *,
    fresh: bool = False,
    replace: bool = False,
    onnx: bool = False,
    shared: Path | None = None,
    progress: bool = True,
) -> RunResults | None:
    """Train one student, measure it on the test split after its last epoch, and write the run folder.

    A run that is finished is read, not repeated; one that was interrupted goes on from its newest checkpoint.
    `fresh` starts over, `replace` does so only if the folder holds another run. `shared` is where the teacher and
    its cached signals are kept, the run folder by default.

    Returns what it writes to results.json, and None on every rank but the main one. Raises GeodistillError for
    whatever the user can fix.
    """
    shared = shared or folder
    recipe = check_names(recipe)
    check_settings(recipe)
    if onnx:
        check_onnx(recipe)
    tasks = stage_tasks(recipe, task_of(recipe))
    own_reader = student_reader(recipe, tasks[TASK_STAGE])
    fingerprint = run_fingerprint(recipe, tasks)
    with held_folder(recipe, folder, fingerprint, fresh=fresh, replace=replace):
        if (folder / RESULTS).is_file():
            found = finished_run(folder, tasks[TASK_STAGE], onnx=onnx, trust=recipe.trusts_student)
            return RunResults.from_dict(folder, found) if found else None
        teller = Teller(progress)
        if progress:
            warn_of_slow_settings(recipe, run_device())
        teller.tell(records_of(tasks))
        teacher = prepare_teacher(recipe.teacher, tasks[TASK_STAGE], shared / "teacher", progress=progress)
        teller.tell({TASK_STAGE: tasks[TASK_STAGE].record}, " with the teacher")
        student = start_student(recipe, teacher, own_reader, shared / "students", progress=progress)
        chosen = known_layers(folder, fingerprint)
        if chosen is None:
            chosen = LayerChooser(adapted_model(student), own_reader, teacher).choose(recipe, tasks)
        teller.tell_layers(chosen)
        recipe = with_layers(recipe, chosen)
        preparation = Preparation(teacher, recipe.teacher, shared / "cache", progress=progress)
        prepared = preparation.run(recipe, tasks, adapted_model(student), own_reader, layers=chosen)
        results = distil(recipe, folder, prepared, student, fingerprint, onnx=onnx, progress=progress)
        if processes().is_main_process and shared == folder:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        return RunResults.from_dict(folder, results) if results else None


def train_prepared(
    recipe: Recipe, folder: Path, prepared: PreparedRun, fingerprint: str, *, onnx: bool = False
) -> None:
    """Train one run of a comparison, beside others and without a word: `prepared` is what was made for it before.

    The folder is the comparison's own, so what another recipe left there is replaced.
    """
    with held_folder(recipe, folder, fingerprint, replace=True):
        if (folder / RESULTS).is_file():
            finished_run(folder, prepared.reading.task, onnx=onnx, trust=recipe.trusts_student, alone=False)
            return
        assert prepared.start is not None
        own_reader = None if prepared.reader is prepared.teacher.reader else prepared.reader
        student = build_start(prepared.start, prepared.teacher, own_reader, recipe.training.seed)
        distil(recipe, folder, prepared, student, fingerprint, alone=False, onnx=onnx, progress=False)


def check_onnx(recipe: Recipe) -> None:
    """Raise GeodistillError, before anything is trained, if ONNX cannot be written in the end."""
    require_onnx()
    if TASKS[recipe.task].scores_tokens and recipe.quantizations:
        raise no_integers_of_decoders()


@contextmanager
def held_folder(
    recipe: Recipe, folder: Path, fingerprint: str, *, fresh: bool = False, replace: bool = False
) -> Iterator[None]:
    """Hold the folder of a run for all of its processes; see `claimed`."""
    # What was chosen when the run began stays in its recipe.
    known = with_layers(recipe, known_layers(folder, fingerprint) or [])
    content = known.model_dump(mode="json", exclude={"compare"})
    precision = describe_precision(recipe, run_device())  # refuses what this machine cannot do
    with ExitStack() as held:
        with processes().main_process_first():
            if processes().is_main_process:  # it holds the folder for the others
                held.enter_context(
                    claimed(folder, content, fingerprint, fresh=fresh, replace=replace, precision=precision)
                )
        yield


def distil(
    recipe: Recipe,
    folder: Path,
    prepared: PreparedRun,
    student: Student,
    fingerprint: str,
    *,
    alone: bool = True,
    onnx: bool = False,
    progress: bool,
) -> dict[str, Any]:
    """Train, measure and write a run that is not finished, in a folder that is ours.

    alone: whether no other run goes on beside this one, whose latency would tell of both
    """
    if prepared.layers and processes().is_main_process:
        keep_layers(folder, fingerprint, recipe, prepared.layers)
    cost = Cost()
    reset_peak_memory()
    skipped = starved = 0
    geometry: dict[str, str] = {}
    teacher = prepared.teacher
    learned: list[str] = []
    if recipe.learning_stages and not alone:
        # A copy, whose weights it loads itself: it will not be the teacher of the other runs.
        teacher = replace(teacher)
        prepared = replace(prepared, teacher=teacher)
    before = validate_teacher(teacher) if recipe.learning_stages else {}
    for stage in stages_of(recipe):
        ready = prepared.stages[stage.name]
        if learned and stage.teacher_objective is None:
            place = folder / "cache" / f"stage-{stage.name}"
            ready = ready.answered(stage, teacher, recipe.teacher, place, progress=progress)
        if stage.quantization is not None and not is_quantized(student):
            quantize_student(adapted_model(student), stage.quantization, ready.reading, ready.learnt)
        if stage.training.epochs == 0:
            continue  # rounded after training
        trainer = train_stage(stage, recipe, student, ready, teacher, folder, cost, progress)
        student = whole_model(student)
        geometry[stage.name] = trainer.geometry
        skipped += trainer.skipped_steps
        starved += trainer.starved_terms
        if stage.teacher_objective is not None:
            learned.append(stage.name)
    student = merge_adapters(student)
    memory = peak_megabytes()

    tasks, reading = prepared.tasks, prepared.reading
    results: dict[str, Any] = {}
    if processes().is_main_process:
        send(student, run_device()).eval()
        measured, lines = measure_student(student, prepared, progress, timed=alone)
        results = {
            "fingerprint": fingerprint,
            "seed": recipe.training.seed,
            "data_fingerprint": reading.task.fingerprint,
            "positions": prepared.positions,
            "epoch": "last",
            "precision": describe_precision(recipe, run_device()),
            "split": measured_split(reading.task),
            **measured,
            "read": {name: record.to_dict() for name, record in records_of(tasks).items()},
            "layers": [asdict(each) for each in prepared.layers],
            "notes": [
                *data_notes(tasks),
                *(each.note for each in prepared.layers),
                *slow_settings(recipe, run_device()),
                *measured["notes"],
            ],
            "teacher": describe_teacher(prepared.teacher, timed=alone),
            "training_seconds": cost.seconds,
            "tokens_per_second": cost.tokens_per_second,
            "peak_megabytes": memory,
            "feature_batch": geometry,
            "skipped_steps": skipped,
            "starved_terms": starved,
            "learned_teacher": {"before": before, "after": validate_teacher(teacher)} if learned else None,
        }
        if learned:
            said = " and ".join(map(repr, learned))
            results["notes"].append(f"The teacher learned in {said}; the geometry is to the teacher after it.")
        facts, examples = StudentFacts(recipe, results), reading.encoded[results["split"]]
        results |= write_student(student, prepared.reader, examples, folder, facts, onnx=onnx, timed=alone)
        results = finite(results)  # what is read from the file later is the same
        if lines:
            write_lines(folder / TEST_PREDICTIONS, lines)
        write_json(folder / RESULTS, results)
        if learned:
            shutil.rmtree(folder / "cache", ignore_errors=True)
    processes().wait_for_everyone()
    return results


def write_student(
    student: PreTrainedModel,
    reader: Reader,
    examples: Sequence[Any],
    folder: Path,
    facts: StudentFacts,
    *,
    onnx: bool,
    timed: bool,
) -> dict[str, Any]:
    """Write a student and its model card to the folder of its run, and return what there is to tell of its ONNX file:
    how far it is from the student and, for a quantised one, the forms of the student, which are compared on
    `examples`."""
    place = folder / "student"
    found = export_student(student, reader, place, onnx=onnx, examples=examples, facts=facts)
    forms: list[Form] = []
    if found is not None and is_quantized(student):
        with placed(student, torch.device("cpu")):
            forms = compare_forms(student, reader, examples, found)
            forms = measure_forms(forms, student, reader, examples, place) if timed else forms
    return {
        "onnx_difference": None if found is None else found.difference,
        "forms": [asdict(form) for form in forms],
    }


def finished_run(folder: Path, task: Task, *, onnx: bool, trust: bool, alone: bool = True) -> dict[str, Any]:
    """Read the results of a finished run, adding the ONNX file when it is asked for only now.

    alone: whether no other run goes on beside it
    """
    if not processes().is_main_process:
        return {}
    results = read_json(folder / RESULTS)
    if onnx and results.get("onnx_difference") is None:
        source = ModelSource(str(folder / "student"), trust_remote_code=trust)
        student, reader = task.load_model(source, new_head=False), task.load_reader(source)
        examples = task.encode(student, reader, positions=results["positions"])[results["split"]]
        facts = StudentFacts(load_recipe(folder / RECIPE), results)
        results |= write_student(student.eval(), reader, examples, folder, facts, onnx=True, timed=alone)
        write_json(folder / RESULTS, results)
    return results


def data_notes(tasks: Mapping[str, Task]) -> list[str]:
    """Return what was done to the data of the task and, by name, of each stage that has its own: one sentence each."""
    stages = [f"Stage '{name}': {note}" for name, task in own_data(tasks).items() for note in task.notes]
    return [*tasks[TASK_STAGE].notes, *stages]


def train_stage(
    stage: StageRecipe,
    recipe: Recipe,
    student: Student,
    ready: PreparedStage,
    teacher: PreparedTeacher,
    folder: Path,
    cost: Cost,
    progress: bool,
) -> DistillationTrainer:
    """Train the student through one stage, going on from the stage's newest checkpoint if there is one; with it the
    teacher, if the stage has an objective for it."""
    reading = ready.reading
    # The cache is of unchanged examples. Then no variant of a comparison sees varied ones, so that all learn alike.
    learnt = ready.learnt if recipe.teacher.cache else reading.task.varied(ready.learnt, recipe.training.seed)
    checkpoints = folder / "checkpoints" / stage.name
    training = stage.training.model_copy(update={"seed": recipe.training.seed})
    arguments = training_arguments(training, checkpoints)
    trainer = DistillationTrainer(
        student,
        arguments,
        teacher_model=ready.source(stage, teacher),
        terms=stage.objective.terms,
        teacher_terms=stage.teacher_objective.terms if stage.teacher_objective is not None else None,
        train_dataset=learnt,
        eval_dataset=reading.examples["validation"],
        data_collator=reading.collate,
        compute_metrics=reading.task.compute_metrics(reading.encoded["validation"]),
        probe=reading.collate.probe(),
        callbacks=[MetricsFile(folder, stage.name), cost, *([StepBar(stage.name)] if progress else [])],
    )
    train_to_the_end(trainer, checkpoints)
    return trainer
