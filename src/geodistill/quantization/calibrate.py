"""Where the intervals of inputs start: at the range of what the float model's layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from geodistill.errors import GeodistillError
from geodistill.quantization.insert import quantized_modules
from geodistill.quantization.modules import QuantizedModule
from geodistill.recipe import QuantizationRecipe


def calibrate(model: nn.Module, batches: Iterable[Any], recipe: QuantizationRecipe) -> int:
    """Start the intervals of inputs from a forward pass of the float model, and return the number of examples read.

    With `calibration: minmax` an interval reaches from the smallest to the largest value. With `percentile` it reaches
    from the percentile 100 − p to the percentile p, each the mean over the batches.

    Args:
        model: a model with quantisers. Its mode stays unchanged; the pass is in evaluation mode and without gradients.
        batches: mappings, whose entries the model is called with by name, or tensors. After
            `recipe.calibration_examples` examples no more are read.
        recipe: the section that the model was quantised by.

    Raises:
        GeodistillError: there is no example, a layer reads values that are not finite, a layer never ran, or the model
            reads the weight of a quantised layer past that layer.

    Example:
        quantize(model, recipe)
        calibrate(model, DataLoader(examples, batch_size=32), recipe)
    """
    layers = quantized_modules(model)
    ranges = {name: _Range(recipe) for name in layers}
    weights = {id(layer.weight): name for name, layer in layers.items()}
    examples = 0
    with _evaluating(model), plain_layers(model), torch.no_grad(), _listening(layers, ranges, weights) as watch, watch:
        for batch in batches:
            examples += _run(model, batch)
            if examples >= recipe.calibration_examples:
                break
    if examples == 0:
        raise GeodistillError(
            "There is no example to calibrate the quantisers with.", "Give a training split that is not empty."
        )
    if watch.found:
        raise GeodistillError(
            f"The model reads the weight of {_names(watch.found)} past that layer, where nothing would round it.",
            "Exclude the layer from the quantisation.",
        )
    if idle := [name for name, each in ranges.items() if not each.batches]:
        raise GeodistillError(
            f"In {examples} examples {_names(idle)} did not run as a layer, so nothing would round its weight.",
            "Exclude it from the quantisation.",
        )
    for name, layer in layers.items():
        if layer.input_quantizer is not None:
            low, high = ranges[name].ends()
            if not bool(torch.isfinite(high - low)):
                raise GeodistillError(
                    f"The layer '{name}' reads values that are not finite.",
                    "Look for NaN in the data and in the weights, or exclude the layer.",
                )
            layer.input_quantizer.start(low, high)
    return examples


@contextmanager
def plain_layers(model: nn.Module) -> Iterator[None]:
    """Let the quantised layers compute in float for a while."""
    layers = [*quantized_modules(model).values()]
    kinds = [type(layer) for layer in layers]
    try:
        for layer in layers:
            layer.__class__ = layer.plain  # type: ignore[assignment]
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


class _Range:
    """The range of what a layer reads, over batches."""

    def __init__(self, recipe: QuantizationRecipe) -> None:
        self.share = recipe.percentile / 100 if recipe.calibration == "percentile" else 1.0
        self.symmetric = recipe.symmetric
        self.batches = 0
        self.low = self.high = torch.tensor(0.0)

    def add(self, values: Tensor) -> None:
        self.batches += 1
        if not values.is_floating_point() or not values.numel():
            return
        low, high = self._of(values.detach().float())
        if self.batches == 1:
            self.low, self.high = low, high
        elif self.share == 1.0:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        else:
            self.low = self.low + (low - self.low) / self.batches
            self.high = self.high + (high - self.high) / self.batches

    def _of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        if self.share == 1.0:
            return values.amin(), values.amax()
        values = values.flatten()
        place = max(1, round(self.share * values.numel()))
        if self.symmetric:
            high = values.abs().kthvalue(place).values
            return -high, high
        return -(-values).kthvalue(place).values, values.kthvalue(place).values

    def ends(self) -> tuple[Tensor, Tensor]:
        return self.low, self.high


class _Watch(TorchFunctionMode):
    """Note weights of layers that are read while the layer does not run."""

    def __init__(self, weights: Mapping[int, str]) -> None:
        super().__init__()
        self.weights = weights
        self.running = 0
        self.found: set[str] = set()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not self.running and isinstance(result, Tensor):
            for each in (*args, *(kwargs or {}).values()):
                # What returns the weight itself reads nothing of it, such as a cast to the type that it has.
                if id(each) in self.weights and result is not each:
                    self.found.add(self.weights[id(each)])
        return result


@contextmanager
def _listening(
    layers: Mapping[str, QuantizedModule], ranges: Mapping[str, _Range], weights: Mapping[int, str]
) -> Iterator[_Watch]:
    """Let each range see what its layer reads, and yield the watch that knows which layers run."""
    watch = _Watch(weights)

    def before(range_: _Range) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            range_.add(cast(Tensor, (*args, *kwargs.values())[0]))
            watch.running += 1

        return hook

    def after(*_: Any) -> None:
        watch.running -= 1

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(before(ranges[name]), with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(after).remove)
        yield watch


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, batch: Any) -> int:
    """Call the model with a batch, on the device of the model, and return the number of examples."""
    device = next(model.parameters()).device
    if isinstance(batch, Tensor):
        model(batch.to(device))
        return len(batch)
    tensors = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    model(**tensors)
    return max((len(value) for value in tensors.values() if isinstance(value, Tensor) and value.ndim), default=0)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
