"""Comparisons, on the bundled weights cut to two layers. Runs go in this process, except for the first comparison."""

from __future__ import annotations

import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from geodistill.distillation.signals import FeatureRequest
from geodistill.distillation.students.build import build_student
from geodistill.errors import GeodistillError
from geodistill.files import locked, write_json
from geodistill.recipe import Recipe
from geodistill.runs import teacher as teacher_module
from geodistill.runs.folder import METRICS, RESULTS, read_json
from geodistill.runs.prepare import data_key, stages_of
from geodistill.runs.recipe_file import check_recipe, merge
from geodistill.runs.teacher import TEACHER_FILE, prepare_teacher
from geodistill.studies import workers
from geodistill.studies.compare import collect_requests, compare
from geodistill.studies.plan import plan_jobs
from geodistill.studies.report.comparison_page import report_comparison
from geodistill.studies.workers import PreparedJob
from geodistill.tasks import classification as classification_module
from geodistill.tasks.choose import task_of

SWEEP = {"objective.features.0.weight": [1, 5]}
KD = {"label": {}, "logits": {}}
VARIANTS = {"KD": {"objective": KD}, "Gram": {"objective": {**KD, "features": [{"loss": "gram"}]}}}

ORPHAN = """
import multiprocessing, time
from geodistill.studies.workers import start_worker

def work(connection):
    start_worker(1)
    connection.send("at work")
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    context.Process(target=work, args=(sender,)).start()
    print(receiver.recv(), flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def base(content: dict[str, Any], classifier: Path) -> dict[str, Any]:
    small = {"teacher": {"model": str(classifier)}, "training": {"max_steps": 1}}
    return {**merge({**content, "teacher": {}}, small), "compare": {"seeds": [1, 2], "variants": VARIANTS, "jobs": 1}}


@pytest.fixture(scope="module")
def finished(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants, one of them at two sweep points, with two seeds, by worker processes."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    compare(check_recipe(base), folder, sweeps=SWEEP, progress=False)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path, without_workers: None) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def stamps(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob(f"runs/*/{RESULTS}")}


def test_all_runs_are_there(finished: Path) -> None:
    results = read_json(finished / RESULTS)
    found = [(run["variant"], run["seed"], list(run["sweep"].values())) for run in results["runs"]]
    assert found == [
        (name, seed, point) for seed in (1, 2) for name, point in (("KD", []), ("Gram", [1]), ("Gram", [5]))
    ]
    assert len(stamps(finished)) == 6 and not (finished / "cache").exists()
    assert set(results["teacher"]["metrics"]) == {"accuracy", "macro_f1"}
    for run in results["runs"]:
        assert run["latency_ms"] > 0 and run["parameters"] == results["runs"][0]["parameters"]
    own = [read_json(path) for path in finished.glob(f"runs/*/{RESULTS}")]
    assert all(run["read"] == results["read"] for run in own) and list(results["read"]) == ["task"]
    assert {run["latency_ms"] for run in own} == {None}, "not taken beside other runs"
    student = next(finished.glob("runs/gram-*/student"))
    assert AutoModelForSequenceClassification.from_pretrained(student).config.id2label[3] == "HUM"


def test_what_was_said_of_a_run_reaches_the_table_and_the_page(base: dict[str, Any], copied: Path) -> None:
    results = read_json(copied / RESULTS)
    assert results["runs"][0]["notes"] == read_json(next((copied / "runs").glob("kd-*-seed1")) / RESULTS)["notes"]
    recipe = check_recipe(base)
    found = compare(recipe, copied, sweeps=SWEEP, progress=False)
    assert [run.latency_ms for run in found.runs] == [run["latency_ms"] for run in results["runs"]]  # not timed again
    assert found.teacher is not None and found.teacher.latency_ms == results["teacher"]["latency_ms"]
    noted = [replace(run, notes=["The student never predicts <b> & 'c'."]) for run in found.runs]
    noted_results = replace(found, runs=noted)
    report_comparison(noted_results, recipe.model_dump(mode="json"))
    assert "The student never predicts <b> & 'c'." in str(noted_results)
    page = (copied / "report.html").read_text(encoding="utf-8")
    assert "The student never predicts &lt;b&gt; &amp;" in page and "constant predictor" in page


def test_only_what_is_missing_is_run_again(base: dict[str, Any], copied: Path) -> None:
    before = stamps(copied)
    metrics = {run["variant"] + str(run["seed"]): run["metrics"] for run in read_json(copied / RESULTS)["runs"]}
    lost = sorted(before)[0]
    (copied / "runs" / lost / RESULTS).unlink()
    runs = compare(check_recipe(base), copied, sweeps=SWEEP, progress=False).runs
    after = stamps(copied)
    assert {name for name in before if after[name] != before[name]} == {lost}
    assert {run.variant + str(run.seed): run.metrics for run in runs} == metrics


def test_a_variant_and_a_seed_may_be_added(base: dict[str, Any], copied: Path) -> None:
    before = stamps(copied)
    more = {**VARIANTS, "chosen": {"objective": {"features": [{"loss": "cka", "layers": "auto"}]}}}
    recipe = check_recipe(merge(base, {"compare": {"variants": more, "seeds": [2]}}))
    runs = compare(recipe, copied, progress=False, sweeps=SWEEP).runs
    assert [run.variant for run in runs] == ["KD", "Gram", "Gram", "chosen", "chosen"]
    after = stamps(copied)
    assert len(after) == 8 and all(after[name] == before[name] for name in before)
    assert (copied / "recipe.yaml").read_text().count("chosen") == 1


def test_a_variant_that_fails_does_not_stop_the_others(
    base: dict[str, Any], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(copied)
    for name in sorted(before)[:1]:
        (copied / "runs" / name / RESULTS).unlink()
    train = workers.train_prepared

    def failing(recipe: Recipe, folder: Path, *prepared: Any, **options: Any) -> None:
        if folder.name.startswith("broken"):
            raise GeodistillError("The run cannot go on.", "Change it.")
        train(recipe, folder, *prepared, **options)

    monkeypatch.setattr(workers, "train_prepared", failing)
    bad = {"broken": {"objective": KD}, **VARIANTS}
    recipe = check_recipe(merge(base, {"compare": {"variants": bad}}))
    with pytest.raises(GeodistillError) as caught:
        compare(recipe, copied, sweeps=SWEEP, progress=False)
    assert caught.value.problem.startswith("2 of 3 runs failed; the first, 'broken' with seed 1: ")
    assert "cannot go on" in caught.value.problem and "run the same command again" in caught.value.remedy
    assert set(stamps(copied)) == set(before)


def test_a_damaged_result_is_named_and_nothing_else_lost(base: dict[str, Any], copied: Path) -> None:
    name = sorted(stamps(copied))[0]
    (copied / "runs" / name / RESULTS).write_text('{"metrics": ')
    with pytest.raises(GeodistillError, match=rf"{name}.*cannot be read"):
        compare(check_recipe(base), copied, sweeps=SWEEP, progress=False)


def test_what_is_left_of_another_recipe_is_run_anew(base: dict[str, Any], copied: Path) -> None:
    """The same variant with other settings, over folders whose metrics name a stage that is no more."""
    before = stamps(copied)
    for name in before:
        (copied / "runs" / name / METRICS).write_text('{"stage": "gone", "step": 1, "done": 0.5}\n')
    recipe = check_recipe(merge(base, {"training": {"learning_rate": 0.01}, "compare": {"seeds": [1]}}))
    compare(recipe, copied, progress=False)
    after = stamps(copied)
    changed = {name for name in before if after[name] != before[name]}
    assert len(after) == 7 and len(changed) == 1 and next(iter(changed)).startswith("kd-")


def test_another_teacher_is_another_comparison(base: dict[str, Any], finished: Path) -> None:
    recipe = check_recipe(merge(base, {"data": {"limit": 40}}))
    with pytest.raises(GeodistillError, match="holds another run"):
        compare(recipe, finished, progress=False)


def test_a_given_teacher_is_scored_once_a_comparison(
    base: dict[str, Any], classifier: Path, without_workers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(classifier, given, ignore=shutil.ignore_patterns(TEACHER_FILE))
    scored = []
    score = teacher_module.score_teacher
    monkeypatch.setattr(teacher_module, "score_teacher", lambda *inputs: [scored.append(1), score(*inputs)][1])
    recipe = check_recipe(merge(base, {"teacher": {"model": str(given)}, "compare": {"seeds": [1]}}))
    results = compare(recipe, tmp_path / "run", progress=False)
    assert len(results.runs) == 2 and scored == [1]
    assert set(read_json(tmp_path / "run" / "teacher" / TEACHER_FILE)["metrics"]) == set(results.teacher.metrics)
    compare(recipe, tmp_path / "run", progress=False)
    assert scored == [1]


def test_two_starts_do_not_write_one_comparison(base: dict[str, Any], copied: Path) -> None:
    with locked(copied), pytest.raises(GeodistillError, match="Another process writes the folder"):
        compare(check_recipe(base), copied, sweeps=SWEEP, progress=False)
    (copied / RESULTS).unlink()
    run = next(copied.glob("runs/*"))
    (run / RESULTS).unlink()
    with locked(run), pytest.raises(GeodistillError, match=r"1 of 1 runs failed; .*Another process writes"):
        compare(check_recipe(base), copied, sweeps=SWEEP, progress=False)


def test_a_layer_out_of_range_is_told_before_anything_runs(base: dict[str, Any], tmp_path: Path) -> None:
    bad = {"deep": {"objective": {"features": [{"loss": "gram", "layers": [[9, 1]]}]}}, **VARIANTS}
    with pytest.raises(GeodistillError, match="Layer 9 of the student"):
        compare(check_recipe(merge(base, {"compare": {"variants": bad}})), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "runs").exists()


def test_stages_of_variants_are_read_once_and_told_apart(
    make_recipe: Callable[..., Recipe], tmp_path: Path, without_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def stages(seed: int) -> dict[str, Any]:
        data = {"source": "bundled:trec", "problem": "unlabelled", "seed": seed, "limit": 32, "max_length": 16}
        objective = {"features": [{"loss": "gram"}]}
        return {"stages": [{"name": "warm", "data": data, "objective": objective, "training": {"max_steps": 1}}]}

    variants = {"KD": {"objective": KD}, "one": stages(1), "again": stages(1), "two": stages(2)}
    recipe = make_recipe(training={"max_steps": 1}, compare={"seeds": [1], "variants": variants, "jobs": 1})
    compare(recipe, tmp_path / "run")
    read = read_json(tmp_path / "run" / RESULTS)["read"]
    assert list(read) == ["task", "warm", "warm of two"]
    assert all("in the task's test part" in read[name]["notes"][0] for name in ("warm", "warm of two"))
    told = capsys.readouterr().err
    for heading in ("task", "stage 'warm'", "stage 'warm of two'"):
        assert told.count(f"Read for the {heading}:") == 1


def test_one_cache_serves_the_rows_of_all_runs(
    make_recipe: Callable[..., Recipe], classifier: Path, tmp_path: Path
) -> None:
    terms = [[{"loss": "gram", "layers": [[0, 0]]}], [{"loss": "cka", "rows": "mean"}], [{"loss": "cka"}]]
    variants = {str(place): {"objective": {"features": features}} for place, features in enumerate(terms)}
    recipe = make_recipe(compare={"seeds": [1, 2], "baseline": "0", "variants": variants})
    teacher = prepare_teacher(make_recipe().teacher, task_of(recipe), tmp_path, progress=False)

    def wanted_by(recipe: Recipe) -> dict[str, list[Any]]:
        jobs = plan_jobs(recipe, tmp_path)
        students = [build_student(job.recipe.student, teacher.model, seed=job.seed) for job in jobs]
        return collect_requests(jobs, students, teacher, dict.fromkeys(job.shape for job in jobs))

    wanted = [FeatureRequest(0, "tokens"), FeatureRequest(2, "mean"), FeatureRequest(2, "tokens")]
    assert wanted_by(recipe) == {data_key(stages_of(recipe)[-1]): wanted}
    with_logits = make_recipe(compare={"variants": {"KD": {"objective": {"logits": {}}}}})
    (found,) = wanted_by(with_logits).values()
    assert found == [None]


def test_no_worker_outlives_its_comparison(tmp_path: Path) -> None:
    """Not even one that is killed: what it goes on writing would be in the way of the next start."""
    (tmp_path / "comparison.py").write_text(ORPHAN)
    command = [sys.executable, str(tmp_path / "comparison.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as comparison:
        assert comparison.stdout is not None
        assert comparison.stdout.readline() == "at work\n"
        comparison.kill()
        comparison.communicate(timeout=30)  # the output that both write to ends with the last of them


def test_a_killed_worker_is_told_with_what_to_lower(
    base: dict[str, Any], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that the system ends leaves no exception, and takes the other runs along."""
    first, second = sorted(stamps(copied))[:2]
    (copied / "runs" / first / RESULTS).unlink()
    monkeypatch.setattr(workers, "_run_job", killed)
    with pytest.raises(GeodistillError) as caught:
        compare(check_recipe(base), copied, sweeps=SWEEP, progress=False)
    assert "killed while this run was under way" in caught.value.problem and "memory" in caught.value.problem
    assert "'Gram' with seed 1" in caught.value.problem
    assert "training.batch_size" in caught.value.remedy and "compare.jobs" not in caught.value.remedy
    recipe = check_recipe(merge(base, {"compare": {"jobs": 2}}))
    (copied / "runs" / second / RESULTS).unlink()
    with pytest.raises(GeodistillError, match=r"one of these runs.*Lower compare\.jobs .*now 2"):
        compare(recipe, copied, sweeps=SWEEP, progress=False)


