"""The command line under the launchers that people use, with two processes on the CPU."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from geodistill.tasks.arguments import part_processes, processes
from geodistill.tasks.run_folder import read_json, read_metrics

CLASSES = ("NUM", "LOC", "HUM")
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
# Its --cpu starts one process, whatever the number, unless MPI is there.
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"]
Launch = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def launch(lesson: Any, tmp_path: Path) -> Launch:
    """Train a tiny recipe in two processes."""
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

    def start(launcher: list[str], *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *launcher, free_port(), "-m", "geodistill", "train", str(tmp_path / "recipe.yaml")]
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


def test_torchrun(launch: Launch, tmp_path: Path) -> None:
    check_run(launch(TORCHRUN), tmp_path / "run")


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


FILES = Path(__file__).parents[2] / "docs" / "launch"


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
