"""All layers of two models at once: second moments that are summed over batches, and what they say of each pair.

Memory depends on the widths of the layers, never on the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.distances import unbiased_product
from geodistill.geometry.moments import Moments
from geodistill.geometry.projection import projection_residual
from geodistill.geometry.reference import spectrum_of


class LayerComparison(NamedTuple):
    """One pair of layers: D_P² and D_FG² in [0, 2], CKA as usual and debiased, and the residual of the best linear map,
    all of centred clouds of unit Frobenius norm."""

    procrustes: float
    gram: float
    cka: float
    cka_debiased: float
    residual: float


class LayerMoments:
    """Paired second moments of every student layer with every teacher layer, summed over batches in float64.

    Each layer gets one more column, p_i = ‖x_i − c‖² with c the mean row of the first batch. Its moments hold
    Σ p_i q_i, which the debiased CKA needs of all rows together.

        moments = LayerMoments()
        for student, teacher in batches:  # lists of (n, d), one for each layer
            moments.add(student, teacher)
        moments.compare(0, 2).procrustes
    """

    def __init__(self) -> None:
        self._total: tuple[Moments, list[Moments], list[Moments]] | None = None
        self._origins: tuple[list[Tensor], list[Tensor]] = ([], [])

    def add(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Add a batch: the rows (n, d) of each layer of both sides, n the same in all.

        Raises GeodistillError for rows that are not finite and for different numbers of rows.
        """
        counts = {len(rows) for rows in (*student, *teacher)}
        if len(counts) != 1:
            raise GeodistillError(
                f"The layers have different numbers of rows: {', '.join(map(str, sorted(counts)))}.",
                "Give the same inputs to both sides, in the same order.",
            )
        if counts == {0}:
            return
        wide = [[rows.detach().cpu().double() for rows in side] for side in (student, teacher)]
        for name, side in zip(("student", "teacher"), wide, strict=True):
            if not all(rows.sum().isfinite() for rows in side):
                raise GeodistillError(
                    f"The {name}'s features hold NaN or infinity.", "Leave these rows out, or look for what made them."
                )
        if self._total is None:
            self._origins = tuple([rows.mean(0) for rows in side] for side in wide)  # type: ignore[assignment]
        s, t = (
            [_with_squares(x, c) for x, c in zip(*side, strict=True)] for side in zip(wide, self._origins, strict=True)
        )
        new = _moments(torch.cat(s, 1), torch.cat(t, 1)), [_moments(x, x) for x in s], [_moments(x, x) for x in t]
        if self._total is not None:
            cross, own, others = self._total
            new = cross + new[0], _sums(own, new[1]), _sums(others, new[2])
        self._total = new

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return 0 if self._total is None else int(self._total[0].rows)

    @property
    def widths(self) -> tuple[list[int], list[int]]:
        """The widths of the layers of both sides."""
        return tuple([len(origin) for origin in side] for side in self._origins)  # type: ignore[return-value]

    def pair(self, student: int, teacher: int) -> Moments:
        """The moments of a student layer and a teacher layer, by their places."""
        s, t = self._own(student, teacher)
        return Moments(
            s.rows,
            s.count,
            s.student_mean[:-1],
            t.student_mean[:-1],
            s.cross.diagonal()[:-1].sum(),
            t.cross.diagonal()[:-1].sum(),
            self._cross(student, teacher)[:-1, :-1],
            s.cross[:-1, :-1],
            t.cross[:-1, :-1],
        )

    def spectra(self) -> tuple[list[Tensor], list[Tensor]]:
        """The shares of the variance along the principal directions of each layer, largest first."""
        assert self._total is not None, "no rows were added"
        _, own, others = self._total
        return tuple([spectrum_of(each.cross[:-1, :-1]) for each in side] for side in (own, others))  # type: ignore[return-value]

    def compare(self, student: int, teacher: int) -> LayerComparison:
        """All measures of a pair of layers, by their places."""
        moments = self.pair(student, teacher)
        unit = moments.normalized()
        s, t, cross = unit.gram_squares()
        nuclear = torch.linalg.svdvals(unit.cross).sum()
        return LayerComparison(
            (2 - 2 * nuclear).clamp(0, 2).item(),
            (s + t - 2 * cross).clamp(min=0).item(),
            (cross / (s * t).sqrt().clamp(min=torch.finfo(s.dtype).tiny)).item(),
            self._debiased(student, teacher, moments),
            projection_residual(moments).item(),
        )

    def _debiased(self, student: int, teacher: int, moments: Moments) -> float:
        n = self.rows
        if n < 4:
            return 0.0
        own = self._own(student, teacher)
        # ‖x − mean‖² = p − 2 (x − c)·(mean − c) + constant, so it is linear in the columns that there are.
        weights = [torch.cat([-2 * each.student_mean[:-1], each.student_mean.new_ones(1)]) for each in own]
        sums = moments.student_square, moments.teacher_square

        def unbiased(product: Tensor, covariance: Tensor, a: int, b: int) -> Tensor:
            diagonal = weights[a] @ covariance @ weights[b] + sums[a] * sums[b] / n
            return unbiased_product(product, diagonal, sums[a], sums[b], torch.tensor(float(n), dtype=product.dtype))

        s, t, cross = moments.gram_squares()
        scale = unbiased(s, own[0].cross, 0, 0) * unbiased(t, own[1].cross, 1, 1)
        shared = unbiased(cross, self._cross(student, teacher), 0, 1)
        return (shared / scale.clamp(min=0).sqrt()).item() if scale > 0 else 0.0

    def _own(self, student: int, teacher: int) -> tuple[Moments, Moments]:
        assert self._total is not None, "no rows were added"
        return self._total[1][student], self._total[2][teacher]

    def _cross(self, student: int, teacher: int) -> Tensor:
        assert self._total is not None, "no rows were added"
        rows, columns = map(_slices, self.widths)
        return self._total[0].cross[rows[student], columns[teacher]]


def _with_squares(rows: Tensor, origin: Tensor) -> Tensor:
    moved = rows - origin
    return torch.cat([moved, torch.linalg.vecdot(moved, moved).unsqueeze(1)], 1)


def _moments(student: Tensor, teacher: Tensor) -> Moments:
    return Moments.from_rows(student, teacher, student_gram=False, teacher_gram=False)


def _sums(a: Sequence[Moments], b: Sequence[Moments]) -> list[Moments]:
    return [one + two for one, two in zip(a, b, strict=True)]


def _slices(widths: Sequence[int]) -> list[slice]:
    starts = [0]
    for width in widths:
        starts.append(starts[-1] + width + 1)
    return [slice(start, start + width + 1) for start, width in zip(starts, widths, strict=False)]
