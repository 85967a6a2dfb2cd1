"""The quantiser against a slow twin in float64, torch's own operators and numerical gradients."""

from __future__ import annotations

import copy
import pickle

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.quantization import Quantizer, fake_quantize

BITS = range(2, 9)
floats = st.floats(-100, 100, width=32)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def slow(x: float, interval: float, offset: float | None, bits: int) -> tuple[float, float, float, float]:
    """x̂ and its derivatives by x, interval and offset, one value at a time; Python rounds halves to even as well."""
    levels = 2**bits - 1
    step = interval / levels
    lowest = -(2 ** (bits - 1)) if offset is None else min(0, max(-levels, round(offset / step)))
    integer = round(x / step)
    clipped = min(lowest + levels, max(lowest, integer))
    value = clipped * step
    if clipped == integer:
        return value, 1.0, (value - x) / interval, 0.0
    return value, 0.0, (value - (offset or 0.0)) / interval, 1.0


def asymmetric(bits: int, low: float = -0.7, high: float = 1.9) -> Quantizer:
    quantizer = Quantizer(bits, symmetric=False, count=7)
    quantizer.start(torch.tensor(low), torch.tensor(high))
    return quantizer


def gradients(quantizer: Quantizer, x: Tensor, above: Tensor) -> tuple[Tensor, ...]:
    wanted = [x, quantizer.interval, *([] if quantizer.offset is None else [quantizer.offset])]
    return torch.autograd.grad(quantizer(x), wanted, above)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_values_and_gradients_are_those_of_a_slow_twin(bits: int, symmetric: bool) -> None:
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    quantizer = Quantizer(bits, symmetric=symmetric, count=7).double()
    quantizer.start(torch.tensor(-0.7), torch.tensor(1.9))
    above = torch.randn_like(x)
    offset = None if quantizer.offset is None else quantizer.offset.item()
    expected = [slow(value, quantizer.interval.item(), offset, bits) for value in x.tolist()]
    values, of_x, of_interval, of_offset = torch.tensor(expected, dtype=torch.float64).unbind(1)
    torch.testing.assert_close(quantizer(x), values)
    scale = 1 / (7 * (2 ** (bits - 1) - 1 if symmetric else 2**bits - 1)) ** 0.5
    found = gradients(quantizer, x, above)
    torch.testing.assert_close(found[0], above * of_x)
    torch.testing.assert_close(found[1], (above * of_interval).sum().view(1) * scale)
    if not symmetric:
        torch.testing.assert_close(found[2], (above * of_offset).sum().view(1) * scale)
    assert bool((of_x == 0).any()) and bool((of_x == 1).any())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_the_numerical_ones_where_rounding_counts_as_a_fixed_shift(bits: int, symmetric: bool) -> None:
    """Straight through: round(u) = u + c, where c is what rounding added at the point, a constant."""
    x = torch.randn(50, dtype=torch.float64) * 2
    levels, interval, offset = 2**bits - 1, 2.6, 0.0 if symmetric else -0.7
    lowest = -(2 ** (bits - 1)) if symmetric else round(offset * levels / interval)
    integers = (x * levels / interval).round()
    added = integers - x * levels / interval
    added_to_offset = 0.0 if symmetric else lowest - offset * levels / interval

    def surrogate(x: Tensor, interval: float, offset: float) -> Tensor:
        step = interval / levels
        low = lowest if symmetric else offset / step + added_to_offset
        inside = (integers >= lowest) & (integers <= lowest + levels)
        above = integers > lowest + levels
        return step * torch.where(inside, x / step + added, x.new_tensor(low) + above * levels)

    leaves = [torch.tensor([each], dtype=torch.float64, requires_grad=True) for each in (interval, offset)]
    x.requires_grad_()
    values = fake_quantize(x, leaves[0], None if symmetric else leaves[1], bits=bits)
    torch.testing.assert_close(values, surrogate(x, interval, offset))
    found = torch.autograd.grad(values.sum(), [x, *leaves[: 1 if symmetric else 2]])
    tiny = 1e-6
    numerical = (surrogate(x + tiny, interval, offset) - surrogate(x - tiny, interval, offset)) / (2 * tiny)
    torch.testing.assert_close(found[0], numerical, atol=1e-8, rtol=1e-6)
    wider = surrogate(x, interval + tiny, offset) - surrogate(x, interval - tiny, offset)
    torch.testing.assert_close(found[1], wider.sum().view(1) / (2 * tiny), atol=1e-7, rtol=1e-6)
    if not symmetric:
        moved = surrogate(x, interval, offset + tiny) - surrogate(x, interval, offset - tiny)
        torch.testing.assert_close(found[2], moved.sum().view(1) / (2 * tiny), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.skipif(not hasattr(torch, "_fake_quantize_learnable_per_tensor_affine"), reason="a private operator")
def test_torch_has_the_same_per_tensor(bits: int, symmetric: bool) -> None:
    x = torch.randn(6, 40, requires_grad=True)
    quantizer = Quantizer(bits, symmetric=symmetric, count=40)
    quantizer.start(torch.tensor(-0.7), torch.tensor(1.9))
    above = torch.randn_like(x)
    levels = 2**bits - 1
    scale = quantizer.interval / levels
    zero = torch.zeros(1) if quantizer.offset is None else -quantizer.offset / scale
    low = -(2 ** (bits - 1)) if symmetric else 0
    theirs = torch._fake_quantize_learnable_per_tensor_affine(
        x, scale, zero, low, low + levels, quantizer.gradient_scale
    )
    torch.testing.assert_close(quantizer(x), theirs)
    wanted = [x, quantizer.interval, *([] if quantizer.offset is None else [quantizer.offset])]
    for own, other in zip(gradients(quantizer, x, above), torch.autograd.grad(theirs, wanted, above), strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.skipif(not hasattr(torch, "_fake_quantize_learnable_per_channel_affine"), reason="a private operator")
def test_torch_has_the_same_per_channel(bits: int, axis: int) -> None:
    x = torch.randn(3, 4, 5, requires_grad=True)
    others = [place for place in range(3) if place != axis]
    quantizer = Quantizer(bits, symmetric=True, channels=x.shape[axis], axis=axis, count=12)
    quantizer.start(0.6 * x.detach().amin(others), 0.6 * x.detach().amax(others))
    above = torch.randn_like(x)
    scale = quantizer.interval / (2**bits - 1)
    theirs = torch._fake_quantize_learnable_per_channel_affine(
        x, scale, torch.zeros_like(scale), axis, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, quantizer.gradient_scale
    )
    torch.testing.assert_close(quantizer(x), theirs)
    other = torch.autograd.grad(theirs, [x, quantizer.interval], above)
    for own, their in zip(gradients(quantizer, x, above), other, strict=True):
        torch.testing.assert_close(own, their, atol=1e-6, rtol=1e-4)


@given(
    x=arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=floats),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
    low=st.floats(-10, 10, width=32),
    width=st.floats(0, 50, width=32),
)
@settings(max_examples=80, deadline=None)
def test_integers_come_back_exactly(
    x: np.ndarray, bits: int, symmetric: bool, per_channel: bool, low: float, width: float
) -> None:
    values = torch.from_numpy(x)
    channels = values.shape[1] if per_channel else None
    quantizer = Quantizer(bits, symmetric=symmetric, channels=channels, axis=1 if per_channel else None)
    widths = torch.arange(1, (channels or 1) + 1) * width
    quantizer.start(torch.full_like(widths, low), low + widths)
    integers = quantizer.integers(values)
    assert integers.dtype == (torch.int8 if symmetric else torch.uint8)
    span = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert integers.min() >= span[0] and integers.max() <= span[1]
    rounded = quantizer.values(integers)
    assert torch.equal(rounded, quantizer(values).detach())
    assert torch.equal(quantizer.integers(rounded), integers)
    assert torch.equal(quantizer(rounded).detach(), rounded)
    assert torch.equal(quantizer(torch.zeros_like(values)).detach(), torch.zeros_like(values))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "x",
    [torch.zeros(5), torch.full((5,), 3.0), torch.full((5,), -3.0), torch.randn(9) * 1e30, torch.randn(9) * 1e-30],
    ids=["zero", "constant", "negative", "huge", "tiny"],
)
def test_no_value_of_the_range_moves_by_more_than_half_a_step(bits: int, symmetric: bool, x: Tensor) -> None:
    quantizer = Quantizer(bits, symmetric=symmetric)
    quantizer.start(x.min(), x.max())
    assert quantizer.interval > 0
    x.requires_grad_()
    rounded = quantizer(x)
    assert bool(((rounded - x).abs() <= quantizer.scale * 0.5001).all())
    assert all(bool(each.isfinite().all()) for each in gradients(quantizer, x, torch.ones_like(x)))


