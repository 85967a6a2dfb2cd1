"""One step and short runs of one small training, its examples split over ranks and micro-batches in many ways.

Run as a script, this starts two ranks and four.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sharding_on_the_cpu import sharding_on_the_cpu
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes
from training import Recorder, collate, make_trainer
from transformers import BertForSequenceClassification

from geodistill.distillation.checkpoint import last_checkpoint
from geodistill.distillation.sharding import whole_model
from geodistill.recipe import ObjectiveRecipe, QuantizationRecipe

FEATURES = [
    {"loss": "procrustes", "weight": 2.0, "layers": "uniform"},
    {"loss": "procrustes", "rows": "cls"},
    {"loss": "gram", "special_tokens": False},
    {"loss": "cka", "rows": "mean"},
    {"loss": "projection", "rows": "mean", "normalize": False, "center": False},
]
RECIPE = {"label": {"weight": 0.5}, "logits": {}, "features": FEATURES}
ANSWERS = {"label": {"weight": 0.5}, "logits": {"temperature": 1.0}, "features": [{"loss": "gram", "rows": "response"}]}
TEACHER_RECIPE = {
    "label": {"weight": 0.5},
    "logits": {"weight": 0.5},
    "features": [{"loss": "gram"}, {"loss": "projection", "rows": "mean", "normalize": False}],
}
BOTH: dict[str, Any] = {"teacher_recipe": TEACHER_RECIPE}
W4A4 = QuantizationRecipe(weights=4, activations=4)
EXAMPLES = 8
BACKWARDS = range(EXAMPLES - 1, -1, -1)


def one_step(
    folder: Path,
    batch: int,
    accumulation: int,
    *,
    recipe: dict[str, Any] = RECIPE,
    teacher_recipe: dict[str, Any] | None = None,
    exact: bool = True,
    causal: bool = False,
    padding: int = 0,
    order: Sequence[int] = range(EXAMPLES),
    **more: Any,
) -> dict[str, Any]:
    """Take one step of plain gradient descent at rate one, which leaves the gradient in the weights."""
    recorder = Recorder()
    if teacher_recipe is not None:
        more["options"] = {"teacher_terms": ObjectiveRecipe.model_validate(teacher_recipe).terms}
    settings: dict[str, Any] = {
        "recipe": recipe,
        "causal": causal,
        "examples": EXAMPLES,
        "dropout": 0.0,
        "callbacks": [recorder],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "exact_accumulation": exact,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
    }
    trainer = make_trainer(folder / "step", **{**settings, **more})

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
    state = model.state_dict().items()
    return {name: (each.full_tensor() if isinstance(each, DTensor) else each).clone() for name, each in state}


def work_alone(folder: Path) -> None:
    results = {"6x1": one_step(folder, 6, 1, order=range(6)), "4 and 2": one_step(folder, 4, 2, order=range(6))}
    answers: dict[str, Any] = {"recipe": ANSWERS, "causal": True}
    results |= {"answers 8x1": one_step(folder, 8, 1, **answers), "answers 2x4": one_step(folder, 2, 4, **answers)}
    results |= {"both 8x1": one_step(folder, 8, 1, **BOTH), "both 2x4": one_step(folder, 2, 4, **BOTH)}
    for batch, accumulation in ((8, 1), (4, 2), (2, 4), (1, 8)):
        results[f"{batch}x{accumulation}"] = one_step(folder, batch, accumulation)
    for batch, accumulation in ((8, 1), (2, 4)):
        results[f"quantised {batch}x{accumulation}"] = one_step(folder, batch, accumulation, quantization=W4A4)
    results["2x4 on their own"] = one_step(folder, 2, 4, exact=False)
    results["padded"] = one_step(folder, 8, 1, padding=5)
    results["padded 2x4"] = one_step(folder, 2, 4, padding=5)
    results["reversed"] = one_step(folder, 8, 1, order=BACKWARDS)
    results["reversed 2x4"] = one_step(folder, 2, 4, order=BACKWARDS)
    save(results, folder / "1-0.pt")


GLOO = {"ddp_backend": "gloo"}
STEPS = {"save_strategy": "steps", "save_steps": 6, **GLOO}


def whole_run(folder: Path, **more: Any) -> dict[str, Tensor]:
    """The weights after eight steps without an interruption."""
    trainer = make_trainer(folder, **STEPS, **more)
    trainer.train()
    assert trainer.state.global_step == 8
    return whole_state(trainer.model)


def resumed_run(folder: Path, **more: Any) -> dict[str, Tensor]:
    """The weights after eight steps, of which the last two were taken from a checkpoint on."""
    make_trainer(folder, callbacks=[Recorder(7)], **STEPS, **more).train()
    resumed = make_trainer(folder, seed=50, **STEPS, **more)
    resumed.train(resume_from_checkpoint=str(last_checkpoint(folder)))
    assert resumed.state.global_step == 8
    return whole_state(resumed.model)


def work_in_two(folder: Path, rank: int) -> None:
    results: dict[str, Any] = {}
    for batch, accumulation in ((4, 1), (2, 2), (1, 4)):
        results[f"{batch}x{accumulation}"] = one_step(folder, batch, accumulation, **GLOO)
    results["2x2 on their own"] = one_step(folder, 2, 2, exact=False, **GLOO)
    results |= {"both 4x1": one_step(folder, 4, 1, **BOTH, **GLOO), "both 2x2": one_step(folder, 2, 2, **BOTH, **GLOO)}
    for batch, accumulation in ((4, 1), (2, 2)):
        results[f"quantised {batch}x{accumulation}"] = one_step(folder, batch, accumulation, quantization=W4A4, **GLOO)
    # Every other micro-batch is the other rank's.
    results["4x1 local"] = one_step(folder, 4, 1, global_batch=False, order=(0, 1, 4, 5, 2, 3, 6, 7), **GLOO)
    results["2x2 local"] = one_step(folder, 2, 2, global_batch=False, **GLOO)
    # Three batches for two ranks: the first has two micro-batches, the second one.
    uneven = {"accelerator_config": {"even_batches": False}, "order": range(6)}
    results["answers 2x2"] = one_step(folder, 2, 2, recipe=ANSWERS, causal=True, **GLOO)
    results["2x2 and 2x1"] = one_step(folder, 2, 2, **uneven, **GLOO)

    results |= {"uninterrupted": whole_run(folder / "whole"), "resumed": resumed_run(folder / "cut")}

    # Last, since it sets the environment of the process.
    with sharding_on_the_cpu():
        for batch, accumulation in ((4, 1), (2, 2)):
            results[f"sharded {batch}x{accumulation}"] = one_step(folder, batch, accumulation, fsdp=True, **GLOO)
        results["sharded and uninterrupted"] = whole_run(folder / "sharded-whole", fsdp=True)
        results["sharded and resumed"] = resumed_run(folder / "sharded-cut", fsdp=True)
    results["sharded"] = shards_and_whole(results["sharded 2x2"]["trainer"])
    save(results, folder / f"2-{rank}.pt")


def work_in_four(folder: Path, rank: int) -> None:
    results = {"2x1": one_step(folder, 2, 1, **GLOO), "1x2": one_step(folder, 1, 2, **GLOO)}
    with sharding_on_the_cpu():
        results["sharded 2x1"] = one_step(folder, 2, 1, fsdp=True, **GLOO)
    save(results, folder / f"4-{rank}.pt")


def shards_and_whole(trainer: Any) -> tuple[bool, bool]:
    """Whether the trained student lies in shards, and whether what is made of them is a plain model of all weights."""
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


def be_one_of(rank: int, ranks: int, port: int, folder: Path) -> None:
    shared = {"WORLD_SIZE": ranks, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {key: str(value) for key, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
    torch.set_num_threads(1)
    {2: work_in_two, 4: work_in_four}[ranks](folder, rank)


def start_ranks(folder: Path) -> None:
    """Start two ranks and four. A forked process need not import the libraries again."""
    started = []
    for ranks in (2, 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started.append(start_processes(be_one_of, (ranks, port, folder), ranks, join=False, start_method="fork"))
    for each in started:
        while not each.join():
            pass


if __name__ == "__main__":
    start_ranks(Path(sys.argv[1]))
