"""The nuclear norm, its polar factor, and the three ways to it."""

from __future__ import annotations

import pytest
import torch

from geodistill.geometry import nuclear_norm
from geodistill.geometry.nuclear import (
    by_eigenvectors,
    by_polynomial,
    by_singular_values,
    choose_algorithm,
    polar_factor,
)

FAST = [by_eigenvectors, by_polynomial]


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_spectrum(sigma, width):
    left = torch.linalg.qr(random(len(sigma), len(sigma))).Q
    right = torch.linalg.qr(random(width, len(sigma), seed=1)).Q
    return left @ torch.diag(sigma) @ right.T, left @ right.T


@pytest.mark.parametrize("shape", [(1, 1), (4, 9), (9, 4), (6, 6), (3, 4, 9), (2, 3, 9, 4)])
def test_value_and_gradient_agree_with_torch(shape):
    matrix = random(*shape).requires_grad_()
    expected = torch.linalg.matrix_norm(matrix, "nuc")
    assert torch.allclose(nuclear_norm(matrix), expected, rtol=1e-13)
    (ours,) = torch.autograd.grad(nuclear_norm(matrix).sum(), matrix)
    (theirs,) = torch.autograd.grad(expected.sum(), matrix)
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_gradcheck():
    assert torch.autograd.gradcheck(nuclear_norm, random(4, 7).requires_grad_())


@pytest.mark.parametrize("algorithm", FAST)
@pytest.mark.parametrize("shape", [(5, 20), (30, 30), (2, 6, 10)])
def test_fast_algorithms_agree_with_singular_values(algorithm, shape):
    matrix = random(*shape)
    norm, polar = by_singular_values(matrix)
    fast_norm, fast_polar = algorithm(matrix.float())
    assert fast_norm.dtype == torch.float64 and fast_polar.dtype == torch.float32
    assert torch.allclose(fast_norm, norm, rtol=1e-6)
    assert torch.allclose(fast_polar.double(), polar, atol=2e-4)


@pytest.mark.parametrize("algorithm", FAST)
def test_spectra_of_hidden_states_meet_the_accuracy_bar(algorithm):
    """A condition number of 1e7, as SᵀT of hidden states has."""
    sigma = torch.logspace(0, -7, 100, dtype=torch.float64)
    matrix, polar = with_spectrum(sigma, 160)
    norm, found = algorithm(matrix.float())
    assert abs(norm - sigma.sum()) / sigma.sum() < 1e-5
    weighted = matrix @ matrix.T @ found.double(), matrix @ matrix.T @ polar
    cosine = torch.nn.functional.cosine_similarity(weighted[0].flatten(), weighted[1].flatten(), dim=0)
    assert cosine > 0.9999


@pytest.mark.parametrize("algorithm", FAST)
def test_a_floor_makes_the_polar_factor_of_a_deficient_matrix_reproducible(algorithm):
    """Noise of a tenth of float32's rounding would otherwise decide over the null space, here more than half of it."""
    matrix = random(20, 8) @ random(8, 40, seed=1)
    noise = random(20, 40, seed=2) * matrix.std() * 1e-8
    first, second = (algorithm(each)[1].flatten() for each in (matrix, matrix + noise))
    free = [torch.linalg.svd(each, full_matrices=False) for each in (matrix, matrix + noise)]
    unfloored = [(u @ vh).flatten() for u, _, vh in free]
    assert torch.nn.functional.cosine_similarity(first, second, dim=0) > 0.999
    assert torch.nn.functional.cosine_similarity(*unfloored, dim=0) < 0.8


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e10, 1e30])
def test_any_scale(scale):
    matrix = random(6, 9, dtype=torch.float32)
    norm, polar = polar_factor(matrix * scale)
    expected, expected_polar = polar_factor(matrix)
    assert torch.allclose(norm, expected * torch.tensor(scale, dtype=torch.float32).double(), rtol=1e-6)
    assert torch.allclose(polar, expected_polar, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_not_finite_gives_nan_and_raises_nothing(dtype, poison):
    matrix = random(3, 4, 5, dtype=dtype)
    matrix[1, 2, 3] = poison
    matrix.requires_grad_()
    norm = nuclear_norm(matrix)
    norm.sum().backward()
    assert norm.isnan().tolist() == [False, True, False]
    assert matrix.grad[1].isnan().all() and matrix.grad[0].isfinite().all()


@pytest.mark.parametrize("algorithm", [*FAST, by_singular_values])
def test_zeros_have_norm_zero_and_no_gradient(algorithm):
    norm, polar = algorithm(torch.zeros(3, 4))
    assert norm == 0 and polar.abs().sum() == 0


def test_polynomial_takes_singular_values_to_one():
    sigma = torch.logspace(0, -6, 60)
    x = sigma.double() / sigma.double().norm()
    _, polar = by_polynomial(torch.diag(sigma.double()))
    reached = polar.diagonal()[x > 1e-6]
    assert (reached - 1).abs().max() < 1e-6


def test_choice_of_algorithm():
    assert choose_algorithm(torch.float64, torch.device("cpu")) is by_singular_values
    assert choose_algorithm(torch.float32, torch.device("cpu")) is by_eigenvectors
    assert choose_algorithm(torch.float32, torch.device("cuda")) is by_polynomial


def test_second_derivative_is_refused():
    matrix = random(3, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(nuclear_norm(matrix) ** 2, matrix, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
