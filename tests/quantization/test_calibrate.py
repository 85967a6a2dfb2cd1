"""Where the intervals of inputs start, and what a calibration pass finds out about a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.quantization import calibrate, quantize
from geodistill.quantization.calibrate import plain_layers
from geodistill.recipe import QuantizationRecipe

RECIPE = QuantizationRecipe(weights=2, activations=4)
Make = Callable[[str], nn.Module]


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_an_interval_starts_at_what_the_float_model_reads() -> None:
    model, batches = two_layers(), [torch.randn(8, 4), 2 * torch.randn(8, 4)]
    inside = [model[:2](batch) for batch in batches]
    quantize(model, RECIPE)
    model.train()
    assert calibrate(model, batches, RECIPE) == 16
    assert model.training
    first, last = model[0].input_quantizer, model[2].input_quantizer
    everything = torch.cat(batches)
    torch.testing.assert_close(first.offset.item(), everything.min().item())
    torch.testing.assert_close(first.interval.item(), (everything.max() - everything.min()).item())
    assert last.offset.item() == 0
    torch.testing.assert_close(last.interval.item(), torch.cat(inside).max().item())


def test_a_symmetric_interval_starts_at_the_largest_magnitude() -> None:
    recipe = QuantizationRecipe(symmetric=True)
    model, batch = two_layers(), torch.randn(8, 4)
    quantize(model, recipe)
    calibrate(model, [batch], recipe)
    assert model[0].input_quantizer.interval.item() == 2 * batch.abs().max().item()
    assert model[0].input_quantizer.offset is None


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_leaves_outliers_out(symmetric: bool) -> None:
    recipe = QuantizationRecipe(calibration="percentile", percentile=90, symmetric=symmetric)
    model, batches = two_layers(), [torch.randn(50, 4), torch.randn(50, 4)]
    for batch in batches:
        batch[0, 0] = 1000
    quantize(model, recipe)
    calibrate(model, batches, recipe)
    quantizer = model[0].input_quantizer
    if symmetric:
        expected = 2 * torch.stack([batch.abs().flatten().sort().values[179] for batch in batches]).mean()
        torch.testing.assert_close(quantizer.interval[0], expected)
    else:
        ends = [[batch.flatten().sort().values[place] for batch in batches] for place in (20, 179)]
        low, high = (torch.stack(each).mean() for each in ends)
        torch.testing.assert_close(quantizer.offset[0], low)
        torch.testing.assert_close(quantizer.interval[0], high - low)


def test_only_so_many_examples_are_read(make: Make) -> None:
    recipe = QuantizationRecipe(calibration_examples=5)
    model = make("bert")
    quantize(model, recipe)
    batches = iter([{"input_ids": torch.ones(4, 3, dtype=torch.long)}] * 9)
    assert calibrate(model, batches, recipe) == 8
    assert len(list(batches)) == 7


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 4)]])
def test_no_example_is_an_error(batches: list[Tensor]) -> None:
    model = two_layers()
    quantize(model, RECIPE)
    with pytest.raises(GeodistillError, match=r"no example to calibrate.*split that is not empty"):
        calibrate(model, batches, RECIPE)


def test_values_that_are_not_finite_are_named() -> None:
    model = two_layers()
    quantize(model, RECIPE)
    with pytest.raises(GeodistillError, match="The layer '0' reads values that are not finite"):
        calibrate(model, [torch.full((2, 4), float("nan"))], RECIPE)


class TiedByHand(nn.Module):
    """A head that reads the weight of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.unused = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.body(self.embedding(ids).to(self.embedding.weight.dtype))
        return functional.linear(hidden, self.embedding.weight.to(hidden.device))


def test_a_weight_that_is_read_past_its_layer_is_found() -> None:
    ids = torch.tensor([[1, 2, 3]])
    model = TiedByHand()
    quantize(model, QuantizationRecipe())
    with pytest.raises(GeodistillError, match=r"reads the weight of 'embedding' past that layer.*Exclude"):
        calibrate(model, [ids], RECIPE)
    model = TiedByHand()
    recipe = QuantizationRecipe(exclude=["embedding"])
    quantize(model, recipe)
    with pytest.raises(GeodistillError, match=r"In 1 examples 'unused' did not run.*Exclude"):
        calibrate(model, [ids], recipe)
    model = TiedByHand()
    recipe = QuantizationRecipe(include=["body"])
    quantize(model, recipe)
    assert calibrate(model, [ids], recipe) == 1


def test_nothing_of_the_calibration_stays(named: tuple[nn.Module, Any]) -> None:
    model, batch = named
    quantize(model, RECIPE)
    calibrate(model, [batch], RECIPE)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_plain_layers_are_quantised_again_after_an_error() -> None:
    model = two_layers()
    quantize(model, RECIPE)
    with pytest.raises(RuntimeError), plain_layers(model):
        assert type(model[0]) is nn.Linear
        raise RuntimeError
    assert type(model[0]) is not nn.Linear
