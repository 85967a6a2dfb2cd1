"""How examples are split over ranks and micro-batches, padded and ordered changes neither gradient nor log.

The tests start this file itself as either of two ranks, and compare what it writes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

LOSSES = ("procrustes", "gram", "cka", "projection")
FEATURES = [
    {"loss": "procrustes", "weight": 2.0, "layers": "uniform"},
    {"loss": "procrustes", "rows": "cls", "special_tokens": False},
    {"loss": "gram", "special_tokens": False},
    {"loss": "cka", "rows": "mean"},
    {"loss": "projection", "rows": "mean", "normalize": False, "center": False},
]
RECIPE = {"label": {"weight": 0.5}, "logits": {}, "features": FEATURES}
LOCAL = {**RECIPE, "features": [{**term, "global_batch": False} for term in FEATURES]}
ANSWERS = {"label": {"weight": 0.5}, "logits": {"temperature": 1.0}, "features": [{"loss": "gram", "rows": "response"}]}
EXAMPLES = 8
BACKWARDS = range(EXAMPLES - 1, -1, -1)
Found = dict[int, list[dict[str, Any]]]


def start(folder: Path, rank: int, port: int) -> subprocess.Popen[str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **({key: str(value) for key, value in place.items()})}
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank found, for one rank and for two."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(folder, rank, port) for rank in range(2)]
    try:
        work_alone(folder)
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return {ranks: [torch.load(folder / f"{ranks}-{rank}.pt") for rank in range(ranks)] for ranks in (1, 2)}


def assert_same_gradient(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (other[name] - value).abs().max() <= 1e-6 * max(1.0, value.norm().item()), name


def largest_gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max((other[name] - value).abs().max().item() for name, value in one.items())


# Batch × accumulation on one rank, then on each of two; the same eight examples in each.
ONE_RANK = ["4x2", "2x4", "1x8", "padded", "padded 2x4", "reversed", "reversed 2x4"]
TWO_RANKS = ["4x1", "2x2", "1x4", "sharded 4x1", "sharded 2x2"]


def test_every_parameter_has_a_gradient(found: Found) -> None:
    for name, value in found[1][0]["8x1"]["gradient"].items():
        # Attention does not see a shift of its keys, so they alone have no gradient.
        assert value.abs().max() > 1e-5 or "key.bias" in name, name


@pytest.mark.parametrize("split", ONE_RANK)
def test_a_split_over_micro_batches_gives_the_gradient_of_one(found: Found, split: str) -> None:
    assert_same_gradient(found[1][0]["8x1"]["gradient"], found[1][0][split]["gradient"])


@pytest.mark.parametrize("split", TWO_RANKS)
def test_two_ranks_give_the_gradient_of_one(found: Found, split: str) -> None:
    for rank in found[2]:
        assert_same_gradient(found[1][0]["8x1"]["gradient"], rank[split]["gradient"])


def test_a_rank_with_fewer_micro_batches_gives_the_gradient_of_one(found: Found) -> None:
    for rank in found[2]:
        assert_same_gradient(found[1][0]["6x1"]["gradient"], rank["2x2 and 2x1"]["gradient"])


def test_a_shorter_last_micro_batch_gives_the_gradient_of_one(found: Found) -> None:
    assert_same_gradient(found[1][0]["6x1"]["gradient"], found[1][0]["4 and 2"]["gradient"])


def test_answers_of_unequal_length_count_by_their_tokens(found: Found) -> None:
    whole = found[1][0]["answers 8x1"]
    for split in (found[1][0]["answers 2x4"], *(rank["answers 2x2"] for rank in found[2])):
        assert_same_gradient(whole["gradient"], split["gradient"])
    for name in ("loss", "label", "logits"):
        for split in (found[1][0]["answers 2x4"], found[2][0]["answers 2x2"]):
            assert split["logs"][name] == pytest.approx(whole["logs"][name], rel=1e-5), name


def test_micro_batches_on_their_own_give_another_gradient(found: Found) -> None:
    """Without exact accumulation, so that the tests above can fail."""
    whole = found[1][0]["8x1"]["gradient"]
    assert largest_gap(whole, found[1][0]["2x4 on their own"]["gradient"]) > 1e-3
    assert largest_gap(whole, found[2][0]["2x2 on their own"]["gradient"]) > 1e-3


def test_local_batches_give_another_gradient(found: Found) -> None:
    """Without `global_batch` the distance is of each rank's rows."""
    assert largest_gap(found[1][0]["8x1"]["gradient"], found[2][0]["4x1 local"]["gradient"]) > 1e-3
    assert_same_gradient(found[2][0]["4x1 local"]["gradient"], found[2][0]["2x2 local"]["gradient"])


