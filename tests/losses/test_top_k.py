from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.losses import row_chunks
from geodistill.losses.divergences import DIVERGENCES
from geodistill.losses.logits import LogitLoss
from geodistill.losses.top_k import TopKLogits


def draw(seed: int, width: int = 12, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, 3, width, generator=generator, dtype=torch.float64) * scale
    return student, teacher


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_k_likeliest_and_the_mass_of_the_rest(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    monkeypatch.setitem(row_chunks.CHUNK_ELEMENTS, "cpu", 4 * 12)
    _, teacher = draw(0)
    found = TopKLogits.of(teacher, 5, temperature)
    p = scipy.special.softmax(teacher.numpy() / temperature, axis=-1)
    order = np.argsort(-p, axis=-1)[..., :5]
    assert np.array_equal(found.indices.numpy(), order)
    assert found.values.exp().numpy() == pytest.approx(np.take_along_axis(p, order, -1))
    assert found.tail_log_mass.exp().numpy() == pytest.approx(1 - np.take_along_axis(p, order, -1).sum(-1))
    assert (found.k, found.temperature, found.values.dtype) == (5, temperature, torch.float64)
    assert TopKLogits.of(teacher.bfloat16(), 5, temperature).values.dtype == torch.float32


def test_a_tail_far_below_rounding_is_still_there() -> None:
    teacher = torch.tensor([[60.0, 0.0, 0.0, 0.0]])
    assert TopKLogits.of(teacher, 1, 1.0).tail_log_mass.item() == pytest.approx(np.log(3) - 60)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_whole_vocabulary_gives_the_exact_value_and_gradient(name: str) -> None:
    student, teacher = draw(1)
    student.requires_grad_()
    loss = LogitLoss(2.0, divergence=name)
    cut = TopKLogits.of(teacher, 12, 2.0)
    assert (cut.tail_log_mass == -torch.inf).all()
    values = loss(student, teacher), loss(student, cut)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in values))


@given(st.sampled_from(list(DIVERGENCES)), st.integers(0, 10**6), st.floats(0.1, 20))
def test_fewer_tokens_never_say_more(name: str, seed: int, scale: float) -> None:
    """The data-processing inequality: to merge outcomes cannot move two distributions apart."""
    student, teacher = draw(seed, scale=scale)
    loss = LogitLoss(1.0, divergence=name)
    values = [loss(student, TopKLogits.of(teacher, k, 1.0)).item() for k in (1, 3, 8, 11, 12)]
    values.append(loss(student, teacher).item())
    for fewer, more in pairwise(values):
        assert fewer <= more + 1e-10


@pytest.mark.parametrize("name", DIVERGENCES)
def test_extreme_students_get_finite_gradients(name: str) -> None:
    teacher = torch.tensor([[3.0, 2.0, 0.0, -1.0]] * 3)
    student = torch.tensor([[1e4, -1e4, -1e4, -1e4], [-1e4, -1e4, 1e4, 0.0], [1.0, 1.0, -torch.inf, -torch.inf]])
    student.requires_grad_()
    mask = torch.tensor([True, True, name not in ("forward_kl",)])  # there it is infinite, as it should be
    value = LogitLoss(1.0, divergence=name)(student, TopKLogits.of(teacher, 2, 1.0), mask)
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_packed_and_unpacked() -> None:
    _, teacher = draw(2, width=40)
    cut = TopKLogits.of(teacher.float(), 7, 2.0)
    packed = cut.pack()
    assert packed.shape == (2, 3, 15) and packed.dtype == torch.float32
    again = TopKLogits.unpack(packed, 2.0)
    assert all(torch.equal(*pair) for pair in zip(cut.rows(), again.rows(), strict=True))
    assert again.indices.dtype == torch.long and again.values.shape == (2, 3, 7)


@pytest.mark.parametrize("k", [0, 13])
def test_a_k_out_of_range(k: int) -> None:
    with pytest.raises(GeodistillError, match=rf"The {k} largest of 12 logits were asked for\. .*from 1 to 12"):
        TopKLogits.of(draw(0)[1], k, 1.0)


def test_another_temperature_is_refused() -> None:
    student, teacher = draw(3)
    with pytest.raises(GeodistillError, match=r"4 largest at temperature 2, and the loss is at temperature 1\.5"):
        LogitLoss(1.5)(student, TopKLogits.of(teacher, 4, 2.0))
