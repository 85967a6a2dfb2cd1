"""Frobenius norms and inner products at any scale."""

from __future__ import annotations

import pytest
import torch

from geodistill.geometry.frobenius import frobenius_inner, frobenius_square, projected_square


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
