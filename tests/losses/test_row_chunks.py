from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from geodistill.losses import row_chunks
from geodistill.losses.divergences import DIVERGENCES, choose_divergence
from geodistill.losses.logits import LogitLoss
from geodistill.losses.top_k import TopKLogits

TEACHERS = ["whole", "top_k"]


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 13, 11, generator=generator, dtype=torch.float64) * 3
    return student.requires_grad_(), teacher


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(row_chunks.CHUNK_ELEMENTS, "cpu", 4 * 11)  # four rows, and one in the last


def as_seen(teacher: Tensor, kind: str, temperature: float = 2.0) -> Tensor | TopKLogits:
    return teacher if kind == "whole" else TopKLogits.of(teacher, 4, temperature)


def by_autograd(name: str, student: Tensor, teacher: Tensor | TopKLogits, rows: Tensor) -> Tensor:
    """The mean as one differentiable expression, through log_softmax and the plain formula of the value."""
    log = (student[rows] / 2).log_softmax(-1)
    if isinstance(teacher, TopKLogits):
        values, indices, tail = (part[rows] for part in teacher.rows())
        rest = torch.ones_like(log).scatter(-1, indices, 0)
        log = torch.cat([log.gather(-1, indices), (log.exp() * rest).sum(-1, keepdim=True).log()], -1)
        target = torch.cat([values, tail[:, None]], -1)
    else:
        target = (teacher[rows] / 2).log_softmax(-1)
    return 4 * choose_divergence(name)(log, target)[0].mean()


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_chunks_change_neither_value_nor_gradient(
    logits: tuple[Tensor, Tensor], small_chunks: None, name: str, kind: str
) -> None:
    student, teacher = logits
    seen = as_seen(teacher, kind)
    mask = torch.arange(13) % 5 != 1
    for chosen in (None, mask):
        rows = torch.arange(13) if chosen is None else mask.nonzero().squeeze(1)
        expected = by_autograd(name, student, seen, rows)
        found = LogitLoss(2.0, divergence=name)(student, seen, chosen)
        torch.testing.assert_close(found, expected)
        both = [torch.autograd.grad(3 * each, student)[0] for each in (found, expected)]
        torch.testing.assert_close(*both)
        if chosen is not None:
            assert not both[0][~mask].any()


@pytest.mark.parametrize("kind", TEACHERS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradcheck(logits: tuple[Tensor, Tensor], small_chunks: None, name: str, kind: str) -> None:
    student, teacher = logits
    loss = LogitLoss(1.5, divergence=name)
    mask = torch.arange(13) != 3
    assert torch.autograd.gradcheck(lambda each: loss(each, as_seen(teacher, kind, 1.5), mask), student)


def test_a_graph_may_be_gone_through_twice(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    loss = LogitLoss()(student, teacher)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(2 * loss, student)
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, 2 * first)


def test_a_gradient_in_half_precision_is_scaled_before_it_is_rounded() -> None:
    """Entries of 1e-9, below all that float16 has, arrive when a loss scaler asks for them."""
    student = torch.zeros(4096, 8, dtype=torch.float16, requires_grad=True)
    teacher = torch.zeros(4096, 8)
    teacher[:, 0] = 1e-4
    (LogitLoss(1.0)(student, teacher) * 2**20).backward()
    expected = 2**20 * (torch.full((8,), 1 / 8) - teacher[0].softmax(-1)) / 4096
    torch.testing.assert_close(student.grad[7].float(), expected, rtol=1e-2, atol=0)


MEASURE = """
import torch
from pathlib import Path
from geodistill.losses.logits import LogitLoss
torch.set_num_threads(1)

def peak():  # in kilobytes; the peak that getrusage gives may be the parent's
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])

student = torch.randn(512, 32768, requires_grad=True)
teacher = torch.randn(512, 32768)
mask = torch.ones(512)
loss = LogitLoss(divergence="jensen_shannon")
loss(torch.randn(9, 9, requires_grad=True), torch.randn(9, 9), torch.ones(9)).backward()
before = peak()
loss(student, teacher, mask).backward()
print(peak() - before - student.numel() * 4 // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_beyond_inputs_and_gradient_stays_small() -> None:
    """A log_softmax of these logits would be 67 MB a side."""
    found = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert int(found.stdout) * 1024 < 50e6
