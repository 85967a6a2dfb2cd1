"""The command line under the launchers that people use, with two processes on the CPU."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification

from geodistill.models import new_neural_model
from geodistill.runs.arguments import part_processes, processes
from geodistill.runs.folder import read_json, read_metrics
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train

CLASSES = ("NUM", "LOC", "HUM")
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
# Its --cpu starts one process, whatever the number, unless MPI is there.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"]
FILES = Path(__file__).parents[2] / "docs" / "launch"
FSDP = ["-m", "accelerate.commands.launch", "--config_file", str(FILES / "fsdp.yaml"), "--main_process_port"]
PROGRAM = ["-m", "geodistill"]
DISGUISED = [str(Path(__file__).with_name("sharding_on_the_cpu.py"))]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def launch(lesson: Any, tmp_path: Path) -> Launch:
    """Train a tiny recipe in two processes."""
    lesson.model.config.hidden_dropout_prob = lesson.model.config.attention_probs_dropout_prob = 0.0
    names = dict(enumerate(CLASSES))
    lesson.model.config.id2label, lesson.model.config.label2id = names, {name: key for key, name in names.items()}
    lesson.model.save_pretrained(tmp_path / "teacher")
    lesson.tokenizer.save_pretrained(tmp_path / "teacher")
    draw = random.Random(0)
    words = [word for word in lesson.tokenizer.get_vocab() if word.startswith("word")]
    rows = [f"{' '.join(draw.choices(words, k=draw.randint(2, 9)))},{CLASSES[row % 3]}" for row in range(120)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    recipe = {
        "data": {"source": str(tmp_path / "rows.csv"), "max_length": 16},
        "teacher": {"model": str(tmp_path / "teacher")},
        "student": {"width": 8, "layers": 1},
        "objective": {"label": {}, "logits": {}, "features": [{"loss": "procrustes"}]},
        "training": {"epochs": 1, "batch_size": 8, "gradient_accumulation": 2, "exact_accumulation": True},
    }
    recipe["training"] |= {"logging_steps": 1, "save_steps": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def start(launcher: list[str], *options: str, program: list[str] = PROGRAM) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *launcher, free_port(), *program, "train", str(tmp_path / "recipe.yaml")]
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, "--output", str(tmp_path / "run"), *options],
            env=variables,
            capture_output=True,
            text=True,
            timeout=180,
        )

    return start


def check_run(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student on test") == 1, done.stdout
    results = read_json(folder / "results.json")
    assert results["feature_batch"] == {"task": "the global accumulated batch of 2 micro-batches over 2 ranks"}
    # 120 rows, a tenth and a fifth cut off, in steps of 2 ranks × 2 micro-batches × 8.
    assert [entry["step"] for entry in read_metrics(folder) if "loss" in entry] == [1, 2, 3]
    return results


@pytest.mark.slow  # test_recordings_over_two_ranks uses torchrun as well, and test_fsdp reads texts
def test_torchrun(launch: Launch, tmp_path: Path) -> None:
    check_run(launch(TORCHRUN), tmp_path / "run")


@pytest.mark.slow
def test_two_columns_over_two_ranks(launch: Launch, tmp_path: Path) -> None:
    rows = [line.partition(",")[0] for line in (tmp_path / "rows.csv").read_text().splitlines()[1:]]
    pairs = [f"{text},{' '.join(reversed(text.split()))}" for text in rows]
    (tmp_path / "rows.csv").write_text("\n".join(["one,other", *pairs]))
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["data"]["columns"] = {"student": "one", "teacher": "other"}
    recipe |= {"task": "embeddings", "objective": {"features": [{"loss": "procrustes"}, {"loss": "cosine"}]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    results = check_run(launch(TORCHRUN), tmp_path / "run")
    assert set(results["metrics"]) == {"retrieval@1", "retrieval@10", "similarity_structure"}


def test_recordings_over_two_ranks(launch: Launch, tmp_path: Path) -> None:
    """Two processes end where one ends with batches twice as large."""
    recipe = recordings_of_two_days(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = launch(TORCHRUN)
    assert done.returncode == 0, done.stderr
    recipe["training"]["batch_size"] *= 2
    alone = train(check_recipe(recipe), tmp_path / "alone", progress=False)
    assert alone is not None
    one, two = (AutoModel.from_pretrained(tmp_path / name / "student").state_dict() for name in ("alone", "run"))
    torch.testing.assert_close(two, one)
    assert read_json(tmp_path / "run" / "results.json")["metrics"] == pytest.approx(alone.metrics, abs=1e-3)


def recordings_of_two_days(folder: Path) -> dict[str, Any]:
    """A recipe without chance: its models hide no tokens, and plain descent takes the segments in their order."""
    draw, sessions = np.random.default_rng(0), {"one": 3, "two": 2}
    (folder / "sessions").mkdir()
    for name, channels in sessions.items():
        latent = np.convolve(draw.normal(size=480), np.ones(20) / 4, mode="same")
        lfp = latent[:, None] + draw.normal(size=(480, channels))
        spikes = draw.poisson(np.exp(latent[:, None] * draw.normal(size=4)).clip(max=20))
        np.savez(folder / "sessions" / f"{name}.npz", spikes=spikes, lfp=lfp, behaviour=latent)
    torch.manual_seed(0)
    new_neural_model("spikes", dict.fromkeys(sessions, 4), mask_ratio=0.0).save_pretrained(folder / "spikes")
    new_neural_model("lfp", sessions, mask_ratio=0.0).save_pretrained(folder / "potentials")
    training = {**PLAIN, "max_steps": 3, "batch_size": 8, "learning_rate": 0.05}
    return {
        "task": "neural",
        "data": {"source": str(folder / "sessions"), "sessions": {"bins": 10, "block_seconds": 0.1}},
        "teacher": {"model": str(folder / "spikes"), "cache_dtype": "float32"},
        "student": {"model": str(folder / "potentials")},
        "objective": {"label": {}, "features": [{"loss": "procrustes"}, {"loss": "cosine"}]},
        "training": training,
    }


@pytest.mark.slow
def test_accelerate_launch_and_starting_again(launch: Launch, tmp_path: Path) -> None:
    first = check_run(launch(ACCELERATE), tmp_path / "run")
    assert check_run(launch(TORCHRUN), tmp_path / "run") == first
    afresh = check_run(launch(TORCHRUN, "--fresh"), tmp_path / "run")
    assert afresh["metrics"] == first["metrics"]
    assert afresh["geometry"][0]["cka"] == pytest.approx(first["geometry"][0]["cka"])


@pytest.mark.slow
def test_a_mistake_is_told_and_no_process_stays(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    done = launch(TORCHRUN)
    assert done.returncode != 0 and done.stderr.count("is not empty and not a run") == 1


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment that torchrun gives the first of its processes."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    part_processes()
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="about processes without an accelerator")
def test_processes_on_the_cpu_know_of_each_other_from_the_start(launched: None) -> None:
    """Else each takes itself for the main one, and all claim the folder at once."""
    assert processes().distributed_type == DistributedType.MULTI_CPU
    assert torch.distributed.is_initialized()


def test_processes_part_before_the_interpreter_ends(launched: None) -> None:
    """Else a thread of the group may outlive what it needs, and abort a process that had done its work."""
    processes()
    part_processes()
    assert not torch.distributed.is_initialized()
    part_processes()


# Plain descent in the order of the data, so that two processes train on what one trains on, and end where it ends.
PLAIN = {
    "max_steps": 2,
    "schedule": "constant",
    "warmup": 0,
    "arguments": {"optim": "sgd", "train_sampling_strategy": "sequential"},
}


@pytest.fixture
def sharded_recipe(launch: Launch, tmp_path: Path) -> dict[str, Any]:
    """The recipe with a teacher that is fine-tuned first, a stage and learned projections."""
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    training = {**recipe["training"], **PLAIN, "learning_rate": 0.05, "save_steps": 1}
    recipe["objective"]["features"].append({"loss": "projection", "rows": "mean"})
    stage = {"name": "warm", "data": recipe["data"], "objective": {"features": [{"loss": "gram"}]}}
    recipe |= {"training": training, "stages": [{**stage, "training": dict(training)}]}
    # In float32 on every machine: what bfloat16 rounds is more than the two ways of training may differ by.
    exact = {**PLAIN, "batch_size": 8, "learning_rate": 0.1, "bf16": False}
    recipe["teacher"] |= {"training": exact, "cache_dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return recipe


def weights(folder: Path) -> dict[str, Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def check_against_one_process(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Train the recipe of two processes in this one, with batches twice as large, and compare what came out."""
    for each in (recipe["teacher"], recipe, *recipe["stages"]):
        each["training"]["batch_size"] *= 2
    alone = train(check_recipe(recipe), tmp_path / "alone", progress=False)
    for part in ("teacher", "student"):
        torch.testing.assert_close(weights(tmp_path / "run" / part), weights(tmp_path / "alone" / part))
    results = read_json(tmp_path / "run" / "results.json")
    assert results["metrics"] == alone.metrics and results["teacher"]["metrics"] == alone.teacher.metrics
    assert results["geometry"][0]["cka"] == pytest.approx(alone.geometry[0]["cka"], rel=1e-4)
    assert results["feature_batch"]["warm"] == "the global accumulated batch of 2 micro-batches over 2 ranks"


