"""The loss of the whole batch over several processes is that of one process, and so is its gradient.

This file is both the test and, run as a script, what starts its processes.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import start_processes

from geodistill.errors import GeodistillError
from geodistill.geometry.features import pair_rows
from geodistill.geometry.moments import Moments
from geodistill.losses import AccumulatedLoss, CKALoss, GramLoss, PCKALoss, ProcrustesLoss, ProjectionLoss, RCKALoss
from geodistill.losses.ranks import agree_on_rows, gather_is_cheaper, gather_rows, sum_moments, world_size

LOSSES = {
    "procrustes": ProcrustesLoss,
    "gram": GramLoss,
    "cka": CKALoss,
    "projection": lambda **options: ProjectionLoss(12, 20, **options),
    "orthogonal": lambda **options: ProjectionLoss(12, 20, orthogonal=True, **options),
}
OPTIONS = {"default": {}, "raw": {"center": False, "normalize": False}, "rows": {"normalize": "rows", "squared": False}}
# Rows of each rank, and what its mask keeps there: all, some, one, nothing, or no mask at all.
TWO_RANKS = {
    "few": [(9, "all"), (5, "all")],
    "many": [(150, "some"), (90, "some")],
    "many, one without a mask": [(150, "some"), (90, None)],
    "few, one rank keeps nothing": [(9, "some"), (5, "none")],
    "many, one rank keeps nothing": [(150, "some"), (90, "none")],
    "many, one rank has no row": [(150, "some"), (0, "all")],
    "one row in all": [(3, "one"), (3, "none")],
}
FOUR_RANKS = {
    "four, few": [(7, "some"), (0, "all"), (3, None), (5, "none")],
    "four, many": [(90, "some"), (0, "all"), (30, None), (150, "some")],
}
SHARDS = TWO_RANKS | FOUR_RANKS
CASES = [(loss, options, shards) for loss in LOSSES for options in OPTIONS for shards in SHARDS]
ACCUMULATED = {2: ("few", "many"), 4: ("four, few", "four, many")}


def make(name, options, **more):
    torch.manual_seed(0)
    return LOSSES[name](**OPTIONS[options], **more)


def batch(shards):
    """The whole batch, its mask, and the slice of it that each rank holds."""
    sizes, kept = zip(*SHARDS[shards], strict=True)
    generator = torch.Generator().manual_seed(0)
    *starts, n = accumulate(sizes, initial=0)
    inputs = torch.randn(n, 8, generator=generator)
    teacher = torch.randn(n, 20, generator=generator) + 1
    teacher[:, :8] += 2 * inputs
    mask = torch.rand(n, generator=generator) > 0.3
    slices = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
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


def in_many_processes(name, options, shards, accumulated=False):
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
    found, found_gradient = in_many_processes(*case, **options)
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
    """Low-precision rows cross the ranks unchanged, and are multiplied in float32 as everywhere."""
    _, teacher, mask, slices, _ = batch("few")
    own, low = slices[dist.get_rank()], teacher.bfloat16()
    found = ProcrustesLoss(global_batch=True)(low[own, :12], low[own], mask[own])
    return [abs(found - ProcrustesLoss()(low[:, :12], low, mask)).item()]


MAP_LOSSES = {
    "rcka": lambda: RCKALoss(features=0.5, classes=2.0),
    "rcka as published": lambda: RCKALoss(centered=False),
    "pcka": lambda: PCKALoss(patch=2),
    "pcka with a learned map": lambda: PCKALoss(3, 4, patch=2),
    "pcka as published": lambda: PCKALoss(patch=2, centered=False),
}


def of_images(name, everywhere):
    """The loss of a batch of images in two unequal parts, or of the whole in one process, and its gradient."""
    generator = torch.Generator().manual_seed(0)
    channels = 3 if "learned" in name else 4
    images = torch.randn(14, 2, 6, 6, generator=generator)
    teacher, teacher_logits = (torch.randn(14, *shape, generator=generator) for shape in ((4, 6, 6), (5,)))
    torch.manual_seed(1)
    student = nn.Conv2d(2, channels, 3, padding=1)
    head = nn.Linear(channels, 5)
    loss = MAP_LOSSES[name]()
    loss.global_batch = everywhere  # as an objective does it
    if everywhere:
        own = slice(9) if dist.get_rank() == 0 else slice(9, None)
        images, teacher, teacher_logits = images[own], teacher[own], teacher_logits[own]
    maps = student(images)
    logits = (head(maps.mean((2, 3))), teacher_logits) if name.startswith("rcka") else ()
    value = loss(maps, teacher, *logits)
    value.backward()
    if everywhere:
        for parameter in (*student.parameters(), *head.parameters(), *loss.parameters()):
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
    return value.item(), gradients(student, head, loss)


def compare_images(name):
    """Relative error of the value and of the gradient."""
    (value, gradient), (found, found_gradient) = of_images(name, False), of_images(name, True)
    return [abs(found - value) / value, ((found_gradient - gradient).norm() / gradient.norm()).item()]


def refused_sizes():
    """Maps of another size on each rank are refused on both, and no rank waits for the other."""
    maps = torch.randn(2, 3, 6 + 2 * dist.get_rank(), 6)
    try:
        PCKALoss(patch=2, global_batch=True)(maps, maps)
    except GeodistillError as error:
        return [error.problem]
    return []


def process(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    errors = {"|".join(case): compare(case) for case in CASES if len(SHARDS[case[2]]) == ranks}
    accumulated = [(loss, "default", shards) for loss in LOSSES for shards in ACCUMULATED[ranks]]
    errors |= {"|".join(("accumulated", *case)): compare(case, accumulated=True) for case in accumulated}
    if ranks == 2:
        errors |= {"both ways": both_ways(), "bfloat16": in_bfloat16(), "sizes": refused_sizes()}
        errors |= {name: compare_images(name) for name in MAP_LOSSES}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(errors), encoding="utf-8")
    # A rank may abort at its end while another still sends, or where something holds on to the group.
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found, and each of four."""
    folders = {ranks: tmp_path_factory.mktemp(f"{ranks}-ranks") for ranks in (2, 4)}
    command = [sys.executable, __file__, *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {
        ranks: [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]
        for ranks, folder in folders.items()
    }


@pytest.fixture
def errors(found):
    return found[2]


@pytest.fixture
def errors_of_four(found):
    return found[4]


@pytest.mark.parametrize("case", [case for case in CASES if case[2] in TWO_RANKS], ids="|".join)
def test_two_processes_are_one(errors, case):
    for of_rank in errors:
        value, gradient = of_rank["|".join(case)]
        assert max(value, gradient) < 1e-6


@pytest.mark.parametrize("case", [case for case in CASES if case[2] in FOUR_RANKS], ids="|".join)
def test_four_processes_are_one(errors_of_four, case):
    for of_rank in errors_of_four:
        value, gradient = of_rank["|".join(case)]
        assert max(value, gradient) < 1e-6


@pytest.mark.parametrize("ranks", [2, 4])
def test_accumulation_over_ranks_and_parts_is_one(errors, errors_of_four, ranks):
    of_first = {2: errors, 4: errors_of_four}[ranks][0]
    found = {case: worst for case, worst in of_first.items() if case.startswith("accumulated")}
    assert len(found) == 10
    for case, worst in found.items():
        assert max(worst) < 1e-5, case


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_losses_of_maps_and_logits_are_of_the_whole_batch(errors, name):
    for of_rank in errors:
        assert max(of_rank[name]) < 1e-5


def test_maps_of_another_size_on_another_rank_are_refused(errors):
    assert [["another size on another rank" in problem for problem in each["sizes"]] for each in errors] == [[True]] * 2


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


def start(folders):
    """Start two processes and four. A forked process need not import torch again."""
    options = {"join": False, "start_method": "fork"}
    started = [
        start_processes(process, (ranks, folder), ranks, **options)
        for ranks, folder in zip((2, 4), folders, strict=True)
    ]
    for each in started:
        while not each.join():
            pass


if __name__ == "__main__":
    start(sys.argv[1:])