@pytest.mark.parametrize("split", ["4x2", "2x4", "padded 2x4"])
def test_a_split_over_micro_batches_logs_the_terms_of_one(found: Found, split: str) -> None:
    whole, logs = found[1][0]["8x1"]["logs"], found[1][0][split]["logs"]
    assert len([name for name in whole if name.startswith("chance/")]) == 6
    assert logs == pytest.approx(whole, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("split", TWO_RANKS)
def test_two_ranks_log_the_terms_of_one(found: Found, split: str) -> None:
    whole, logs = found[1][0]["8x1"]["logs"], found[2][0][split]["logs"]
    names = [name for name in whole if name.split("_")[0] in ("loss", "label", "logits", *LOSSES)]
    assert len(names) == 9
    for name in names:
        assert logs[name] == pytest.approx(whole[name], rel=1e-5, abs=1e-7), name


def test_what_is_compared_is_said(found: Found) -> None:
    said = {split: each["geometry"] for split, each in found[1][0].items()}
    assert said["8x1"] == "the batch"
    assert said["2x4"] == "the accumulated batch of 4 micro-batches"
    assert said["2x4 on their own"] == "each micro-batch on its own"
    said = {split: each["geometry"] for split, each in found[2][0].items() if "x" in split}
    assert said["4x1"] == "the global batch over 2 ranks"
    assert said["4x1 local"] == "the local batch of each of 2 ranks"
    assert said["2x2"] == "the global accumulated batch of 2 micro-batches over 2 ranks"
    assert said["2x2 on their own"] == "each micro-batch on its own, over 2 ranks"


def test_a_sharded_student_is_whole_again(found: Found) -> None:
    for rank in found[2]:
        assert rank["sharded"] == (True, True)


@pytest.mark.parametrize("resumed", ["resumed", "sharded and resumed"])
def test_a_resumed_run_of_two_ranks_ends_as_an_uninterrupted_one(found: Found, resumed: str) -> None:
    for rank in found[2]:
        torch.testing.assert_close(rank[resumed], rank[resumed.replace("resumed", "uninterrupted")], rtol=0, atol=0)
    torch.testing.assert_close(found[2][0][resumed], found[2][1][resumed], rtol=0, atol=0)


def one_step(
    folder: Path,
    batch: int,
    accumulation: int,
    *,
    recipe: dict[str, Any] = RECIPE,
    exact: bool = True,
    causal: bool = False,
    padding: int = 0,
    order: Sequence[int] = range(EXAMPLES),
    **more: Any,
) -> dict[str, Any]:
    """Take one step of plain gradient descent at rate one, which leaves the gradient in the weights."""
    from training import Recorder, collate, make_trainer

    recorder = Recorder()
    trainer = make_trainer(
        folder / "step",
        recipe=recipe,
        causal=causal,
        examples=EXAMPLES,
        dropout=0.0,
        callbacks=[recorder],
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        options={"exact_accumulation": exact},
        max_steps=1,
        max_grad_norm=0.0,
        logging_steps=1,
        train_sampling_strategy="sequential",
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        **more,
    )

    def padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        fillers = {"attention_mask": 0, "special_tokens_mask": 1, "input_ids": 0}
        fillers |= {"labels": -100} if causal else {}
        return {
            name: torch.nn.functional.pad(value, (0, padding), value=fillers[name]) if name in fillers else value
            for name, value in collate(examples).items()
        }

    trainer.data_collator = padded
    examples: Any = trainer.train_dataset
    trainer.train_dataset = [examples[row] for row in order]
    before = whole_state(trainer.model)
    trainer.train()
    after = whole_state(trainer.model)
    gradient = {name: before[name] - value for name, value in after.items()}
    return {"gradient": gradient, "logs": recorder.logs[0], "geometry": trainer.geometry, "trainer": trainer}


def whole_state(model: torch.nn.Module) -> dict[str, Tensor]:
    from torch.distributed.tensor import DTensor

    state = model.state_dict().items()
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).clone() for name, each in state}