def test_fsdp(launch: Launch, sharded_recipe: dict[str, Any], tmp_path: Path) -> None:
    """With the unchanged file for users. Only accelerate is told that the processes are GPUs."""
    done = launch(FSDP, program=DISGUISED)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "task" / "checkpoint-2" / "pytorch_model_fsdp.bin").is_file()
    check_against_one_process(sharded_recipe, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_zero_2(launch: Launch, sharded_recipe: dict[str, Any], tmp_path: Path) -> None:
    """DeepSpeed takes an absent gradient for zero, hence no weight decay; it compiles on its first run."""
    trainings = [each["training"] for each in (sharded_recipe["teacher"], sharded_recipe, *sharded_recipe["stages"])]
    for training in trainings:
        training["weight_decay"] = 0.0
        training["arguments"] = {**training["arguments"], "deepspeed": str(FILES / "zero2.json")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sharded_recipe))
    done = launch(TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "task" / "checkpoint-2" / "global_step2").is_dir()
    for training in trainings:
        del training["arguments"]["deepspeed"]
    check_against_one_process(sharded_recipe, tmp_path)


@pytest.mark.slow
def test_fsdp_goes_on_from_a_checkpoint(launch: Launch, sharded_recipe: dict[str, Any], tmp_path: Path) -> None:
    """Of a step, and of the last one, when no student was written."""
    run, adam = tmp_path / "run", "training.arguments.optim=adamw_torch"  # plain descent has no state to go on from
    assert launch(FSDP, adam, program=DISGUISED).returncode == 0
    first = weights(run / "student")
    for lost in ("checkpoint-2", None):
        (run / "results.json").unlink()
        shutil.rmtree(run / "student")
        if lost:
            shutil.rmtree(run / "checkpoints" / "task" / lost)
        done = launch(FSDP, adam, program=DISGUISED)
        assert done.returncode == 0, done.stderr
        torch.testing.assert_close(weights(run / "student"), first, rtol=0, atol=0)


