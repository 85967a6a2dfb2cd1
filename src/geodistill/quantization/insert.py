"""Putting quantisers into the layers of any model, by the names of its modules, and taking them out again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from geodistill.errors import GeodistillError, nearest_names
from geodistill.quantization.modules import KINDS, QuantizedModule, input_features
from geodistill.quantization.quantizer import SMALLEST_INTERVAL, Quantizer
from geodistill.recipe import QuantizationRecipe

# Their fast paths read the weights of their layers past the layers.
READS_ITS_LAYERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
logger = logging.getLogger(__name__)


class LayerBits(NamedTuple):
    """How many bits the weights and the inputs of a layer get.

    Args:
        weights: bits of the weights.
        activations: bits of what the layer reads; None: it stays float.

    Example:
        layer_bits(model, recipe)["classifier"].weights  # 8
    """

    weights: int
    activations: int | None


def quantize(model: nn.Module, recipe: QuantizationRecipe) -> list[str]:
    """Put quantisers into the layers that the recipe names, in place.

    Intervals of weights start at the range of the weights. Intervals of inputs start at 1, until `calibrate` is called.

    Args:
        model: any module. Its layers that are exactly nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding or transformers'
            Conv1D can be quantised.
        recipe: bits, and which layers.

    Returns:
        The names of the layers.

    Raises:
        GeodistillError: a pattern matches no layer, no layer is left, only one of two layers with a common weight would
            be quantised or each differently, or the model has quantisers or adapters already.

    Example:
        names = quantize(model, QuantizationRecipe(weights=4, activations=4, exclude=["*.pooler.*"]))
        calibrate(model, batches, recipe)

    Reference: `Quantizer` has the sources of the quantisers; 8 bits for the outer layers are common practice.
    """
    bits = layer_bits(model, recipe)
    for name, reason in _layers(model)[1].items():
        if _chosen(name, recipe):
            logger.warning("'%s' stays float: %s", name, reason)
    insert_quantizers(model, bits, recipe)
    return list(bits)


def insert_quantizers(model: nn.Module, bits: Mapping[str, LayerBits], recipe: QuantizationRecipe) -> None:
    """Put quantisers of these bits into these plain layers; the recipe says all else about the grids."""
    quantizers: dict[int, Quantizer] = {}
    for name, each in bits.items():
        layer = model.get_submodule(name)
        kind = KINDS[type(layer)]
        weight = cast(nn.Parameter, layer.weight)
        layer.__class__ = kind
        quantized = cast(QuantizedModule, layer)
        if id(weight) in quantizers:
            # Not as a child: a state dict would hold the tensors of the quantiser twice, which safetensors refuses.
            quantized.__dict__["weight_quantizer"] = quantizers[id(weight)]
        else:
            quantizers[id(weight)] = quantized.weight_quantizer = _of_weight(weight, kind.channel_axis, each, recipe)
        quantized.input_quantizer = _of_input(quantized, each, recipe)
        quantized.rounds_bias = recipe.biases and quantized.input_quantizer is not None


def remove_quantizers(model: nn.Module, *, round: bool = False) -> nn.Module:
    """Make all layers plain again, in place.

    Args:
        model: a model with or without quantisers.
        round: give weights and biases the values that they were rounded to.

    Returns:
        The model.

    Example:
        plain = remove_quantizers(student, round=True)
    """
    layers = quantized_modules(model).values()
    if round:
        for layer, (weight, bias) in [(layer, rounded_parameters(layer)) for layer in layers]:
            layer.weight.data.copy_(weight)
            if bias is not None:
                cast(nn.Parameter, layer.bias).data.copy_(bias)
    for layer in layers:
        for name in ("weight_quantizer", "input_quantizer"):
            layer._modules.pop(name, None)
            layer.__dict__.pop(name, None)
        del layer.rounds_bias
        layer.__class__ = layer.plain  # type: ignore[assignment]
    return model


@torch.no_grad()
def rounded_parameters(layer: QuantizedModule) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weight and the bias that a layer computes with."""
    return layer.rounded_weight(), layer.rounded_bias()