def killed(*_: Any) -> None:
    raise BrokenProcessPool("A process in the process pool was terminated abruptly.")


def test_a_run_that_diverged_is_read_and_shown(base: dict[str, Any], copied: Path) -> None:
    """Its metrics are null in the file, since JSON has no NaN; table, report and plots go on without it."""
    for place, path in enumerate(sorted(copied.glob(f"runs/kd-*/{RESULTS}"))):
        results = read_json(path)
        results["metrics"]["accuracy"] = None
        if place:
            results["geometry"][0]["procrustes"]["value"] = None
        write_json(path, results)
    recipe = check_recipe(base)
    found = compare(recipe, copied, sweeps=SWEEP, progress=False)
    assert math.isnan(found.runs[0].metrics["accuracy"])
    text = (copied / RESULTS).read_text()
    assert "NaN" not in text
    (copied / found.runs[0].folder / METRICS).write_text('{"stage": "task", "step": 1, "done": 1.0, "loss": null}\n')
    report_comparison(found, recipe.model_dump(mode="json"))
    assert "not finite" in str(found) and "KD" in (copied / "report.html").read_text(encoding="utf-8")


def test_workers_neither_read_data_nor_load_the_teacher(
    base: dict[str, Any], without_workers: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str] = []
    loaded: list[str] = []
    load_examples, load_teacher = classification_module.load_examples, teacher_module.load_teacher
    monkeypatch.setattr(
        classification_module, "load_examples", lambda *data: [read.append("data"), load_examples(*data)][1]
    )
    monkeypatch.setattr(
        teacher_module, "load_teacher", lambda *given: [loaded.append("teacher"), load_teacher(*given)][1]
    )
    sent: list[int] = []

    def run(prepared: PreparedJob, onnx: bool) -> None:
        content = pickle.dumps(prepared)
        sent.append(len(content))
        received = pickle.loads(content)
        assert "model" not in vars(received.run.teacher)
        original(received, onnx)
        assert "model" not in vars(received.run.teacher)

    original = workers._run_job
    monkeypatch.setattr(workers, "_run_job", run)
    compare(check_recipe(base), tmp_path / "run", progress=False)
    assert read == ["data"] and loaded == ["teacher"]
    teacher = sum(file.stat().st_size for file in Path(base["teacher"]["model"]).glob("*.safetensors"))
    assert len(sent) == 4 and max(sent) < teacher / 10


