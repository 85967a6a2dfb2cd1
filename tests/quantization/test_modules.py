"""A quantised layer computes what its plain class computes of rounded weights, inputs and biases."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from geodistill.quantization import QuantizedModule, calibrate, quantize, remove_quantizers
from geodistill.quantization.modules import KINDS
from geodistill.recipe import QuantizationRecipe

LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 7), torch.linspace(-3, 3, 30).view(2, 3, 5).sin()),
    "linear without bias": (lambda: nn.Linear(5, 7, bias=False), torch.linspace(-3, 3, 10).view(2, 5).sin()),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), torch.linspace(-3, 3, 40).view(2, 4, 5).sin()),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.linspace(-3, 3, 200).view(2, 4, 5, 5).sin()),
    "reflecting": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), torch.ones(1, 2, 4, 4)),
    "transposed linear": (lambda: Conv1D(7, 5), torch.linspace(-3, 3, 30).view(2, 3, 5).sin()),
    "embedding": (lambda: nn.Embedding(9, 4, padding_idx=1), torch.tensor([[0, 1, 8], [3, 3, 2]])),
}


def quantized(layer: nn.Module, x: Tensor, **options: Any) -> QuantizedModule:
    recipe = QuantizationRecipe(**{"weights": 4, "activations": 4, "embeddings": 4, "first_and_last": 4, **options})
    model = nn.Sequential(layer)
    assert quantize(model, recipe) == ["0"]
    calibrate(model, [x], recipe)
    return layer  # type: ignore[return-value]


@pytest.fixture(params=list(LAYERS))
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, x = LAYERS[request.param]
    return make(), x


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_plain_layer_of_rounded_values_computes_the_same(pair: tuple[nn.Module, Tensor], per_channel: bool) -> None:
    layer, x = pair
    if (bias := getattr(layer, "bias", None)) is not None:
        nn.init.normal_(bias)
    plain = copy.deepcopy(layer)
    quantized(layer, x, per_channel=per_channel)
    assert type(layer) is KINDS[type(plain)] and isinstance(layer, type(plain))
    plain.weight.data = layer.weight_quantizer(layer.weight).data  # type: ignore[union-attr]
    if bias is not None:
        step = (layer.input_quantizer.scale * layer.weight_quantizer.scale).detach()  # type: ignore[union-attr]
        plain.bias.data = (layer.bias.detach() / step).round() * step
        assert not torch.equal(plain.bias, layer.bias)  # type: ignore[arg-type]
    expected = plain(x if isinstance(layer, nn.Embedding) else layer.input_quantizer(x))  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(remove_quantizers(nn.Sequential(layer), round=True)[0].weight, plain.weight)  # type: ignore[index]


def test_everything_that_is_learned_has_a_gradient(pair: tuple[nn.Module, Tensor]) -> None:
    layer, x = pair
    quantized(layer, x)
    (layer(x) * torch.linspace(-1, 2, layer(x).numel()).view_as(layer(x))).sum().backward()
    names = [name for name, parameter in layer.named_parameters() if parameter.grad is None]
    assert not names


def test_a_bias_passes_its_gradient_whole() -> None:
    layer = quantized(nn.Linear(5, 7), torch.randn(4, 5))
    layer(torch.randn(3, 5)).sum().backward()
    assert layer.bias.grad.tolist() == [3.0] * 7  # type: ignore[union-attr]


def test_a_bias_stays_float_on_request_and_where_inputs_do() -> None:
    for options in ({"biases": False}, {"activations": None}):
        layer = quantized(nn.Linear(5, 7), torch.randn(4, 5), **options)
        assert layer.rounded_bias() is layer.bias


def test_few_integers_are_left(pair: tuple[nn.Module, Tensor]) -> None:
    layer, x = pair
    rounded = quantized(layer, x, weights=2, embeddings=2, first_and_last=2, per_channel=False).rounded_weight()
    assert len(rounded.unique()) <= 4


def test_a_layer_is_copied_pickled_and_cast(pair: tuple[nn.Module, Tensor]) -> None:
    layer, x = pair
    quantized(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
    before = layer(x)
    assert layer.double()(x if x.dtype == torch.long else x.double()).dtype == torch.float64
    torch.testing.assert_close(layer.float()(x), before)
    assert layer.bfloat16()(x if x.dtype == torch.long else x.bfloat16()).dtype == torch.bfloat16


def test_autocast_multiplies_in_bfloat16_what_was_rounded_in_float32() -> None:
    x = torch.randn(4, 5)
    layer = quantized(nn.Linear(5, 7), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
        assert found.dtype == torch.bfloat16
        assert layer.rounded_weight().dtype == torch.float32
    torch.testing.assert_close(found.float(), layer(x), atol=0.03, rtol=0.03)
