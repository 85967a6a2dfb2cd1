"""One minus the mean cosine similarity of each student row and its teacher row."""

from __future__ import annotations

import torch
from torch import Tensor

from geodistill.geometry.distances import or_one, or_zero
from geodistill.geometry.features import PairedRows, unit_rows
from geodistill.geometry.moments import Kernels, Moments
from geodistill.losses.base import RowLoss


class CosineLoss(RowLoss):
    """1 − (1/n) Σ_i ⟨s_i, t_i⟩ / (‖s_i‖ ‖t_i‖): each row points where its teacher row points; lengths are free.

    It is the published alignment of a model of local field potentials with one of spikes. A row of zeros has the
    similarity 0.

    Args: see `RowLoss`.

    Shapes: student (…, d_s), teacher (…, d_t), mask (…). Returns a scalar between 0 and 2.

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
