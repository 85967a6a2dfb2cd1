"""Two processes train as one does: the tests start this file itself as either rank, and compare what it writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPE = {
    "label": {"weight": 0.5},
    "logits": {},
    "features": [
        {"loss": "procrustes", "weight": 2.0, "layers": "uniform"},
        {"loss": "procrustes", "rows": "cls", "special_tokens": False},
        {"loss": "gram", "special_tokens": False},
        {"loss": "cka", "rows": "mean"},
        {"loss": "projection", "rows": "mean", "normalize": False, "center": False},
    ],
}
LOSSES = ("procrustes", "gram", "cka", "projection")
BATCH = 8


def start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **({key: str(value) for key, value in place.items()})}
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each rank found, for one rank and for two."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(folder, rank, port) for rank in range(2)]
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(Path(__file__).parent))
            work(folder, 0, 1)
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return {ranks: [torch.load(folder / f"{ranks}-{rank}.pt") for rank in range(ranks)] for ranks in (1, 2)}


def test_two_ranks_give_the_gradient_of_one(found: dict[int, list[dict[str, Any]]]) -> None:
    (whole,), ranks = found[1], found[2]
    assert ranks[0]["tokens"] + ranks[1]["tokens"] == whole["tokens"]
    assert ranks[0]["tokens"] != ranks[1]["tokens"]
    for rank in ranks:
        for name, value in whole["gradient"].items():
            gap = rank["gradient"][name] - value
            assert gap.abs().max() <= 1e-6 * max(1.0, value.norm().item()), name
    for name, value in whole["gradient"].items():
        # Attention does not see a shift of its keys, so they alone have no gradient.
        assert value.abs().max() > 1e-5 or "key.bias" in name, name


def test_two_ranks_log_the_terms_of_one(found: dict[int, list[dict[str, Any]]]) -> None:
    (whole,), (first, _) = found[1], found[2]
    names = [name for name in whole["logs"] if name.split("_")[0] in ("label", "logits", *LOSSES)]
    assert len(names) == 8
    for name in names:
        assert first["logs"][name] == pytest.approx(whole["logs"][name], rel=1e-5)


def test_local_batches_give_another_gradient(found: dict[int, list[dict[str, Any]]]) -> None:
    """Without `global_batch` the distance is of each rank's rows, so the test above can fail."""
    (whole,), (first, _) = found[1], found[2]
    gaps = [(first["local gradient"][name] - value).abs().max() for name, value in whole["gradient"].items()]
    assert max(gaps) > 1e-3


def test_a_resumed_run_of_two_ranks_ends_as_an_uninterrupted_one(found: dict[int, list[dict[str, Any]]]) -> None:
    for rank in found[2]:
        torch.testing.assert_close(rank["resumed"], rank["uninterrupted"], rtol=0, atol=0)
    torch.testing.assert_close(found[2][0]["resumed"], found[2][1]["resumed"], rtol=0, atol=0)


def work(folder: Path, rank: int, ranks: int) -> None:
    from test_trainer import Recorder, collate, copy_of, last_checkpoint, make_examples, make_trainer

    torch.set_num_threads(1)
    size = BATCH // ranks
    sgd = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "weight_decay": 0.0}
    shared = {"ddp_backend": "gloo"} if ranks > 1 else {}

    def one_step(recipe: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        recorder = Recorder()
        trainer = make_trainer(
            folder / f"step-{ranks}",
            recipe=recipe,
            examples=BATCH,
            dropout=0.0,
            callbacks=[recorder],
            per_device_train_batch_size=size,
            max_steps=1,
            max_grad_norm=0.0,
            logging_steps=1,
            train_sampling_strategy="sequential",
            **sgd,
            **shared,
        )
        before = copy_of(trainer.model)
        trainer.train()
        after = copy_of(trainer.model)
        return {name: before[name] - value for name, value in after.items()}, recorder.logs[0]

    gradient, logs = one_step(RECIPE)
    batch = collate(make_examples(BATCH)[rank * size : (rank + 1) * size])
    result = {"gradient": gradient, "logs": logs, "tokens": int(batch["attention_mask"].sum())}
    if ranks > 1:
        local = {**RECIPE, "features": [{**term, "global_batch": False} for term in RECIPE["features"]]}
        result["local gradient"] = one_step(local)[0]
        steps = {"save_strategy": "steps", "save_steps": 6, **shared}
        whole = make_trainer(folder / "whole", **steps)
        whole.train()
        make_trainer(folder / "cut", callbacks=[Recorder(7)], **steps).train()
        resumed = make_trainer(folder / "cut", seed=50, **steps)
        resumed.train(resume_from_checkpoint=str(last_checkpoint(folder / "cut")))
        assert resumed.state.global_step == whole.state.global_step == 8
        result |= {"uninterrupted": copy_of(whole.model), "resumed": copy_of(resumed.model)}
    torch.save(result, folder / f"{ranks}-{rank}.pt")


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