def quantized_modules(model: nn.Module) -> dict[str, QuantizedModule]:
    """Return the quantised layers of a model.

    Args:
        model: any module.

    Returns:
        The layers by their names; an empty dictionary if the model has no quantisers.

    Example:
        quantized_modules(student)["classifier"].weight_quantizer.bits  # 8
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedModule)}


def is_quantized(model: nn.Module) -> bool:
    """Tell whether a model has quantisers.

    Args:
        model: any module.

    Returns:
        True if at least one layer is quantised.

    Example:
        is_quantized(student)
    """
    return any(isinstance(module, QuantizedModule) for module in model.modules())


def check_intervals(model: nn.Module) -> None:
    """Check that no interval of a quantiser has collapsed to zero or is infinite or NaN.

    Args:
        model: any module.

    Raises:
        GeodistillError: an interval has; the error names the layer.

    Example:
        optimizer.step()
        check_intervals(student)
    """
    names, flags = [], []
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            interval, offset = module.interval.detach(), module.offset
            finite = interval.isfinite().all() if offset is None else (interval + offset.detach()).isfinite().all()
            names.append(name)
            flags.append(torch.stack([finite, (interval >= SMALLEST_INTERVAL).all()]))
    if not flags:
        return
    # One transfer for all of them.
    for name, (finite, wide) in zip(names, torch.stack(flags).tolist(), strict=True):
        if not (finite and wide):
            layer, _, what = name.rpartition(".")
            of = {"weight_quantizer": "weights", "input_quantizer": "inputs"}[what]
            raise GeodistillError(
                f"The interval of the {of} of '{layer}' {'collapsed to zero' if finite else 'is not finite'}.",
                "Lower the learning rate of the intervals, give the layer more bits, or exclude it.",
            )


def layer_bits(model: nn.Module, recipe: QuantizationRecipe) -> dict[str, LayerBits]:
    """Return what each layer that the recipe names would get; nothing is changed.

    Args:
        model: any module.
        recipe: bits, and which layers.

    Returns:
        The bits by the names of the layers, in the order of the model.

    Raises:
        GeodistillError: as `quantize` raises.

    Example:
        layer_bits(model, QuantizationRecipe(weights=4))["classifier"]  # LayerBits(weights=8, activations=8)
    """
    _refuse_other_quantization(model)
    layers, left = _layers(model)
    _check_patterns([*(recipe.include or []), *recipe.exclude], layers, left, recipe)
    ends = [next(iter(layers)), next(reversed(layers))] if layers else []
    found = {}
    for name, layer in layers.items():
        if not _chosen(name, recipe):
            continue
        if isinstance(layer, nn.Embedding):
            weights, activations = recipe.embeddings, None
        elif name in ends:
            weights = recipe.first_and_last
            activations = None if recipe.activations is None else weights
        else:
            weights, activations = recipe.weights, recipe.activations
        if weights is not None:
            found[name] = LayerBits(weights, activations)
    if not found:
        raise GeodistillError(
            f"No layer of the {type(model).__name__} is left to quantise.",
            f"Change include, exclude, embeddings or first_and_last. Layers: {_listed(layers)}.",
        )
    _check_common_weights(model, found, recipe)
    return found


def _layers(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The layers that can be quantised by name, and the reasons why others of their kinds cannot."""
    found: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    kinds: tuple[type[nn.Module], ...] = tuple(KINDS)
    for name, module in model.named_modules():
        if not isinstance(module, kinds):
            continue
        parent = model.get_submodule(name.rpartition(".")[0]) if name else None
        if isinstance(parent, READS_ITS_LAYERS):
            left[name] = f"{type(parent).__name__} reads the weights of its layers past the layers."
        elif type(module) not in KINDS:
            left[name] = f"{type(module).__name__} may compute something else than the layer that it derives from."
        elif not isinstance(module._parameters.get("weight"), nn.Parameter):
            left[name] = "its weight is not a parameter."
        else:
            found[name] = module
    return found, left


