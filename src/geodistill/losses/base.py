"""What the feature losses share: options, rows, and the batch that the geometry is taken over."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.geometry.distances import Normalize, cheaper_side, root, select
from geodistill.geometry.features import FeatureRows, PairedRows, only_counted
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.numerics import full_precision
from geodistill.losses.ranks import agree_on_rows, gather_is_cheaper, gather_rows, sum_moments, world_size


class FeatureLoss(nn.Module):
    """A scalar loss between a student's features (…, d_s) and a teacher's (…, d_t), with a mask (…) of weights.

    A loss writes one formula, `square`: D² as a function of second moments.

    Args:
        center: subtract the mean row of each side.
        normalize: True divides each side by its Frobenius norm, after centring. "rows" scales each row to unit length,
            before centring, and divides the whole by the root of the number of rows. False leaves the scale alone.
        squared: D², smooth at zero, rather than D.
        global_batch: with several ranks running, the loss of the whole batch over all of them, with its exact gradient
            once gradients are averaged over ranks.

    Called with features of any floating dtype and any number of leading dimensions; the teacher, which may be the
    result of `prepare_features`, receives no gradient. The mask says which rows count, boolean, or how often each does:
    a row of weight 2 counts as two rows. An attention mask of other numbers than 0 and 1 is given as `mask != 0`.

    Returns:
        A scalar in float32 (float64 for float64 features), whatever autocast says. It is a zero that can be
        differentiated if fewer than two rows count, and NaN if a row that counts is not finite.

    Raises:
        GeodistillError: shapes do not fit, or a weight is negative on the CPU. On an accelerator the result is then
            NaN, because a check would block until the device has finished.

    Example:
        loss = ProcrustesLoss(center=False)(student_hidden, teacher_hidden, mask=attention_mask)
    """

    student_gram = True  # whether SᵀS and TᵀT are needed beside SᵀT
    teacher_gram = True

    def __init__(
        self,
        *,
        center: bool = True,
        normalize: Normalize = True,
        squared: bool = True,
        global_batch: bool = False,
    ) -> None:
        super().__init__()
        self.center = center
        self.normalize = normalize
        self.squared = squared
        self.global_batch = global_batch

    def forward(self, student: Tensor, teacher: Tensor | FeatureRows, mask: Tensor | None = None) -> Tensor:
        rows = select(student, teacher, mask, self.normalize)
        with full_precision(student.device):
            return self.from_moments(self.summarize(rows)).to(rows.dtype)

    def from_moments(self, moments: Moments | Kernels) -> Tensor:
        """The loss as a function of second moments, a float64 scalar."""
        square, whole = self.square(moments)
        return square if self.squared else root(square, whole, moments.product_dtype)

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        """D² and the sum that it is a part of, whose rounding bounds what can be told from zero; float64 scalars."""
        raise NotImplementedError

    def moments(self, student: Tensor, teacher: Tensor | FeatureRows, mask: Tensor | None = None) -> Moments:
        """The second moments of this process's rows, which add up over batches: `loss.from_moments(a + b)`."""
        return self.local_moments(select(student, teacher, mask, self.normalize))

    def local_moments(self, rows: PairedRows) -> Moments:
        return Moments.of(rows, student_gram=self.student_gram, teacher_gram=self.teacher_gram)

    def cheaper_moments(self, rows: PairedRows) -> Moments | Kernels:
        """Second moments of one process, on the side that costs less."""
        return cheaper_side(rows, self.center)

    def summarize(self, rows: PairedRows) -> Moments | Kernels:
        """Second moments of the batch, or of all ranks' batches together."""
        if not self.global_batch or world_size() == 1:
            return self.cheaper_moments(rows)
        rows, sizes = agree_on_rows(rows)
        if gather_is_cheaper(sum(sizes), *rows.shape[1:], self.student_gram, self.teacher_gram):
            return self.cheaper_moments(gather_rows(rows, sizes))
        return sum_moments(self.local_moments(rows))

    def extra_repr(self) -> str:
        options = ("center", "normalize", "squared", "global_batch")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)


