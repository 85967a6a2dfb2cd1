"""Layers of integers compute what the quantised layers do, and hold what the quantisers promise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geodistill.quantization import QuantizedModule, calibrate, quantize, quantized_modules
from geodistill.quantization.integers import IntegerModule, RoundedInput, to_integers
from geodistill.quantization.quantizer import Quantizer
from geodistill.recipe import QuantizationRecipe

Logits = Callable[[nn.Module, Any], Tensor]
RECIPES = [
    QuantizationRecipe(weights=8, activations=8),
    QuantizationRecipe(weights=3, activations=8, symmetric=True, first_and_last=2, embeddings=5),
    QuantizationRecipe(weights=4, activations=4, per_channel=False),
    QuantizationRecipe(weights=2, activations=None),
]


def quantised(model: nn.Module, batch: Any, recipe: QuantizationRecipe) -> nn.Module:
    if any(module for module in model.modules() if getattr(module, "lm_head", None) is not None):
        recipe = recipe.model_copy(update={"embeddings": 8, "first_and_last": 8})  # their weights may be tied
    quantize(model, recipe)
    if recipe.activations is not None:
        calibrate(model, [batch], recipe)
    return model


@pytest.mark.parametrize("recipe", RECIPES, ids=["W8A8", "W3A8 symmetric", "W4A4 per tensor", "W2 alone"])
def test_integers_compute_what_the_quantised_model_does(
    named: tuple[nn.Module, Any], recipe: QuantizationRecipe, logits: Logits
) -> None:
    model, batch = named
    model = quantised(model, batch, recipe)
    integers = to_integers(copy.deepcopy(model))
    assert not any(isinstance(module, QuantizedModule) for module in integers.modules())
    with torch.no_grad():
        torch.testing.assert_close(logits(integers, batch), logits(model, batch), rtol=0, atol=1e-5)


def test_stored_weights_are_unsigned_and_come_back_exactly(named: tuple[nn.Module, Any]) -> None:
    model, batch = named
    model = quantised(model, batch, QuantizationRecipe(weights=4, activations=4))
    layers = quantized_modules(model)
    integers = to_integers(copy.deepcopy(model))
    for name, layer in layers.items():
        found = integers.get_submodule(name)
        assert isinstance(found, IntegerModule)
        assert found.stored.integers.dtype == torch.uint8
        assert int(found.stored.integers.max()) < 2**layer.weight_quantizer.bits
        expected = layer.rounded_weight()
        transposed = isinstance(layer, nn.Linear)
        assert torch.equal(found.weight.T if transposed else found.weight, expected)
        assert found.weight.dtype == torch.float32


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_inputs_are_rounded_on_bytes_as_the_quantiser_rounds(bits: int, symmetric: bool) -> None:
    quantizer = Quantizer(bits, symmetric=symmetric)
    quantizer.start(torch.tensor(-0.7), torch.tensor(1.9))
    rounded = RoundedInput(quantizer)
    values = torch.linspace(-3, 3, 1001)
    assert torch.equal(rounded(values), quantizer(values))
    assert 0 <= rounded.low < rounded.high <= 255 and rounded.zero_point.dtype == torch.uint8


def test_a_layer_under_two_names_stays_one_layer() -> None:
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "one": shared, "other": shared, "last": nn.Linear(4, 4)})
    quantize(model, QuantizationRecipe(weights=4, activations=None, first_and_last=4))
    to_integers(model)
    assert model["one"] is model["other"] and isinstance(model["other"], IntegerModule)


@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_padding_by_name(padding: Any) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=padding), nn.ReLU(), nn.Conv2d(3, 2, (3, 5), padding="same"))
    batch = torch.randn(2, 2, 7, 6)
    model = quantised(model.eval(), batch, QuantizationRecipe(weights=4, activations=4))
    with torch.no_grad():
        torch.testing.assert_close(to_integers(copy.deepcopy(model))(batch), model(batch), rtol=0, atol=1e-6)
