"""From features of any shape to rows: what both sides of a pair share before anything is computed.

A mask is a weight: a row of weight w counts w times, and a row of weight zero is as if it were not there, whatever it
holds. No weight is negative. Long features are worked through in blocks of rows, so that no full copy of them is ever
made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.numerics import add_lower_gram, gram, mirror, or_one, square_sum, wide_dtype

_MOST_KEPT = 0.75
BLOCK_ELEMENTS = 2**22  # 16 MiB in float32, which stays in a CPU's last cache


class FeatureRows:
    """The rows of one model, with what was computed from them.

    A teacher that is compared many times is prepared once (`prepare_features`), and its products are then kept.

    Args:
        values: (n, d), of any floating dtype.
        weights: (n,), or None if every row counts once.
        dtype: of products.
        prepared: whether products are kept.

    Example:
        rows = prepare_features(teacher_hidden, attention_mask)
        loss = ProcrustesLoss()(student_hidden, rows)
    """

    def __init__(self, values: Tensor, weights: Tensor | None, dtype: torch.dtype, prepared: bool = False) -> None:
        self.values = values
        self.weights = weights
        self.dtype = dtype
        self.prepared = prepared
        self._kernels: dict[bool, Tensor] = {}
        self._compact: dict[bool, FeatureRows] = {}

    def __len__(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return self.values.shape[1]

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor]:
        """How many rows have a non-zero weight, and the sum of the weights, in float64."""
        wide = wide_dtype(self.values.device)
        if self.weights is None:
            n = torch.full((), len(self), dtype=wide, device=self.values.device)
            return n, n
        return (self.weights != 0).sum().to(wide), self.weights.sum(dtype=wide)

    @cached_property
    def root_weights(self) -> Tensor | None:
        return None if self.weights is None else self.weights.sqrt()

    @cached_property
    def mean(self) -> Tensor:
        """The weighted mean row (d,), summed in float64 from block to block; zero when no row counts."""
        total = self.total(lambda part: weigh(self.values[part].to(self.dtype), part_of(self.weights, part)).sum(0))
        return total.to(self.dtype) / self.divisor

    @cached_property
    def divisor(self) -> Tensor:
        """Σ w, or one when no row counts, in the dtype of products."""
        return or_one(self.counts[1]).to(self.dtype)

    @cached_property
    def square(self) -> Tensor:
        """Σ w ‖x − mean‖², float64."""
        return self.total(lambda part: square_sum(self.block(part)))

    @cached_property
    def gram(self) -> Tensor:
        """Σ w (x − mean)(x − mean)ᵀ, (d, d)."""
        total = torch.zeros(self.width, self.width, dtype=self.dtype, device=self.values.device)
        for part in self.parts():
            add_lower_gram(total, self.block(part))
        return mirror(total)

    def kernel(self, center: bool) -> Tensor:
        """XXᵀ, (n, n), of rows scaled by the roots of their weights."""
        if center not in self._kernels:
            self._kernels[center] = gram(self.block(slice(None), center).mT)
        return self._kernels[center]

    def compact(self, center: bool) -> FeatureRows:
        """The same cloud, rotated into n dimensions: the n × n factor L of X = LQ.

        For n < d. The mean is taken off first, which changes nothing for whoever centres and saves digits.
        """
        if center not in self._compact:
            ones = None if self.weights is None else (self.weights != 0).to(self.dtype)
            values = weigh(self.values.to(self.dtype) - self.mean if center else self.values.to(self.dtype), ones)
            rows = self.beside(torch.linalg.qr(values.mT, mode="r").R.mT)
            if center:
                rows.mean = rows.values.new_zeros(len(self))
            self._compact[center] = rows
        return self._compact[center]

    @cached_property
    def short(self) -> bool:
        """Whether the rows are a single part; they are then worked out once, and kept for the backward pass."""
        return self.values.numel() <= BLOCK_ELEMENTS

    @cached_property
    def whole(self) -> Tensor:
        """All rows as `block` gives them."""
        return self._block(slice(None), center=True)

    def block(self, part: slice, center: bool = True) -> Tensor:
        """Some of the rows, less the mean if so asked, scaled by the roots of their weights. Not to be changed."""
        return self.whole[part] if self.short and center else self._block(part, center)

    def _block(self, part: slice, center: bool) -> Tensor:
        values = self.values[part].to(self.dtype)
        return weigh(values - self.mean if center else values, part_of(self.root_weights, part))

    def beside(self, values: Tensor) -> FeatureRows:
        """Another model's values for the same rows."""
        rows = FeatureRows(values, self.weights, self.dtype)
        rows.counts, rows.divisor, rows.root_weights = self.counts, self.divisor, self.root_weights
        return rows

    def parts(self, other_width: int = 0) -> list[slice]:
        """Slices of consecutive rows, each of about BLOCK_ELEMENTS elements of both sides together; at least one."""
        length = max(256, BLOCK_ELEMENTS // max(1, self.width + other_width))
        return [slice(start, start + length) for start in range(0, max(1, len(self)), length)]

    def total(self, of: Callable[[slice], Tensor]) -> Tensor:
        """The sum over all parts of what is computed of each; of several, in float64."""
        parts = self.parts()
        if len(parts) == 1:
            return of(parts[0])
        return torch.stack([of(part) for part in parts]).sum(0, dtype=wide_dtype(self.values.device))


@dataclass(frozen=True)
class PairedRows:
    """The same n inputs seen by both models. The student's values (n, d_s) may carry a graph, the teacher's never."""

    student: Tensor
    teacher: FeatureRows

    @property
    def dtype(self) -> torch.dtype:
        return self.teacher.dtype

    @property
    def weights(self) -> Tensor | None:
        return self.teacher.weights

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, d_s, d_t)."""
        return (*self.student.shape, self.teacher.width)

    def to(self, dtype: torch.dtype) -> PairedRows:
        """The same rows, with products in another dtype."""
        return PairedRows(self.student, FeatureRows(self.teacher.values, self.weights, dtype))


def prepare_features(teacher: Tensor, mask: Tensor | None = None) -> FeatureRows:
    """Prepare teacher features for being compared with many students, or many times.

    Every distance and loss takes the result instead of the teacher's tensor (and then no mask). What depends on the
    teacher alone, such as TᵀT, is computed when first needed and kept; so is a reference to the features themselves.

    Args:
        teacher: (…, d_t).
        mask: (…), the rows that count, or a weight ≥ 0 for each.

    Returns:
        The rows.

    Raises:
        GeodistillError: the mask has another shape, or a weight is negative on the CPU. On an accelerator a negative
            weight makes results NaN, because a check would block until the device has finished.

    Example:
        rows = prepare_features(teacher_hidden, attention_mask)
    """
    _check_features("teacher", teacher)
    if mask is not None and mask.shape != teacher.shape[:-1]:
        raise GeodistillError(
            f"The mask {tuple(mask.shape)} does not fit features {tuple(teacher.shape)}.",
            "A mask has the features' dimensions without the last one.",
        )
    if mask is not None:
        _check_weights(mask)
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    weights = None if mask is None else mask.detach().reshape(-1).to(device=teacher.device, dtype=dtype)
    return FeatureRows(teacher.detach().flatten(0, -2), weights, dtype, prepared=True)


def pair_rows(student: Tensor, teacher: Tensor | FeatureRows, mask: Tensor | None = None) -> PairedRows:
    """Flatten features (…, d_s) and (…, d_t) and a mask (…) to rows. The teacher is cut from its graph.

    Products are taken in float64 when either side has it, in float32 otherwise.
    Raises GeodistillError when the leading dimensions of the three differ, or features are not floating point.
    """
    _check_features("student", student)
    if isinstance(teacher, FeatureRows):
        if mask is not None:
            raise GeodistillError(
                "A prepared teacher came with another mask.", "Give the mask to `prepare_features`, and only there."
            )
        if len(teacher) != student.shape[:-1].numel():
            raise GeodistillError(
                f"Student {tuple(student.shape)} does not have the {len(teacher)} rows of the prepared teacher.",
                "Give the student's features of the same inputs, unmasked rows and masked ones.",
            )
        rows = teacher
    else:
        if student.shape[:-1] != teacher.shape[:-1]:
            raise GeodistillError(
                f"Student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not have the same rows.",
                "Every dimension but the last must agree: the same inputs through both models.",
            )
        rows = prepare_features(teacher, mask)
        rows.prepared = False
    dtype = torch.promote_types(rows.dtype, student.dtype)
    pair = PairedRows(student.flatten(0, -2), rows)
    return pair if dtype == rows.dtype else pair.to(dtype)


def counting_rows(
    student: Tensor, teacher: Tensor | FeatureRows, mask: Tensor | None
) -> tuple[Tensor, Tensor | FeatureRows, Tensor | None]:
    """Leave out the rows that do not count, on a CPU and if they are so many that a copy of the others pays.

    A response is a fifth of its text, and fewer rows than dimensions make a cheaper problem. To count them on an
    accelerator would block until it has finished.
    """
    if mask is None or isinstance(teacher, FeatureRows) or student.device.type != "cpu":
        return student, teacher, mask
    if not mask.shape == student.shape[:-1] == teacher.shape[:-1]:
        return student, teacher, mask  # for `pair_rows` to refuse
    flat = mask.reshape(-1)
    kept = flat.nonzero().squeeze(1)
    if not 0 < len(kept) < _MOST_KEPT * len(flat):
        return student, teacher, mask
    weights = None if mask.dtype == torch.bool else flat[kept]
    return student.flatten(0, -2)[kept], teacher.flatten(0, -2)[kept], weights


def unit_rows(rows: PairedRows) -> PairedRows:
    """Scale each row of both sides to unit length; a zero row stays zero, a row of weight zero becomes zero."""

    def unit(values: Tensor) -> Tensor:
        values = only_counted(values.to(rows.dtype), rows.weights)
        peak = values.detach().abs().amax(1, keepdim=True)
        values = values / or_one(peak)  # so that no square under- or overflows
        return values / torch.where(peak == 0, 1, torch.linalg.vecdot(values, values).unsqueeze(1)).sqrt()

    return PairedRows(unit(rows.student), FeatureRows(unit(rows.teacher.values), rows.weights, rows.dtype))


def only_counted(values: Tensor, weights: Tensor | None) -> Tensor:
    """Values (n, d) or (n,) with zeros in rows of weight zero, which may hold anything, NaN too."""
    if weights is None:
        return values
    return torch.where(weights.view(-1, *[1] * (values.ndim - 1)) == 0, 0, values)


def weigh(block: Tensor, weights: Tensor | None) -> Tensor:
    """Each row times its weight; exactly zero if the weight is, even if the row holds NaN or infinity."""
    if weights is None:
        return block
    weights = weights.unsqueeze(1)
    weighed = block * weights
    # Bits, because `where` on a CPU is six times as slow as the product.
    bits = torch.int32 if weighed.dtype == torch.float32 else torch.int64
    return weighed.view(bits).bitwise_and_(-(weights != 0).to(bits)).view(weighed.dtype)


def part_of(weights: Tensor | None, part: slice) -> Tensor | None:
    return None if weights is None else weights[part]


def _check_features(side: str, features: Tensor) -> None:
    if features.dim() < 2 or not features.is_floating_point():
        raise GeodistillError(
            f"The {side}'s features are {features.dtype} of shape {tuple(features.shape)}.",
            "Give floating-point features with rows before the feature dimension: (…, width).",
        )


def _check_weights(mask: Tensor) -> None:
    if mask.device.type != "cpu" or mask.dtype == torch.bool or not mask.numel():
        return
    lowest = mask.min().item()
    if lowest < 0:
        raise GeodistillError(
            f"The mask holds {lowest:g}, and a mask is a weight for each row, which cannot be negative.",
            "Give a boolean mask, such as mask != 0, or weights from zero.",
        )
