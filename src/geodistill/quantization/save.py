"""A quantised model as a folder: plain weights that lie on their grids, and the quantisers beside them.

`model.safetensors` has rounded weights under plain names, so plain transformers loads the folder as a float model.
`quantization.safetensors` has the intervals, and `config.json` says under `geodistill_quantization` which layers have
how many bits. A checkpoint has both weight files as well, but its weights are not rounded, since they train on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.errors import GeodistillError
from geodistill.files import write_text
from geodistill.quantization.insert import LayerBits, insert_quantizers, quantized_modules, rounded_parameters
from geodistill.quantization.modules import KINDS
from geodistill.recipe import QuantizationRecipe

QUANTIZATION_FILE = "quantization.safetensors"
CONFIG_KEY = "geodistill_quantization"
"""Not `quantization_config`, by which transformers would look for one of its quantisers."""
QUANTIZERS = ("weight_quantizer", "input_quantizer")


def save_quantized(model: PreTrainedModel, folder: str | Path) -> None:
    """Write a quantised model to a folder that plain transformers loads too, as a float model of rounded weights.

    Args:
        model: a model with quantisers; it is left unchanged.
        folder: where `save_pretrained` writes.

    Raises:
        GeodistillError: the model has no quantisers.

    Example:
        save_quantized(student, "student")
        AutoModelForSequenceClassification.from_pretrained("student")  # float, with rounded weights
    """
    folder = Path(folder)
    description = describe_quantization(model)
    # By parameter, not by name: a weight that several layers share stays one tensor, as save_pretrained wants it.
    rounded: dict[int, Tensor | None] = {}
    for layer in quantized_modules(model).values():
        rounded[id(layer.weight)], rounded[id(getattr(layer, "bias", None))] = rounded_parameters(layer)
    state = {name: rounded.get(id(value), value.detach()) for name, value in model.state_dict(keep_vars=True).items()}
    weights, quantizers = split_state(cast(dict[str, Tensor], state))
    model.save_pretrained(folder, state_dict=weights)
    save_quantizers(quantizers, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_text(folder / "config.json", json.dumps({**config, CONFIG_KEY: description}, indent=2) + "\n")


def load_quantized(folder: str | Path, model: nn.Module) -> None:
    """Put the quantisers of a folder, in place, into the model that was loaded from it.

    Args:
        folder: what `save_quantized` wrote.
        model: the plain model, such as `from_pretrained` returns it.

    Raises:
        GeodistillError: the folder says nothing of a quantisation, its quantisers are missing or damaged, or the model
            is another one.

    Example:
        model = AutoModelForSequenceClassification.from_pretrained("student")
        load_quantized("student", model)
    """
    folder = Path(folder)
    description = saved_quantization(folder)
    if description is None:
        raise GeodistillError(f"'{folder}' holds no quantised model.", "Load it with from_pretrained alone.")
    layers = {name: LayerBits(**bits) for name, bits in description["layers"].items()}
    plain = {name for name, module in model.named_modules() if type(module) in KINDS}
    quantizers = load_quantizers(folder)
    if not quantizers:
        raise GeodistillError(
            f"'{folder}' lacks its quantisers.", f"Put {QUANTIZATION_FILE} back beside its weights, or write it again."
        )
    if other := sorted(layers.keys() - plain):
        raise GeodistillError(
            f"'{folder}' is of another model: the {type(model).__name__} has no plain layer '{other[0]}'.",
            "Give the model that was loaded from this folder.",
        )
    options = {name: value for name, value in description.items() if name != "layers"}
    insert_quantizers(model, layers, QuantizationRecipe(**options))
    result = model.load_state_dict(quantizers, strict=False)
    lacking = {name for name in split_state(model.state_dict())[1] if name in result.missing_keys}
    if lacking or result.unexpected_keys:
        raise GeodistillError(
            f"'{folder}' has quantisers of other layers than its config says.", "Write it again with save_quantized."
        )


def describe_quantization(model: nn.Module) -> dict[str, Any]:
    """Say how a model is quantised, as its config does: the bits of each layer, and what all layers have in common.

    Args:
        model: a model with quantisers.

    Returns:
        A dictionary with `layers`, `per_channel`, `symmetric` and `biases`.

    Raises:
        GeodistillError: the model has no quantisers.

    Example:
        describe_quantization(student)["layers"]["classifier"]  # {"weights": 8, "activations": 8}
    """
    layers = quantized_modules(model)
    if not layers:
        raise GeodistillError("The model has no quantisers.", "Save it with save_pretrained.")
    inputs = [layer.input_quantizer for layer in layers.values() if layer.input_quantizer is not None]
    return {
        "layers": {
            name: {
                "weights": layer.weight_quantizer.bits,
                "activations": None if layer.input_quantizer is None else layer.input_quantizer.bits,
            }
            for name, layer in layers.items()
        },
        "per_channel": any(layer.weight_quantizer.axis is not None for layer in layers.values()),
        "symmetric": any(each.symmetric for each in inputs),
        "biases": any(layer.rounds_bias for layer in layers.values()),
    }


def saved_quantization(folder: str | Path) -> dict[str, Any] | None:
    """Return what the config of a folder says of its quantisation.

    Args:
        folder: what `save_quantized` or `save_pretrained` wrote.

    Returns:
        What `describe_quantization` returned for the model, or None if it was not quantised.

    Example:
        saved_quantization("runs/mine/student")
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return config.get(CONFIG_KEY)


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Part a state dict into the tensors of the model and the tensors of its quantisers."""
    quantizers = {name: value for name, value in state.items() if any(part in QUANTIZERS for part in name.split("."))}
    return {name: value for name, value in state.items() if name not in quantizers}, quantizers


def save_quantizers(quantizers: Mapping[str, Tensor], folder: Path) -> None:
    """Write the tensors of quantisers into a folder."""
    # Clones, because safetensors refuses tensors that share memory, as those of a layer with two names do.
    save_file({name: value.clone() for name, value in quantizers.items()}, folder / QUANTIZATION_FILE)


def load_quantizers(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of the quantisers in a folder; none if there are none."""
    path = folder / QUANTIZATION_FILE
    try:
        return load_file(path) if path.is_file() else {}
    except SafetensorError as error:
        raise GeodistillError(f"{path} cannot be read: {error}.", "Write the model again.") from error
