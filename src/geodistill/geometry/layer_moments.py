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

AT_ONCE = 512  # rows of all layers that are in float64 at a time


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

    Each layer gets one more column, p_i = ‖x_i − c‖² with c the mean of the first rows. Its moments hold
    Σ p_i q_i, which the debiased CKA needs of all rows together. Sums of rows and of products are taken about c, in
    place: they are the largest tensors, one number for each column of a student layer and of a teacher layer.

        moments = LayerMoments()
        for student, teacher in batches:  # lists of (n, d), one for each layer
            moments.add(student, teacher)
        moments.compare(0, 2).procrustes
    """

    def __init__(self) -> None:
        self.rows = 0
        self._origins: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._sums: tuple[list[Tensor], list[Tensor]] = ([], [])  # Σ (x − c)
        self._products: tuple[list[Tensor], list[Tensor]] = ([], [])  # Σ (x − c)(x − c)ᵀ
        self._cross: Tensor  # Σ (s − c)(t − c)ᵀ, all student layers by all teacher layers

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
        for start in range(0, counts.pop(), AT_ONCE):
            piece = slice(start, start + AT_ONCE)
            self._add([[rows[piece].detach().cpu().double() for rows in side] for side in (student, teacher)])

    def _add(self, sides: Sequence[Sequence[Tensor]]) -> None:
        for name, side in zip(("student", "teacher"), sides, strict=True):
            if not all(rows.sum().isfinite() for rows in side):
                raise GeodistillError(
                    f"The {name}'s features hold NaN or infinity.", "Leave these rows out, or look for what made them."
                )
        if not self.rows:
            self._begin(sides)
        moved = [
            [_with_squares(x, c) for x, c in zip(*side, strict=True)] for side in zip(sides, self._origins, strict=True)
        ]
        for layers, sums, products in zip(moved, self._sums, self._products, strict=True):
            for rows, total, product in zip(layers, sums, products, strict=True):
                total += rows.sum(0)
                product.addmm_(rows.mT, rows)
        self._cross.addmm_(torch.cat(moved[0], 1).mT, torch.cat(moved[1], 1))
        self.rows += len(sides[0][0])

    def _begin(self, sides: Sequence[Sequence[Tensor]]) -> None:
        for rows, origins, sums, products in zip(sides, self._origins, self._sums, self._products, strict=True):
            origins += [layer.mean(0) for layer in rows]
            sums += [layer.new_zeros(layer.shape[1] + 1) for layer in rows]
            products += [layer.new_zeros(layer.shape[1] + 1, layer.shape[1] + 1) for layer in rows]
        student, teacher = (sum(map(len, sums)) for sums in self._sums)
        self._cross = torch.zeros(student, teacher, dtype=torch.float64)

    @property
    def widths(self) -> tuple[list[int], list[int]]:
        """The widths of the layers of both sides."""
        return tuple([len(origin) for origin in side] for side in self._origins)  # type: ignore[return-value]

    def pair(self, student: int, teacher: int) -> Moments:
        """The moments of a student layer and a teacher layer, by their places."""
        n = torch.tensor(float(self.rows), dtype=torch.float64)
        s, t = self._covariance(0, student), self._covariance(1, teacher)
        return Moments(
            n,
            n,
            self._sums[0][student][:-1] / n,
            self._sums[1][teacher][:-1] / n,
            s.diagonal()[:-1].sum(),
            t.diagonal()[:-1].sum(),
            self._shared(student, teacher)[:-1, :-1],
            s[:-1, :-1],
            t[:-1, :-1],
        )

    def spectra(self) -> tuple[list[Tensor], list[Tensor]]:
        """The shares of the variance along the principal directions of each layer, largest first."""
        assert self.rows, "no rows were added"
        own, others = (
            [spectrum_of(self._covariance(side, layer)[:-1, :-1]) for layer in range(len(layers))]
            for side, layers in enumerate(self._products)
        )
        return own, others

    def compare(self, student: int, teacher: int) -> LayerComparison:
        """All measures of a pair of layers, by their places."""
        moments = self.pair(student, teacher)
        unit = moments.normalized()
        s, t, cross = unit.gram_squares()
        return LayerComparison(
            _procrustes(unit),
            (s + t - 2 * cross).clamp(min=0).item(),
            (cross / (s * t).sqrt().clamp(min=torch.finfo(s.dtype).tiny)).item(),
            self._debiased(student, teacher, moments),
            projection_residual(moments).item(),
        )

    def procrustes(self, student: int, teacher: int) -> float:
        """D_P² of a pair of layers alone, by their places."""
        return _procrustes(self.pair(student, teacher).normalized())

    def _debiased(self, student: int, teacher: int, moments: Moments) -> float:
        n = self.rows
        if n < 4:
            return 0.0
        # ‖x − mean‖² = p − 2 (x − c)·(mean − c) + constant, so it is linear in the columns that there are.
        means = moments.student_mean, moments.teacher_mean
        weights = [torch.cat([-2 * mean, mean.new_ones(1)]) for mean in means]
        sums = moments.student_square, moments.teacher_square

        def unbiased(product: Tensor, covariance: Tensor, a: int, b: int) -> Tensor:
            diagonal = weights[a] @ covariance @ weights[b] + sums[a] * sums[b] / n
            return unbiased_product(product, diagonal, sums[a], sums[b], torch.tensor(float(n), dtype=product.dtype))

        s, t, cross = moments.gram_squares()
        scale = unbiased(s, self._covariance(0, student), 0, 0) * unbiased(t, self._covariance(1, teacher), 1, 1)
        shared = unbiased(cross, self._shared(student, teacher), 0, 1)
        return (shared / scale.clamp(min=0).sqrt()).item() if scale > 0 else 0.0

    def _covariance(self, side: int, layer: int) -> Tensor:
        """Σ (x − μ)(x − μ)ᵀ of a layer and its additional column."""
        total = self._sums[side][layer]
        return self._products[side][layer] - torch.outer(total, total) / self.rows

    def _shared(self, student: int, teacher: int) -> Tensor:
        """Σ (s − μ)(t − ν)ᵀ of two layers and their additional columns."""
        assert self.rows, "no rows were added"
        rows, columns = map(_slices, self.widths)
        means = torch.outer(self._sums[0][student], self._sums[1][teacher]) / self.rows
        return self._cross[rows[student], columns[teacher]] - means


def _procrustes(unit: Moments) -> float:
    return (2 - 2 * torch.linalg.svdvals(unit.cross).sum()).clamp(0, 2).item()


def _with_squares(rows: Tensor, origin: Tensor) -> Tensor:
    moved = rows - origin
    return torch.cat([moved, torch.linalg.vecdot(moved, moved).unsqueeze(1)], 1)


def _slices(widths: Sequence[int]) -> list[slice]:
    starts = [0]
    for width in widths:
        starts.append(starts[-1] + width + 1)
    return [slice(start, start + width + 1) for start, width in zip(starts, widths, strict=False)]
