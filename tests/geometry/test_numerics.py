"""Divisors and wide sums, products of which one triangle is computed, Frobenius norms at any scale."""

from __future__ import annotations

import pytest
import torch

from geodistill.geometry.numerics import (
    add_lower_gram,
    frobenius_inner,
    frobenius_square,
    gram,
    largest_entry,
    mirror,
    or_one,
    projected_square,
    square_sum,
)


def test_square_sum_is_exact_in_float32():
    values = torch.rand(4096, 512, generator=torch.Generator().manual_seed(0))
    exact = values.double().square().sum()
    assert abs(square_sum(values) - exact) / exact < 1e-7


def test_divisors_are_never_zero_and_keep_nan():
    divisors = or_one(torch.tensor([0.0, 2.0, -0.0, torch.nan]))
    assert divisors[:3].tolist() == [1, 2, 1] and divisors[3].isnan()
    assert largest_entry(torch.zeros(2, 3)) == 1
    assert largest_entry(torch.tensor([[1.0, -5.0], [3.0, 0.0]])) == 5
    assert largest_entry(torch.tensor([[[1.0, -5.0]], [[0.0, 0.0]]])).tolist() == [5, 1]
    assert largest_entry(torch.tensor([[1.0, torch.nan]])).isnan()


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


def matrices(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 7, dtype=torch.float64, generator=generator).to(dtype)


def test_values_and_gradients():
    a, b = matrices()
    assert torch.allclose(frobenius_square(a), a.square().sum())
    assert torch.allclose(frobenius_inner(a, b), (a * b).sum())
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(frobenius_square, a)
    assert torch.autograd.gradcheck(frobenius_inner, (a, b))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_float32_neither_over_nor_underflows(scale):
    a, b = (matrix * scale for matrix in matrices(torch.float32))
    assert torch.allclose(frobenius_square(a), a.double().square().sum(), rtol=1e-6)
    assert torch.allclose(frobenius_inner(a, b), (a.double() * b.double()).sum(), rtol=1e-5)
    a.requires_grad_()
    (frobenius_square(a) / frobenius_square(a).detach()).backward()
    exact = 2 * a.detach().double() / a.detach().double().square().sum()
    assert torch.allclose(a.grad.double(), exact, rtol=1e-5)


def test_large_float32_matrices_keep_seven_digits():
    a = torch.rand(2048, 2048, generator=torch.Generator().manual_seed(0))
    exact = a.double().square().sum()
    assert abs(frobenius_square(a) - exact) / exact < 1e-7


def test_zeros_and_nan():
    zeros = torch.zeros(3, 3, requires_grad=True)
    frobenius_square(zeros).backward()
    assert zeros.grad.abs().sum() == 0
    assert frobenius_square(torch.full((2, 2), torch.nan)).isnan()
    assert frobenius_inner(zeros, torch.full((3, 3), torch.nan)).isnan()


def test_squares_of_projected_rows():
    a, b = matrices()
    gram = a.T @ a
    assert torch.allclose(projected_square(gram, b.T), (a @ b.T).square().sum())
    assert torch.autograd.gradcheck(
        lambda x, w: projected_square(x + x.T, w), (gram.requires_grad_(), b.T.clone().requires_grad_())
    )
    large = (gram.detach() * 1e25).float()
    expected = 1e25 * projected_square(gram, b.T).detach()
    assert torch.allclose(projected_square(large, b.T.float()), expected, rtol=1e-5)