def work_alone(folder: Path) -> None:
    results = {"6x1": one_step(folder, 6, 1, order=range(6)), "4 and 2": one_step(folder, 4, 2, order=range(6))}
    answers: dict[str, Any] = {"recipe": ANSWERS, "causal": True}
    results |= {"answers 8x1": one_step(folder, 8, 1, **answers), "answers 2x4": one_step(folder, 2, 4, **answers)}
    for batch, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        results[f"{batch}x{accumulation}"] = one_step(folder, batch, accumulation)
    results["2x4 on their own"] = one_step(folder, 2, 4, exact=False)
    results["padded"] = one_step(folder, 8, 1, padding=5)
    results["padded 2x4"] = one_step(folder, 2, 4, padding=5)
    results["reversed"] = one_step(folder, 8, 1, order=BACKWARDS)
    results["reversed 2x4"] = one_step(folder, 2, 4, order=BACKWARDS)
    save(results, folder / "1-0.pt")


STEPS = {"save_strategy": "steps", "save_steps": 6, "ddp_backend": "gloo"}


def whole_run(folder: Path, **more: Any) -> dict[str, Tensor]:
    """The weights after eight steps without an interruption."""
    from training import make_trainer

    trainer = make_trainer(folder, **STEPS, **more)
    trainer.train()
    assert trainer.state.global_step == 8
    return whole_state(trainer.model)


def resumed_run(folder: Path, **more: Any) -> dict[str, Tensor]:
    """The weights after eight steps, of which the last two were taken from a checkpoint on."""
    from training import Recorder, make_trainer

    from geodistill.distillation.checkpoint import last_checkpoint

    make_trainer(folder, callbacks=[Recorder(7)], **STEPS, **more).train()
    resumed = make_trainer(folder, seed=50, **STEPS, **more)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(folder)))
    assert resumed.state.global_step == 8
    return whole_state(resumed.model)


def work_in_two(folder: Path, rank: int) -> None:
    from sharding_on_the_cpu import sharding_on_the_cpu

    gloo = {"ddp_backend": "gloo"}
    results: dict[str, Any] = {}
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        results[f"{batch}x{accumulation}"] = one_step(folder, batch, accumulation, **gloo)
    results["2x2 on their own"] = one_step(folder, 2, 2, exact=False, **gloo)
    # Every other micro-batch is the other rank's.
    results["4x1 local"] = one_step(folder, 4, 1, recipe=LOCAL, order=(0, 1, 4, 5, 2, 3, 6, 7), **gloo)
    results["2x2 local"] = one_step(folder, 2, 2, recipe=LOCAL, **gloo)
    # Three batches for two ranks: the first has two micro-batches, the second one.
    uneven = {"accelerator_config": {"even_batches": False}, "order": range(6)}
    results["answers 2x2"] = one_step(folder, 2, 2, recipe=ANSWERS, causal=True, **gloo)
    results["2x2 and 2x1"] = one_step(folder, 2, 2, **uneven, **gloo)

    results |= {"uninterrupted": whole_run(folder / "whole"), "resumed": resumed_run(folder / "cut")}

    # Last, since it sets the environment of the process.
    with sharding_on_the_cpu():
        for batch, accumulation in ((4, 1), (2, 2)):
            results[f"sharded {batch}x{accumulation}"] = one_step(folder, batch, accumulation, fsdp=True, **gloo)
        results["sharded and uninterrupted"] = whole_run(folder / "sharded-whole", fsdp=True)
        results["sharded and resumed"] = resumed_run(folder / "sharded-cut", fsdp=True)
    results["sharded"] = shards_and_whole(results["sharded 2x2"]["trainer"])
    save(results, folder / f"2-{rank}.pt")


def shards_and_whole(trainer: Any) -> tuple[bool, bool]:
    """Whether the trained student lies in shards, and whether what is made of them is a plain model of all weights."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from transformers import BertForSequenceClassification

    from geodistill.distillation.sharding import whole_model

    assert any(isinstance(each, FSDPModule) for each in trainer.student.bert.encoder.layer), "no block has its own"
    whole, expected = whole_model(trainer.student), whole_state(trainer.student)
    same = all(torch.equal(value, expected[name]) for name, value in whole.state_dict().items())
    sharded = all(isinstance(each, DTensor) for each in trainer.student.parameters())
    return sharded, type(whole) is BertForSequenceClassification and same


def save(results: dict[str, Any], path: Path) -> None:
    for each in results.values():
        if isinstance(each, dict):
            each.pop("trainer", None)
    torch.save(results, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work_in_two(Path(sys.argv[1]), int(os.environ["RANK"]))
