"""The loss of the whole batch over two processes is that of one process, and so is its gradient.

This file is both the test and, run as a script, one of its two processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from geodistill.geometry.moments import Moments
from geodistill.geometry.rows import pair_rows
from geodistill.losses import AccumulatedLoss, CKALoss, GramLoss, ProcrustesLoss, ProjectionLoss
from geodistill.losses.distributed import agree_on_rows, gather_is_cheaper, gather_rows, sum_moments, world_size

LOSSES = {
    "procrustes": ProcrustesLoss,
    "gram": GramLoss,
    "cka": CKALoss,
    "projection": lambda **options: ProjectionLoss(12, 20, **options),
    "orthogonal": lambda **options: ProjectionLoss(12, 20, orthogonal=True, **options),
}
OPTIONS = {"default": {}, "raw": {"center": False, "normalize": False}, "rows": {"normalize": "rows", "squared": False}}
# Rows of the first rank and of the second, and what its mask keeps there: all, some, nothing, or no mask at all.
SHARDS = {
    "few": (9, 5, "all", "all"),
    "many": (150, 90, "some", "some"),
    "many, one without a mask": (150, 90, "some", None),
    "few, one rank keeps nothing": (9, 5, "some", "none"),
    "many, one rank keeps nothing": (150, 90, "some", "none"),
    "many, one rank has no row": (150, 0, "some", "all"),
    "one row in all": (3, 3, "one", "none"),
}
CASES = [(loss, options, shards) for loss in LOSSES for options in OPTIONS for shards in SHARDS]


def make(name, options, **more):
    torch.manual_seed(0)
    return LOSSES[name](**OPTIONS[options], **more)


def batch(shards):
    """The whole batch, its mask, and the slice of it that each rank holds."""
    first, second, *kept = SHARDS[shards]
    generator = torch.Generator().manual_seed(0)
    n = first + second
    inputs = torch.randn(n, 8, generator=generator)
    teacher = torch.randn(n, 20, generator=generator) + 1
    teacher[:, :8] += 2 * inputs
    mask = torch.rand(n, generator=generator) > 0.3
    slices = (slice(0, first), slice(first, n))
    for part, which in zip(slices, kept, strict=True):
        mask[part] = {"some": mask[part], "none": False, "one": torch.arange(n)[part] == 0}.get(which, True)
    return inputs, teacher, mask, slices, kept


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12))


def gradients(*modules):
    return torch.cat([p.grad.flatten() for module in modules for p in module.parameters() if p.grad is not None])


def in_one_process(name, options, shards):
    inputs, teacher, mask, _, _ = batch(shards)
    student, loss = model(), make(name, options)
    value = loss(student(inputs), teacher, mask)
    value.backward()
    return value.item(), gradients(student, loss)


def in_two_processes(name, options, shards, accumulated=False):
    """The student under DistributedDataParallel; the loss's own parameters averaged by hand, as a trainer would."""
    inputs, teacher, mask, slices, kept = batch(shards)
    own = slices[dist.get_rank()]
    inputs, teacher = inputs[own], teacher[own]
    mask = None if kept[dist.get_rank()] is None else mask[own]
    student, loss = nn.parallel.DistributedDataParallel(model()), make(name, options, global_batch=True)
    features = student(inputs)
    if accumulated:
        halves = [slice(0, len(inputs) // 2), slice(len(inputs) // 2, None)]
        masks = [None if mask is None else mask[half] for half in halves]
        with torch.no_grad():
            parts = [loss.moments(features[h], teacher[h], m) for h, m in zip(halves, masks, strict=True)]
        whole = AccumulatedLoss(loss, parts[0] + parts[1])
        sum(whole(features[h], teacher[h], m) for h, m in zip(halves, masks, strict=True)).backward()
        value = whole.value
    else:
        value = loss(features, teacher, mask)
        value.backward()
    for parameter in loss.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
    return value.item(), gradients(student, loss)


def compare(case, **options):
    """Relative error of the value and of the gradient of one case."""
    value, gradient = in_one_process(*case)
    found, found_gradient = in_two_processes(*case, **options)
    scale = gradient.norm() if gradient.norm() > 0 else 1
    return [abs(found - value) / (abs(value) or 1), ((found_gradient - gradient).norm() / scale).item()]


def both_ways():
    """Gathered rows and summed moments, where both are possible, give the same moments."""
    _, teacher, mask, slices, _ = batch("few")
    own = slices[dist.get_rank()]
    rows, sizes = agree_on_rows(pair_rows(teacher[own, :12], teacher[own], mask[own]))
    summed, gathered = sum_moments(Moments.of(rows)), Moments.of(gather_rows(rows, sizes))
    return [
        ((a - b).norm() / (b.norm() + 1e-30)).item()
        for a, b in zip(vars(summed).values(), vars(gathered).values(), strict=True)
    ]


def in_bfloat16():
    """Low-precision rows cross the ranks as they are, and are multiplied in float32 like anywhere else."""
    _, teacher, mask, slices, _ = batch("few")
    own, low = slices[dist.get_rank()], teacher.bfloat16()
    found = ProcrustesLoss(global_batch=True)(low[own, :12], low[own], mask[own])
    return [abs(found - ProcrustesLoss()(low[:, :12], low, mask)).item()]


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    errors = {"|".join(case): compare(case) for case in CASES}
    accumulated = [(loss, "default", shards) for loss in LOSSES for shards in ("few", "many")]
    errors |= {"|".join(("accumulated", *case)): compare(case, accumulated=True) for case in accumulated}
    errors |= {"both ways": both_ways(), "bfloat16": in_bfloat16()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(errors), encoding="utf-8")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    complaints = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(complaints)
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids="|".join)
def test_two_processes_are_one(errors, case):
    for of_rank in errors:
        value, gradient = of_rank["|".join(case)]
        assert max(value, gradient) < 1e-6


def test_accumulation_over_ranks_and_parts_is_one(errors):
    found = {case: worst for case, worst in errors[0].items() if case.startswith("accumulated")}
    assert len(found) == 10
    for case, worst in found.items():
        assert max(worst) < 1e-5, case


def test_gathering_and_summing_agree(errors):
    assert max(errors[0]["both ways"] + errors[1]["both ways"]) < 1e-6


def test_bfloat16_rows_are_gathered(errors):
    assert max(errors[0]["bfloat16"] + errors[1]["bfloat16"]) < 1e-6


def test_what_is_sent_decides():
    assert gather_is_cheaper(32, 128, 384, False, False)
    assert not gather_is_cheaper(2048, 128, 384, False, False)
    assert gather_is_cheaper(300, 128, 384, True, True) and not gather_is_cheaper(300, 128, 384, False, False)


def test_one_process_needs_no_ranks():
    assert world_size() == 1
    student, teacher = torch.randn(20, 5), torch.randn(20, 9)
    assert ProcrustesLoss(global_batch=True)(student, teacher) == ProcrustesLoss()(student, teacher)


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2])
