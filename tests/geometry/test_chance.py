from __future__ import annotations

import numpy as np
import pytest
import torch

from geodistill.geometry import chance_level, variance_spectrum
from geodistill.geometry.chance import chance_of_spectra, random_block


@pytest.mark.parametrize("n", [12, 60, 800])
def test_it_is_what_permuted_rows_give(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    student = torch.randn(n, 16, generator=generator, dtype=torch.float64) * torch.arange(1, 17) ** -1.0
    teacher = torch.randn(n, 40, generator=generator, dtype=torch.float64) * torch.arange(1, 41) ** -0.5
    found = chance_of_spectra(variance_spectrum(student), variance_spectrum(teacher), n, draws=20)
    expected = chance_level(student, teacher, permutations=60)
    assert found.procrustes == pytest.approx(expected.procrustes, rel=0.05, abs=0.01)
    assert found.gram == pytest.approx(expected.gram, rel=0.05, abs=0.01)
    assert found.cka == pytest.approx(expected.cka, rel=0.1, abs=0.01)


@pytest.mark.parametrize(("order", "height", "width"), [(30, 4, 3), (5, 5, 5), (7, 5, 4), (10**6, 3, 4)])
def test_a_block_is_of_an_orthogonal_matrix(order: int, height: int, width: int) -> None:
    draw = np.random.default_rng(0)
    blocks = [random_block(order, height, width, draw) for _ in range(400)]
    assert max(torch.linalg.matrix_norm(block, 2).item() for block in blocks) <= 1 + 1e-9
    assert torch.stack(blocks).square().mean().item() == pytest.approx(1 / order, rel=0.15)
