"""What the geometry tests share: paired features to measure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Draw = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draw related features (*rows, d_s) and (*rows, d_t), off the origin, with a spectrum that falls as 1/i."""

    def features(
        rows: int | tuple[int, ...] = 40,
        student_width: int = 5,
        teacher_width: int = 9,
        *,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows = rows if isinstance(rows, tuple) else (rows,)
        wide = max(student_width, teacher_width)
        latent = torch.randn(*rows, wide, generator=generator, dtype=torch.float64) / torch.arange(1, wide + 1)
        noise = torch.randn(*rows, student_width, generator=generator, dtype=torch.float64)
        mix = torch.linalg.qr(torch.randn(wide, wide, generator=generator, dtype=torch.float64)).Q
        student = latent[..., :student_width] + 0.1 * noise + 1.0
        return student.to(dtype), ((latent @ mix)[..., :teacher_width] - 2.0).to(dtype)

    return features
