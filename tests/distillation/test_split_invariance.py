"""How examples are split over ranks and micro-batches, padded and ordered changes neither gradient nor log.

The tests run `split_over_ranks.py`, which starts two ranks and four, and compare what it writes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
import split_over_ranks
import torch
from split_over_ranks import work_alone
from torch import Tensor

LOSSES = ("procrustes", "gram", "cka", "projection")
Found = dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank found, for one rank, two and four."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, split_over_ranks.__file__, str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, **pipes
    ) as process:
        try:
            work_alone(folder)
            output = process.communicate(timeout=240)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the script and its ranks
    assert process.returncode == 0, output
    return {ranks: [torch.load(folder / f"{ranks}-{rank}.pt") for rank in range(ranks)] for ranks in (1, 2, 4)}


def assert_same_gradient(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (other[name] - value).abs().max() <= 1e-6 * max(1.0, value.norm().item()), name


def largest_gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max((other[name] - value).abs().max().item() for name, value in one.items())


# Batch × accumulation on one rank, then on each of two and of four; the same eight examples in each.
ONE_RANK = ["4x2", "2x4", "1x8", "padded", "padded 2x4", "reversed", "reversed 2x4"]
TWO_RANKS = ["4x1", "2x2", "1x4", "sharded 4x1", "sharded 2x2"]
FOUR_RANKS = ["2x1", "1x2", "sharded 2x1"]


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


def test_a_teacher_that_learns_gets_the_gradient_of_one_rank(found: Found) -> None:
    """Both models' gradients are averaged over ranks, and exact over micro-batches."""
    whole = found[1][0]["both 8x1"]["gradient"]
    assert any(name.startswith("teacher.") for name in whole)
    assert_same_gradient(whole, found[1][0]["both 2x4"]["gradient"])
    for rank in found[2]:
        assert_same_gradient(whole, rank["both 4x1"]["gradient"])
        assert_same_gradient(whole, rank["both 2x2"]["gradient"])


@pytest.mark.parametrize("split", FOUR_RANKS)
def test_four_ranks_give_the_gradient_of_one(found: Found, split: str) -> None:
    for rank in found[4]:
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


def test_intervals_of_quantisers_have_the_gradient_of_one_batch_too(found: Found) -> None:
    whole = found[1][0]["quantised 8x1"]["gradient"]
    intervals = [name for name in whole if name.endswith(".interval")]
    assert len(intervals) == 17 + 14
    assert not [name for name in intervals if not whole[name].any()]
    for split in (
        found[1][0]["quantised 2x4"],
        *(rank[f"quantised {way}"] for rank in found[2] for way in ("4x1", "2x2")),
    ):
        assert_same_gradient(whole, split["gradient"])


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
