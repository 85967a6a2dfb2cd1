"""Products of which one triangle is computed."""

from __future__ import annotations

import pytest
import torch

from geodistill.geometry.symmetric import add_lower_gram, gram, mirror


@pytest.mark.parametrize("width", [1, 5, 256, 257, 300, 1023])
def test_gram_is_the_whole_product(width):
    rows = torch.randn(20, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    product = gram(rows)
    assert torch.allclose(product, rows.T @ rows)
    assert torch.equal(product, product.T) or torch.allclose(product, product.T, rtol=0, atol=1e-14)


def test_blocks_add_up_in_the_lower_triangle():
    rows = torch.randn(30, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(300, 300, dtype=torch.float64)
    for block in rows.split(7):
        add_lower_gram(total, block)
    assert torch.allclose(total.tril(), (rows.T @ rows).tril())
    assert torch.allclose(mirror(total), rows.T @ rows)


def test_gram_of_a_batch_is_that_of_each():
    rows = torch.randn(2, 20, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gram(rows), torch.stack([gram(each) for each in rows]))


def test_an_empty_matrix_stays_empty():
    assert gram(torch.ones(3, 0)).shape == (0, 0)
