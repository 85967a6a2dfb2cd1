"""The mean divergence of many rows of logits, in memory that does not grow with rows × vocabulary.

The rows are worked through in chunks, forward and again backward, and nothing of a chunk is kept. Beyond its inputs
and the student's gradient the loss needs a few times `CHUNK_ELEMENTS` numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from geodistill.losses.divergences import Divergence

# On a CPU a chunk and its temporaries stay in the caches; an accelerator needs enough work to fill it.
CHUNK_ELEMENTS = {"cpu": 2**18}
ACCELERATOR_CHUNK_ELEMENTS = 2**24


def chunk_rows(width: int, device: torch.device) -> int:
    """How many rows of this width make a chunk."""
    return max(1, CHUNK_ELEMENTS.get(device.type, ACCELERATOR_CHUNK_ELEMENTS) // max(1, width))


class MeanDivergence(torch.autograd.Function):
    """mean over `rows` of T² · divergence(student, teacher): a scalar in float32, float64 for float64 logits.

    `student` (n, V) logits; `rows` (r,) which of the n count, or None for all; zero when there is none. The teacher is
    one tensor of logits (n, V), or what a `TopKLogits` holds: values (n, k), indices (n, k), tail_log_mass (n,).
    The gradient is computed backward from the inputs, in float32 at least, already scaled, and written in the student's
    dtype; so a graph that is kept may be gone through again, and a loss scaler can do what it is for.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, rows: Tensor | None, divergence: Divergence, temperature: float, *teacher: Tensor
    ) -> Tensor:
        ctx.save_for_backward(student, rows, *teacher)
        ctx.divergence, ctx.temperature = divergence, temperature
        total = torch.zeros((), dtype=torch.promote_types(student.dtype, torch.float32), device=student.device)
        for chunk in _chunks(student, rows):
            value, _, _ = _compare(divergence, temperature, student[chunk], [each[chunk] for each in teacher])
            total += value.clamp_(min=0).sum()  # rounding can take a row of equal sides below zero
        return total * (temperature**2 / max(1, _count(student, rows)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        student, rows, *teacher = ctx.saved_tensors
        # One T of T² is taken up by the derivative of the logits over T.
        scale = outer * (ctx.temperature / max(1, _count(student, rows)))
        gradient = torch.empty_like(student) if rows is None else torch.zeros_like(student)
        for chunk in _chunks(student, rows):
            parts = [each[chunk] for each in teacher]
            _, slope, student_log = _compare(ctx.divergence, ctx.temperature, student[chunk], parts)
            gradient[chunk] = _by_logits(slope, student_log, *parts[1:]).mul_(scale).to(gradient.dtype)
        return gradient, None, None, None, *(None for _ in teacher)


def coarsen(student_log: Tensor, indices: Tensor) -> Tensor:
    """Log-probabilities (r, V) to those of the k named tokens and of all the rest together, (r, k + 1)."""
    rest = student_log.scatter(-1, indices, -torch.inf)
    return torch.cat([student_log.gather(-1, indices), rest.logsumexp(-1, keepdim=True)], dim=-1)


def _chunks(student: Tensor, rows: Tensor | None) -> list[slice] | list[Tensor]:
    size = chunk_rows(student.shape[-1], student.device)
    if rows is None:
        return [slice(start, start + size) for start in range(0, len(student), size)]
    return list(rows.split(size)) if len(rows) else []


def _count(student: Tensor, rows: Tensor | None) -> int:
    return len(student if rows is None else rows)


def _compare(
    divergence: Divergence, temperature: float, student: Tensor, teacher: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's divergence (r,), its slope (r, V) or (r, k + 1), and the student's log-probabilities (r, V)."""
    dtype = torch.promote_types(student.dtype, torch.float32)
    student_log = functional.log_softmax(student.to(dtype) / temperature, dim=-1)
    if len(teacher) == 1:
        teacher_log = functional.log_softmax(teacher[0].to(dtype) / temperature, dim=-1)
        return *divergence(student_log, teacher_log), student_log
    values, indices, tail = teacher
    teacher_log = torch.cat([values, tail.unsqueeze(-1)], dim=-1).to(dtype)
    return *divergence(coarsen(student_log, indices), teacher_log), student_log


def _by_logits(slope: Tensor, student_log: Tensor, indices: Tensor | None = None, tail: Tensor | None = None) -> Tensor:
    """From the slope by log-probabilities to the gradient by logits, (r, V): slope − q · Σ slope.

    With a coarse slope (r, k + 1), that of the rest is shared out among its tokens as their probability is.
    """
    total = slope.sum(-1, keepdim=True)
    if indices is None:
        return slope - student_log.exp().mul_(total)
    named = student_log.gather(-1, indices)
    rest = student_log.scatter(-1, indices, -torch.inf)
    # The finite floor serves a student that has nothing beyond the named tokens.
    mass = rest.logsumexp(-1, keepdim=True).clamp_(min=torch.finfo(rest.dtype).min)
    gradient = (rest - mass).exp_().mul_(slope[:, -1:]).sub_(student_log.exp().mul_(total))
    return gradient.scatter_(-1, indices, slope[:, :-1] - named.exp() * total)