@pytest.mark.slow
def test_fsdp1_is_refused_before_anything_is_trained(launch: Launch, tmp_path: Path) -> None:
    settings = (FILES / "fsdp.yaml").read_text().replace("fsdp_version: 2", "fsdp_version: 1")
    (tmp_path / "fsdp.yaml").write_text(
        settings.replace("reshard_after_forward: true", "sharding_strategy: FULL_SHARD")
    )
    done = launch([str(tmp_path / "fsdp.yaml") if part.endswith("fsdp.yaml") else part for part in FSDP])
    assert done.returncode != 0 and "FSDP1 is not supported" in done.stderr, done.stderr


def test_the_fsdp_file_is_one_of_accelerate() -> None:
    loaded = load_config_from_file(str(FILES / "fsdp.yaml"))
    assert loaded.distributed_type == DistributedType.FSDP
    known = {field.name for field in fields(FullyShardedDataParallelPlugin)}
    names = {key.removeprefix("fsdp_") for key in loaded.fsdp_config} - {"version"}
    assert names <= known and loaded.fsdp_config["fsdp_version"] == 2


def test_the_deepspeed_file_leaves_to_the_recipe_what_it_says() -> None:
    loaded = json.loads((FILES / "zero2.json").read_text())
    assert loaded.pop("zero_optimization")["stage"] == 2
    assert loaded.pop("bf16") == {"enabled": "auto"}
    assert set(loaded.values()) == {"auto"}