class RowLoss(FeatureLoss):
    """A scalar loss between each student row (…, d_s) and its teacher row (…, d_t), in the teacher's coordinates.

    Rows are neither centred nor scaled as a whole. A loss writes its formula, `square`, of moments about the origin.

    Args:
        student_width: d_s.
        teacher_width: d_t. If both widths are given and differ, a learned matrix without bias brings student rows to
            d_t numbers. It is a parameter of the loss, not of the student. Otherwise nothing is learned.
        global_batch: with several ranks, the loss of the whole batch over all of them. By keyword.

    Raises:
        GeodistillError: the widths of the rows differ and nothing is learned.
    """

    student_gram = teacher_gram = False

    def __init__(
        self, student_width: int | None = None, teacher_width: int | None = None, *, global_batch: bool = False
    ) -> None:
        super().__init__(center=False, normalize=False, global_batch=global_batch)
        self.weight: nn.Parameter | None = None
        if student_width is not None and teacher_width is not None and student_width != teacher_width:
            self.weight = nn.Parameter(torch.empty(student_width, teacher_width))
            nn.init.normal_(self.weight, std=1 / math.sqrt(student_width))

    def local_moments(self, rows: PairedRows) -> Moments:
        return super().local_moments(self.mapped(rows))

    def cheaper_moments(self, rows: PairedRows) -> Moments:
        return self.local_moments(rows)

    def mapped(self, rows: PairedRows) -> PairedRows:
        """The rows that are compared: the student's have the teacher's width."""
        _, student_width, teacher_width = rows.shape
        if self.weight is None:
            if student_width != teacher_width:
                raise GeodistillError(
                    f"The student's rows have {student_width} numbers, and the teacher's {teacher_width}.",
                    f"Give {type(self).__name__}({student_width}, {teacher_width}), which learns a map between them.",
                )
            return rows
        student = only_counted(rows.student.to(rows.dtype), rows.weights)
        return PairedRows(student @ self.weight.to(rows.dtype), rows.teacher)


class MapLoss(nn.Module):
    """A scalar loss between a student's feature maps (b, c_s, h_s, w_s) and a teacher's (b, c_t, h_t, w_t).

    A loss writes one formula, `compare`, of maps that have the same channels.

    Args:
        student_channels: the number of channels c_s.
        teacher_channels: the number of channels c_t. If both are given and differ, a learned 1 × 1 convolution without
            bias brings the student's maps to c_t channels. It is a parameter of the loss, not of the student.
        global_batch: with several ranks running, the loss of the whole batch over all of them, with its exact gradient
            once gradients are averaged over ranks. By keyword.

    Called with two maps, or with two lists of as many maps each, such as the levels of a feature pyramid, of which the
    mean is taken; with `mask` (b,), the samples that count. The teacher's maps receive no gradient.

    Returns:
        A scalar in float32 (float64 for float64 maps), whatever autocast says.

    Raises:
        GeodistillError: the maps do not have the same samples and channels, or the lists not the same length.

    Example:
        loss = PCKALoss(16, 32, patch=4)(student_maps, teacher_maps)  # c_s = 16, c_t = 32
    """

    def __init__(
        self, student_channels: int | None = None, teacher_channels: int | None = None, *, global_batch: bool = False
    ) -> None:
        super().__init__()
        self.global_batch = global_batch
        self.convolution: nn.Conv2d | None = None
        if student_channels is not None and teacher_channels is not None and student_channels != teacher_channels:
            self.convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
            nn.init.normal_(self.convolution.weight, std=1 / math.sqrt(student_channels))

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        levels = [[maps] if isinstance(maps, Tensor) else list(maps) for maps in (student, teacher)]
        if len(levels[0]) != len(levels[1]) or not levels[0]:
            raise GeodistillError(
                f"The student has {len(levels[0])} feature maps, and the teacher {len(levels[1])}.",
                "Give as many levels of the one as of the other, at least one.",
            )
        with full_precision(levels[0][0].device):
            pairs = [self.prepare(s, t, mask) for s, t in zip(*levels, strict=True)]
            return torch.stack(self.compare(pairs)).mean()

    def compare(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The loss of each level, a scalar, from maps of the same channels in one dtype."""
        raise NotImplementedError

    def prepare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The samples that count, in float32 at least, with the channels of the teacher."""
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        if student.dim() == 4 and self.convolution is not None and student.shape[1] == self.convolution.in_channels:
            student = functional.conv2d(student, self.convolution.weight.to(dtype))
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
            raise GeodistillError(
                f"Maps {tuple(student.shape)} and {tuple(teacher.shape)} do not have the same samples and channels.",
                f"Give two maps (samples, channels, height, width); {type(self).__name__}(student_channels, "
                "teacher_channels) learns a map if the channels differ.",
            )
        return (student, teacher) if mask is None else (student[mask != 0], teacher[mask != 0])


def resize(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (b, c, h, w) at another height and width (bilinear, corners not aligned), or unchanged."""
    if maps.shape[2:] == (height, width):
        return maps
    return functional.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
