"""The moments of the whole batch when its rows lie on several ranks.

Two ways, chosen by what they send: rows are gathered while they are few (sample side), moments are summed when rows are
many (feature side). Either way every rank then holds the same loss, and its gradient reaches the rank's own rows.

The backward pass sends nothing. The loss is the same function on every rank, so the sum over ranks of the gradients of
a shared quantity is the number of ranks times the own one; that factor is exactly what the averaging of gradients in
DistributedDataParallel and FSDP takes out again. The trained gradient is therefore the one of a single process that
sees the whole batch, provided that all ranks give the loss the same weight.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from geodistill.errors import GeodistillError
from geodistill.geometry.features import FeatureRows, PairedRows
from geodistill.geometry.moments import Moments


def world_size() -> int:
    """How many ranks share the batch; one when torch.distributed is not running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_is_cheaper(n: int, student_width: int, teacher_width: int, student_gram: bool, teacher_gram: bool) -> bool:
    """Whether gathering all n rows of both sides sends less than summing their second moments; chooses for all."""
    gathered, summed = elements_sent(n, student_width, teacher_width, student_gram, teacher_gram)
    return gathered < summed


def elements_sent(
    n: int, student_width: int, teacher_width: int, student_gram: bool, teacher_gram: bool
) -> tuple[int, int]:
    """How many numbers each rank sends when all n rows are gathered, and when moments are summed.

    A ring gathers with one passage of the whole and sums with two; of R ranks each sends (R − 1)/R of that.
    """
    moments = student_width * (teacher_width + student_gram * student_width) + teacher_gram * teacher_width**2
    return n * (student_width + teacher_width), 2 * moments


def agree_on_rows(rows: PairedRows) -> tuple[PairedRows, list[int]]:
    """Every rank's number of rows. It blocks until the accelerator has finished.

    A rank without a mask gets one of ones when another rank has a mask.
    """
    own = torch.tensor([len(rows.student), rows.weights is not None], device=rows.student.device)
    shapes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(shapes, own)
    sizes, masked = torch.stack(shapes).T.tolist()
    if any(masked) and rows.weights is None:
        ones = torch.ones(len(rows.student), dtype=rows.dtype, device=rows.student.device)
        rows = PairedRows(rows.student, FeatureRows(rows.teacher.values, ones, rows.dtype))
    return rows, sizes


def gather_rows(rows: PairedRows, sizes: list[int]) -> PairedRows:
    """All ranks' rows, in the order of the ranks; the student's gradient returns to its own rank."""
    weights = None if rows.weights is None else _Gather.apply(rows.weights.unsqueeze(1), sizes).squeeze(1)
    teacher = FeatureRows(_Gather.apply(rows.teacher.values, sizes), weights, rows.dtype)
    return PairedRows(_Gather.apply(rows.student, sizes), teacher)


def sum_moments(moments: Moments) -> Moments:
    """The moments of all ranks' rows: counts and means first, then second moments about the common mean."""
    count = moments.count
    widths = [1, 1, len(moments.student_mean), len(moments.teacher_mean)]
    parts = [moments.rows[None], count[None], count * moments.student_mean, count * moments.teacher_mean]
    kept, total, student, teacher = _AllReduce.apply(torch.cat(parts)).split(widths)
    share = 1 / torch.where(total == 0, 1, total)
    student_mean, teacher_mean = ((side * share).to(moments.cross.dtype) for side in (student, teacher))
    # Held fixed here: about the mean of the whole, second moments do not change to first order with that mean.
    own = moments.about(student_mean.detach(), teacher_mean.detach())
    squares = _AllReduce.apply(torch.stack([own.student_square, own.teacher_square]))
    matrices = [matrix for matrix in (own.cross, own.student_gram, own.teacher_gram) if matrix is not None]
    flat = _AllReduce.apply(torch.cat([matrix.flatten() for matrix in matrices]))
    parts = iter(flat.split([matrix.numel() for matrix in matrices]))
    cross = next(parts).view_as(own.cross)
    student_gram, teacher_gram = (
        None if matrix is None else next(parts).view_as(matrix) for matrix in (own.student_gram, own.teacher_gram)
    )
    return Moments(
        kept[0], total[0], student_mean, teacher_mean, squares[0], squares[1], cross, student_gram, teacher_gram
    )


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor of one shape over all ranks; the gradient is exact once averaged over ranks."""
    return _AllReduce.apply(values)


def largest_over_ranks(values: Tensor) -> Tensor:
    """The largest of each entry over all ranks, without a gradient."""
    largest = values.detach().contiguous().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def agree_on_sizes(sizes: list[int], device: torch.device) -> None:
    """Refuse, on all ranks, what has another size on another rank. It blocks until the accelerator has finished.

    Raises GeodistillError.
    """
    own = torch.tensor([[each, -each] for each in sizes], device=device)
    largest = largest_over_ranks(own)
    if not bool((largest[:, 0] == -largest[:, 1]).all()):
        raise GeodistillError(
            "The feature maps have other channels or another size on another rank.",
            "Give all ranks images of one size, or set global_batch=False.",
        )


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * world_size()


class _Gather(torch.autograd.Function):
    """Shards (n_r, d) of every rank, padded to the longest for the exchange, to one (Σ n_r, d)."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, sizes: list[int]) -> Tensor:
        padded = shard.new_zeros(max(sizes), shard.shape[1])
        padded[: len(shard)] = shard
        shards = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(shards, padded)
        start = sum(sizes[: dist.get_rank()])
        ctx.own = slice(start, start + len(shard))
        return torch.cat([each[:size] for each, size in zip(shards, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own] * world_size(), None
