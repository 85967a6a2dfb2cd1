"""What can be compared of a model: its hidden states by number, the stages of a CNN by number, or modules by path."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from geodistill.errors import GeodistillError
from geodistill.features.layers import describe_range, resolve_layer

Point = int | str
"""A hidden state by its number (0 the embedding layer or the stem, -1 the last) or a module by its dotted path."""

PROBED_SIDE = 64  # pixels, for a model whose config does not name its image size


def points(model: nn.Module, probe: Mapping[str, Tensor] | None = None) -> list[Point]:
    """Return all points of a model: the numbers of its hidden states, if it has any, then the paths of its modules.

    Args:
        model: any module.
        probe: a tiny batch that the model reads; by default `default_probe`. It is run only if the config does not tell
            how many hidden states there are, as for a CNN.

    Returns:
        The points, numbers first.

    Example:
        points(resnet)[:4]  # [0, 1, 2, 3]: the stem and three stages
    """
    paths = [path for path, _ in model.named_modules() if path]
    try:
        return [*range(last_layer(model, probe) + 1), *paths]
    except GeodistillError:
        return list(paths)


def last_layer(model: nn.Module, probe: Mapping[str, Tensor] | None = None) -> int:
    """Return the number of a model's last hidden state, which is how many blocks or stages it has.

    Args:
        model: a transformers model.
        probe: a tiny batch that the model reads; by default `default_probe`. It is run only if the config does not
            tell.

    Returns:
        The number; hidden state 0 is the embedding layer or the stem.

    Raises:
        GeodistillError: the model has no hidden states, so only its modules have names.

    Example:
        last_layer(model)  # 6 for MiniLM-L6
    """
    known = known_last_layer(model)
    if known is not None:
        return known
    config = model_config(model)
    with evaluation_mode(model), torch.no_grad():
        outputs = model(**probe_inputs(model, probe), output_hidden_states=True, return_dict=True)
    hidden_states = getattr(outputs, "hidden_states", None)
    if not hidden_states:
        raise GeodistillError(
            f"A '{config.model_type}' model returns no hidden states, so its layers have no numbers.",
            "Name modules by their path instead, as in layers: [[student path, teacher path]].",
        )
    return len(hidden_states) - 1


def known_last_layer(model: nn.Module) -> int | None:
    """Return the number of a model's last hidden state if its config tells it; None if it has to be run."""
    config = model_config(model)
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    # The config of a CNN that counts its blocks may have fewer hidden states, one for each stage.
    return layers if isinstance(layers, int) and not hasattr(config, "depths") else None


def check_layers(model: nn.Module, layers: Sequence[int], last: int) -> None:
    """Refuse layers that a model with hidden states 0 to `last` does not have."""
    for layer in layers:
        if resolve_layer(layer, last) is None:
            raise GeodistillError(
                f"Layer {layer} is out of range for {type(model).__name__}.",
                f"0 is the embedding layer and -1 the last: it has {describe_range(last)}.",
            )


def default_probe(model: nn.Module) -> dict[str, Tensor]:
    """Make the smallest batch that a transformers model reads: one text of two tokens, or one image of zeros.

    Args:
        model: a model that reads `input_ids` or `pixel_values`.

    Returns:
        The batch, by the names of the inputs, on the model's device.

    Raises:
        GeodistillError: the model reads something else, of which no example can be made up.

    Example:
        model(**default_probe(model))
    """
    device = next(model.parameters()).device
    name = getattr(model, "main_input_name", "input_ids")
    if name == "pixel_values":
        config = model_config(model)
        size = getattr(config, "image_size", None) or PROBED_SIDE
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        return {name: torch.zeros(1, getattr(config, "num_channels", 3), height, width, device=device)}
    if name != "input_ids":
        raise GeodistillError(
            f"{type(model).__name__} reads '{name}', of which no example can be made up.",
            "Give a reader with a probe, a tiny batch that the model reads.",
        )
    tokens = torch.zeros(1, 2, dtype=torch.long, device=device)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def hidden_size(config: PretrainedConfig) -> int:
    """Return the width of a model's blocks. A captured feature may have another width: measure it by `row_widths`.

    Args:
        config: of any text model, or of a model with a text part.

    Returns:
        The width.

    Raises:
        GeodistillError: the blocks have no single width.

    Example:
        hidden_size(model.config)  # 384
    """
    return _text_attribute(config, "hidden_size")


def layer_count(config: PretrainedConfig) -> int:
    """Return how many blocks a model has; it has one hidden state more, the embedding layer.

    Args:
        config: of any text model, or of a model with a text part.

    Returns:
        The number of blocks.

    Raises:
        GeodistillError: the config does not tell.

    Example:
        layer_count(model.config)  # 6
    """
    return _text_attribute(config, "num_hidden_layers")


def model_config(model: nn.Module) -> PretrainedConfig:
    """Return the config of a transformers model.

    Args:
        model: any module.

    Returns:
        The config.

    Raises:
        GeodistillError: the module is not a transformers model, so its layers have no numbers.

    Example:
        model_config(model).model_type  # "bert"
    """
    config = getattr(model, "config", None)
    if not isinstance(config, PretrainedConfig):
        raise GeodistillError(
            f"{type(model).__name__} is not a transformers model, so its layers have no numbers.",
            "Name modules by their path instead, as in layers: [[student path, teacher path]].",
        )
    return config


def input_names(model: nn.Module) -> set[str] | None:
    """Return the names of the inputs that a model's forward takes.

    Args:
        model: any module.

    Returns:
        The names, or None if the forward names none and takes any.

    Example:
        "token_type_ids" in input_names(model)
    """
    parameters = inspect.signature(model.forward).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name for parameter in parameters if parameter.kind in named} or None


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and each of its modules back into the mode that it had afterwards.

    Args:
        model: any module.

    Yields:
        Nothing; the model is in eval mode within the block.

    Example:
        with evaluation_mode(model), torch.no_grad():
            outputs = model(**batch)
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def probe_inputs(model: nn.Module, probe: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the entries of a probe that a model reads, on its device; of `default_probe` if there is none."""
    inputs = default_probe(model) if probe is None else probe
    names, device = input_names(model), next(model.parameters()).device
    return {name: value.to(device) for name, value in inputs.items() if names is None or name in names}


def _text_attribute(config: PretrainedConfig, name: str) -> int:
    # Every family's config answers to these two names (its attribute_map translates), multimodal ones in a text part.
    value = getattr(config.get_text_config(), name, None)
    if not isinstance(value, int):
        raise GeodistillError(
            f"The config of a '{config.model_type}' model has no single '{name}'.",
            "Use a model whose blocks all have one width, or name modules by their path.",
        )
    return value
