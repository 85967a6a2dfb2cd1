"""From features of any shape to rows: what both sides of a pair share before anything is computed.

A mask is a weight: a row of weight w counts w times, and a row of weight zero is as if it were not there, whatever it
holds. A block is a run of consecutive rows, small enough that no full copy of the features is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geodistill.errors import GeodistillError

BLOCK_ELEMENTS = 2**22  # of both sides together: 16 MiB in float32, which stays in a CPU's last cache


class PairedRows(NamedTuple):
    """The same n inputs seen by both models: rows (n, d_s) and (n, d_t), and their weights (n,) when masked."""

    student: Tensor
    teacher: Tensor
    weights: Tensor | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every product: float64 when a side has it, otherwise float32."""
        wide = torch.promote_types(self.student.dtype, self.teacher.dtype)
        return torch.promote_types(wide, torch.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, d_s, d_t)."""
        return (*self.student.shape, self.teacher.shape[1])


def pair_rows(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> PairedRows:
    """Flatten features (…, d_s) and (…, d_t) and a mask (…) to rows. The teacher is cut from its graph.

    Raises GeodistillError when the leading dimensions of the three differ, or features are not floating point.
    """
    for side, features in (("student", student), ("teacher", teacher)):
        if features.dim() < 2 or not features.is_floating_point():
            raise GeodistillError(
                f"The {side}'s features are {features.dtype} of shape {tuple(features.shape)}.",
                "Give floating-point features with rows before the feature dimension: (…, width).",
            )
    if student.shape[:-1] != teacher.shape[:-1]:
        raise GeodistillError(
            f"Student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not have the same rows.",
            "Every dimension but the last must agree: the same inputs through both models.",
        )
    if mask is not None and mask.shape != student.shape[:-1]:
        raise GeodistillError(
            f"The mask {tuple(mask.shape)} does not fit features {tuple(student.shape)}.",
            "A mask has the features' dimensions without the last one.",
        )
    weights = None
    if mask is not None:
        exact = torch.promote_types(student.dtype, torch.float32)
        weights = mask.detach().reshape(-1).to(device=student.device, dtype=exact)
    return PairedRows(student.flatten(0, -2), teacher.detach().flatten(0, -2), weights)


def blocks(rows: PairedRows) -> Iterator[slice]:
    """Consecutive slices of the rows, each of about BLOCK_ELEMENTS elements on both sides together."""
    n, student_width, teacher_width = rows.shape
    length = max(256, BLOCK_ELEMENTS // max(1, student_width + teacher_width))
    return (slice(start, min(start + length, n)) for start in range(0, n, length))


def weigh(block: Tensor, weights: Tensor | None) -> Tensor:
    """Each row times its weight; exactly zero where the weight is, even if the row holds NaN or infinity."""
    if weights is None:
        return block
    weights = weights.unsqueeze(1)
    return torch.where(weights == 0, 0, block * weights)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off: products of features must leave in float32, whatever the model around them does."""
    return torch.autocast(device.type, enabled=False)


def wide_dtype(device: torch.device) -> torch.dtype:
    """The dtype in which scalars are accumulated: float64, except on Apple's GPUs, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def part_of(weights: Tensor | None, part: slice) -> Tensor | None:
    return None if weights is None else weights[part]


def unit_rows(rows: PairedRows) -> PairedRows:
    """Scale each row of both sides to unit length; a zero row stays zero, a row of weight zero becomes zero."""

    def unit(values: Tensor) -> Tensor:
        values = values.to(rows.dtype)
        if rows.weights is not None:
            values = torch.where(rows.weights.unsqueeze(1) == 0, 0, values)
        peak = values.detach().abs().amax(1, keepdim=True)
        values = values / torch.where(peak == 0, 1, peak)  # so that no square under- or overflows
        return values / torch.where(peak == 0, 1, values.square().sum(1, keepdim=True)).sqrt()

    return PairedRows(unit(rows.student), unit(rows.teacher), rows.weights)
