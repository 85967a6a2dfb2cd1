"""What no linear map of the student recovers of the teacher: the residual of the best projection, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from geodistill.geometry.moments import Moments
from geodistill.geometry.numerics import or_one

# Eigenvalues of SᵀS below this share of the largest are rounding noise, and their directions are left out of the map.
NOISE = {torch.float32: 1e-6, torch.float64: 1e-12}


def projection_residual(moments: Moments) -> Tensor:
    """The share of the teacher's variance that no linear map of the student's rows recovers.

        min_W ‖T − SW‖_F² / ‖T‖_F² = 1 − tr(Tᵀ S (SᵀS)⁺ Sᵀ T) / ‖T‖_F²

    Zero when the teacher's rows are a linear function of the student's, which does not mean that both have the same
    geometry: W may stretch. A student with at least as many columns as there are rows leaves nothing.

    Args:
        moments: of rows (n, d_s) and (n, d_t), with `student_gram`; the centred second moments are read.

    Returns a float64 scalar in [0, 1].

    Example: `projection_residual(Moments.from_rows(student, teacher))`

    Reference: ordinary least squares; Kornblith et al. (2019), section 4, call one minus it the regression R².
    """
    assert moments.student_gram is not None, "these moments were made without the student's Gram matrix"
    noise = NOISE[moments.student_gram.dtype]
    values, vectors = torch.linalg.eigh(moments.student_gram.double())
    kept = values > noise * values[-1].clamp(min=torch.finfo(values.dtype).tiny)
    rotated = vectors.mT @ moments.cross.double()
    recovered = (rotated.square().sum(1) / torch.where(kept, values, 1) * kept).sum()
    return (1 - recovered / or_one(moments.teacher_square)).clamp(0, 1)