def test_quantised_students_are_measured_in_all_forms(
    base: dict[str, Any], tmp_path: Path, without_workers: None
) -> None:
    rounded = {"quantization": {}, "objective": {"label": {}}, "training": {"epochs": 0}}
    recipe = check_recipe({**base, "compare": {"seeds": [1], "baseline": "W8A8", "variants": {"W8A8": rounded}}})
    (first,) = compare(recipe, tmp_path / "run", progress=False).runs
    assert first.forms == [] and first.training_seconds == 0
    results = compare(recipe, tmp_path / "run", onnx=True, progress=False)
    (run,) = results.runs
    plain, _, integers = run.forms
    assert integers.agreement is not None and integers.agreement >= 0.99 and integers.difference is not None
    sizes = [form.megabytes for form in run.forms]
    assert None not in sizes and integers.megabytes < plain.megabytes / 3  # type: ignore[operator]
    assert all(form.latency_ms is not None and form.latency_ms > 0 for form in run.forms)
    own = read_json(next((tmp_path / "run").glob(f"runs/*/{RESULTS}")))
    assert {form["latency_ms"] for form in own["forms"]} == {None}, "not taken beside other runs"
    page = results.report.read_text(encoding="utf-8")
    assert "As ONNX: float32 / fake-quantised / integers" in page and "one example, ms" in str(results)
