"""One minus the mean cosine similarity of each student row and its teacher row."""

from __future__ import annotations

import torch
from torch import Tensor

from geodistill.geometry.distances import or_zero
from geodistill.geometry.features import PairedRows, unit_rows
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.numerics import or_one
from geodistill.losses.base import RowLoss


class CosineLoss(RowLoss):
    """1 − (1/n) Σ_i ⟨s_i, t_i⟩ / (‖s_i‖ ‖t_i‖): each row points where its teacher row points; lengths are free.

    This is the published alignment of a model of local field potentials with a model of spikes. A row of zeros has the
    similarity 0.

    Args:
        student_width: d_s.
        teacher_width: d_t. If both widths are given and differ, a learned matrix without bias brings student rows to
            d_t numbers. It is a parameter of the loss, not of the student. Otherwise nothing is learned.
        global_batch: with several ranks, the loss of the whole batch over all of them. By keyword.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…), the rows that count.

    Returns:
        A scalar between 0 and 2. `FeatureLoss` says what dtype it has, and what it is if no rows count.

    Raises:
        GeodistillError: the widths differ and nothing is learned, or shapes do not fit.

    Reference: cross-modal representational knowledge distillation for spike-informed LFP modelling (2025), arXiv
    2512.12461.

    Example:
        loss = CosineLoss()(student_latents, teacher_latents, mask=time_bins)
    """

    def mapped(self, rows: PairedRows) -> PairedRows:
        return unit_rows(super().mapped(rows))

    def square(self, moments: Moments | Kernels) -> tuple[Tensor, Tensor]:
        assert isinstance(moments, Moments)
        raw = moments.about_origin()
        similarity = raw.cross.diagonal().sum(dtype=raw.count.dtype) / or_one(raw.count)
        return or_zero((1 - similarity).clamp(min=0), moments), torch.ones_like(similarity)