def _refuse_other_quantization(model: nn.Module) -> None:
    if is_quantized(model):
        raise GeodistillError(
            "The model has quantisers already.", "Call remove_quantizers(model) first, or go on with those."
        )
    rooms = {type(module).__module__.split(".")[0] for module in model.modules()}
    if "bitsandbytes" in rooms:
        raise GeodistillError(
            "The model was quantised by bitsandbytes, whose weights cannot be trained.",
            "Load it with plain weights (weights: float32).",
        )
    if getattr(model, "hf_quantizer", None) is not None:
        raise GeodistillError(
            f"The model was quantised already, by {type(cast(Any, model).hf_quantizer).__name__}.",
            "Load it with plain weights.",
        )
    if "peft" in rooms:
        raise GeodistillError(
            "The model has adapters (LoRA), and a quantiser would not see what they add to a weight.",
            "Merge them first (model.merge_and_unload()), or leave out lora or quantization.",
        )


def _chosen(name: str, recipe: QuantizationRecipe) -> bool:
    """Whether the patterns of the recipe choose a layer."""

    def matches(patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return (recipe.include is None or matches(recipe.include)) and not matches(recipe.exclude)


def _check_patterns(
    patterns: Iterable[str], layers: Mapping[str, nn.Module], left: Mapping[str, str], recipe: QuantizationRecipe
) -> None:
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in layers):
            continue
        out_of_reach = [name for name in left if fnmatchcase(name, pattern)]
        if not out_of_reach:
            raise GeodistillError(
                f"The pattern '{pattern}' matches no layer that can be quantised.",
                f"The nearest: {', '.join(nearest_names(pattern, layers)) or 'none, since there are no such layers'}.",
            )
        if recipe.include is not None and pattern in recipe.include:
            name = out_of_reach[0]
            raise GeodistillError(
                f"The pattern '{pattern}' matches '{name}', which cannot be quantised: {left[name]}",
                "Leave the pattern out.",
            )


def _check_common_weights(model: nn.Module, bits: Mapping[str, LayerBits], recipe: QuantizationRecipe) -> None:
    """Refuse that modules share a weight that only some of them round, or that they round differently."""
    grids: dict[int, dict[str, tuple[int, int] | None]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            rounded = name in bits and key == "weight"
            axis = KINDS[type(module)].channel_axis if rounded and recipe.per_channel else 0
            grids.setdefault(id(parameter), {})[name] = (bits[name].weights, axis) if rounded else None
    for layers in grids.values():
        if len(set(layers.values())) > 1:
            said = [f"'{name}' ({'float' if grid is None else f'{grid[0]} bits'})" for name, grid in layers.items()]
            raise GeodistillError(
                f"These layers have one weight in common and would round it differently: {', '.join(said)}.",
                "Include or exclude them together, and give embeddings and first_and_last the same number of bits.",
            )


def _of_weight(weight: nn.Parameter, axis: int, bits: LayerBits, recipe: QuantizationRecipe) -> Quantizer:
    channels = weight.shape[axis] if recipe.per_channel else None
    quantizer = Quantizer(
        bits.weights,
        symmetric=True,
        channels=channels,
        axis=axis if recipe.per_channel else None,
        count=max(1, weight.numel() // (channels or 1)),
    )
    _put_beside(quantizer, weight)
    others = [place for place in range(weight.ndim) if place != axis] if recipe.per_channel else [*range(weight.ndim)]
    quantizer.start(weight.detach().amin(others), weight.detach().amax(others))
    return quantizer


def _of_input(layer: QuantizedModule, bits: LayerBits, recipe: QuantizationRecipe) -> Quantizer | None:
    if bits.activations is None:
        return None
    quantizer = Quantizer(bits.activations, symmetric=recipe.symmetric, count=input_features(layer))
    _put_beside(quantizer, layer.weight)
    return quantizer


def _put_beside(quantizer: Quantizer, weight: nn.Parameter) -> None:
    """On the device of the weight, and in float32 at least."""
    quantizer.to(weight.device, torch.promote_types(weight.dtype, torch.float32))


def _listed(layers: Mapping[str, nn.Module], most: int = 8) -> str:
    names = [*layers][:most]
    return ", ".join(names) + (f" and {len(layers) - most} more" if len(layers) > most else "") if names else "none"
