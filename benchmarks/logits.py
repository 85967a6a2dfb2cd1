"""Time and memory of the logit losses at the size of a language model, on this machine.

    python benchmarks/logits.py [--rows 2048] [--vocabulary 49152] [--rounds 3] [--threads 1]

Forward and backward of each divergence, in units of what people write: T² · kl_div of two log_softmax, which is a
forward KL. Times are ratios taken in one run, the candidates in turn, and the fastest round of each counts. Memory is
the peak beyond the logits of both sides and the student's gradient, each candidate in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch
from timing import Run, interleaved
from torch import Tensor
from torch.nn import functional

from geodistill.losses.divergences import DIVERGENCES
from geodistill.losses.logits import LogitLoss
from geodistill.losses.top_k import TopKLogits
from geodistill.runs.cost import peak_megabytes, reset_peak_memory

TEMPERATURE = 2.0
WRITTEN, TOP_K = "kl_div as written", "forward_kl, top 64"
CANDIDATES = (WRITTEN, *DIVERGENCES, TOP_K)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=3, help="how often each candidate is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", nargs=2, metavar=("CANDIDATE", "DTYPE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    shape = (arguments.rows, arguments.vocabulary)
    if arguments.memory:
        name, dtype = arguments.memory
        print(extra_memory(name, *draw(shape, getattr(torch, dtype))))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, logits {shape}, T = {TEMPERATURE}")
    # Memory first: on Linux a process starts with the peak of the one that it comes from.
    dtypes = ("float32", "bfloat16")
    memories = {dtype: {name: measure_apart(name, dtype, arguments) for name in CANDIDATES} for dtype in dtypes}
    for dtype, memory in memories.items():
        times = fastest(*draw(shape, getattr(torch, dtype)), arguments.rounds)
        print(f"\n{dtype:<22}{'time':>8}{'ratio':>8}{'extra memory':>15}{'ratio':>8}")
        for name in times:
            print(
                f"{name:<22}{times[name]:6.2f} s{times[name] / times[WRITTEN]:8.2f}"
                f"{memory[name]:12.0f} MB{memory[name] / memory[WRITTEN]:8.3f}"
            )


def draw(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits of a student and of a teacher that agree in part."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(shape, generator=generator, dtype=dtype).mul_(3)
    student = torch.randn(shape, generator=generator, dtype=dtype).mul_(2).add_(teacher, alpha=0.5)
    return student.requires_grad_(), teacher


def written(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss as people write it; in float32, as bfloat16 would lose most of it."""
    student, teacher = student.float() / TEMPERATURE, teacher.float() / TEMPERATURE
    logs = functional.log_softmax(student, dim=-1), functional.log_softmax(teacher, dim=-1)
    return TEMPERATURE**2 * functional.kl_div(*logs, reduction="batchmean", log_target=True)


def candidate(name: str, teacher: Tensor) -> Callable[[Tensor], Tensor]:
    """A loss of the student's logits; what is made of the teacher's beforehand is not part of it."""
    if name == WRITTEN:
        return lambda student: written(student, teacher)
    if name == TOP_K:
        cut = TopKLogits.of(teacher, 64, TEMPERATURE)
        return lambda student: LogitLoss(TEMPERATURE)(student, cut)
    loss = LogitLoss(TEMPERATURE, divergence=name)  # type: ignore[arg-type]
    return lambda student: loss(student, teacher)


def fastest(student: Tensor, teacher: Tensor, rounds: int) -> dict[str, float]:
    """Seconds of each candidate with its gradient, the fastest of several rounds in turn."""
    losses = {name: candidate(name, teacher) for name in CANDIDATES}
    steps: dict[str, Run] = {
        name: lambda loss=loss: torch.autograd.grad(loss(student), student)  # type: ignore[misc]
        for name, loss in losses.items()
    }
    return {name: min(each) for name, each in interleaved(steps, rounds).items()}


def extra_memory(name: str, student: Tensor, teacher: Tensor) -> float:
    """Megabytes that a forward and backward pass needed beyond its inputs and its gradient."""
    loss = candidate(name, teacher)
    reset_peak_memory()
    before = peak_megabytes()
    loss(student).backward()
    return peak_megabytes() - before - student.numel() * student.element_size() / 1e6


def measure_apart(name: str, dtype: str, arguments: argparse.Namespace) -> float:
    sizes = ["--rows", str(arguments.rows), "--vocabulary", str(arguments.vocabulary)]
    command = [sys.executable, __file__, "--memory", name, dtype, "--threads", str(arguments.threads), *sizes]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