def test_an_empty_channel_starts_like_the_others() -> None:
    quantizer = Quantizer(4, symmetric=True, channels=3, axis=0)
    quantizer.start(torch.tensor([-1.0, 0.0, -3.0]), torch.tensor([0.5, 0.0, 2.0]))
    assert quantizer.interval.tolist() == [2.0, 4.0, 6.0]


def test_rows_of_a_table_have_the_interval_of_their_channel() -> None:
    table = torch.randn(10, 4) * torch.arange(1, 11)[:, None]
    quantizer = Quantizer(3, symmetric=True, channels=10, axis=0)
    quantizer.start(table.amin(1), table.amax(1))
    places = torch.tensor([[3, 3, 9], [0, 1, 3]])
    assert torch.equal(quantizer(table[places], places), quantizer(table)[places])
    quantizer(table[places], places).sum().backward()
    assert quantizer.interval.grad is not None
    assert (quantizer.interval.grad != 0).nonzero().flatten().tolist() == [0, 1, 3, 9]


def test_zero_stays_on_the_grid_wherever_training_moves_the_interval() -> None:
    x = torch.linspace(-3, 3, 13)
    for offset, low, high in ((0.5, 0.0, 2.0), (-5.0, -2.0, 0.0)):
        quantizer = Quantizer(8, symmetric=False)
        with torch.no_grad():
            quantizer.interval.fill_(2.0)
            assert quantizer.offset is not None
            quantizer.offset.fill_(offset)
        rounded = quantizer(x)
        torch.testing.assert_close(rounded.aminmax(), torch.return_types.aminmax(map(torch.tensor, (low, high))))
        assert 0 in rounded.tolist()


def test_arithmetic_is_in_float32_also_with_autocast() -> None:
    x = torch.randn(64)
    quantizer = asymmetric(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer(x), asymmetric(8)(x))
        short = x.bfloat16().requires_grad_()
        rounded = quantizer(short)
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(rounded, quantizer(short.float()).bfloat16())
    rounded.sum().backward()
    assert short.grad is not None and short.grad.dtype == torch.bfloat16
    assert quantizer.interval.grad is not None and quantizer.interval.grad.dtype == torch.float32


def test_nothing_is_kept_where_no_gradient_is_asked_for() -> None:
    with torch.no_grad():
        assert asymmetric(4)(torch.randn(3)).grad_fn is None


def test_a_quantiser_is_copied_and_pickled_whole() -> None:
    quantizer, x = asymmetric(5), torch.randn(20)
    for other in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(other(x), quantizer(x))
        assert torch.equal(other.zero_point, quantizer.zero_point)
    assert repr(quantizer) == "Quantizer(5 bits, asymmetric)"


@pytest.mark.parametrize("bits", [1, 9, 0, 32])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(GeodistillError, match=f"quantiser of {bits} bits.*Give 2 to 8 bits"):
        Quantizer(bits, symmetric=True)
