"""From a model to hidden states: by layer index or by module path, of any architecture."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from geodistill.errors import GeodistillError
from geodistill.features.points import Point, check_layers, evaluation_mode, known_last_layer, probe_inputs
from geodistill.features.rows import row_width


class Capture:
    """Run a model once and return its output together with the hidden states at chosen points.

    A point is a layer, an index into `hidden_states` (0 the embedding layer, -1 the last), or the path of a module
    within the model, such as `"bert.encoder.layer.1.attention"`, whose output is taken. Of a tuple or a model output
    the first tensor is taken; of a module that runs more than once, the output of the last call. Hooks exist only
    during the call. Hidden states are asked for only if a layer is among the points.

    The model stays the caller's: its mode, its gradients and its device do not change. A `Capture` is no module, so a
    module that holds it neither registers nor saves the model a second time. Build it before the model is wrapped for
    distribution, and call it inside the wrapped module's forward.

    Args:
        model: any module.
        points: layers and module paths; a point that is named twice is taken once.

    Returns:
        Called with the inputs of the model, by keyword: the outputs of the model, and a dictionary of features by
        point.

    Raises:
        GeodistillError: a layer is out of range, a path does not exist (the nearest is named), a module did not run or
            gives no tensor, or features lost their gradient to reentrant checkpointing.

    Example:
        outputs, features = Capture(model, [0, -1])(input_ids=input_ids, attention_mask=attention_mask)
        features[-1]  # (b, t, d)
    """

    def __init__(self, model: nn.Module, points: Sequence[Point]) -> None:
        self.model = model
        self.points = list(dict.fromkeys(points))
        self._layers = [point for point in self.points if isinstance(point, int)]
        self._modules = {point: find_module(model, point) for point in self.points if isinstance(point, str)}
        if self._layers and (known := known_last_layer(model)) is not None:
            check_layers(model, self._layers, known)

    def __call__(self, **inputs: Any) -> tuple[Any, dict[Point, Tensor]]:
        if self._layers or getattr(getattr(self.model, "config", None), "return_dict", True) is False:
            inputs = {**inputs, "return_dict": True}  # a tuple does not say which of its entries is what
        if self._layers:
            inputs = {**inputs, "output_hidden_states": True}
        found: dict[Point, Tensor] = {}
        with self._hooks(found, with_gradient=torch.is_grad_enabled()):
            outputs = self.model(**inputs)
        if self._layers:
            found.update(_chosen(self.model, _hidden_states(outputs), self._layers))
        return outputs, self.complete(found)

    @contextmanager
    def listen(self, *, with_gradient: bool) -> Iterator[dict[Point, Tensor]]:
        """Take the features of whatever passes somebody else runs meanwhile, of the last pass if there are several.

        The pass may be of the model itself or, for its layers, of its backbone alone (`model.base_model`), as some
        trainers do to leave the logits out. The caller sees the outputs that it would have seen.

        Args:
            with_gradient: whether features that lost their gradient are an error.

        Yields:
            The features by point: an empty dictionary until a pass was run.

        Example:
            with Capture(model, [-1]).listen(with_gradient=True) as found:
                loss = trainer.compute_loss(model, inputs)
            features = capture.complete(found)
        """
        found: dict[Point, Tensor] = {}
        with self._hooks(found, with_gradient=with_gradient) as hooks:
            if self._layers:
                for handle in _listen_to_layers(self.model, self._layers, found):
                    hooks.callback(handle.remove)
            yield found

    def complete(self, found: Mapping[Point, Tensor]) -> dict[Point, Tensor]:
        """Return the features of all points, in the order of the points.

        Args:
            found: features by point.

        Returns:
            The same features, one for each point.

        Raises:
            GeodistillError: a point is missing, because its module did not run.
        """
        for point in self.points:
            if point not in found:
                raise GeodistillError(
                    f"The {_describe(point)} did not run in the forward pass, so it has no features.",
                    "Choose one that the model calls for these inputs.",
                )
        return {point: found[point] for point in self.points}

    @contextmanager
    def _hooks(self, found: dict[Point, Tensor], *, with_gradient: bool) -> Iterator[ExitStack]:
        with ExitStack() as hooks:
            for path, module in self._modules.items():
                handle = module.register_forward_hook(_keep(path, found, with_gradient=with_gradient))
                hooks.callback(handle.remove)
            yield hooks


def find_module(model: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a dotted path.

    Args:
        model: any module.
        path: such as "encoder.layer.1".

    Returns:
        The submodule.

    Raises:
        GeodistillError: there is no such path; the nearest is named.

    Example:
        find_module(model, "bert.encoder.layer.1")
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        paths = [name for name, _ in model.named_modules() if name]
        nearest = difflib.get_close_matches(path, paths, n=1, cutoff=0.0)
        remedy = f"The nearest is '{nearest[0]}'." if nearest else "The model has no submodules."
        raise GeodistillError(f"{type(model).__name__} has no module '{path}'.", remedy) from None


def _keep(path: str, found: dict[Point, Tensor], with_gradient: bool) -> Callable[[nn.Module, Any, Any], None]:
    """Make a forward hook that puts the module's features into `found`."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if with_gradient and not torch.is_grad_enabled():
            # Reentrant checkpointing runs the forward without a graph: the term would silently train nothing.
            raise GeodistillError(
                f"The module '{path}' runs without gradients, so its features cannot train the model.",
                "Turn gradient checkpointing off, or pass gradient_checkpointing_kwargs={'use_reentrant': False}.",
            )
        tensor = _first_tensor(output)
        if tensor is None:
            raise GeodistillError(
                f"The module '{path}' returns no tensor, so it has no features.", "Choose a module that does."
            )
        found[path] = tensor

    return hook


def _listen_to_layers(model: nn.Module, layers: Sequence[int], found: dict[Point, Tensor]) -> list[RemovableHandle]:
    """Hook a model's backbone so that it keeps its hidden states, and puts those at some layers into `found`."""
    backbone: Any = getattr(model, "base_model", model)
    asked = False

    def ask(module: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        nonlocal asked
        asked = bool(inputs.get("output_hidden_states", backbone.config.output_hidden_states))
        return args, {**inputs, "output_hidden_states": True}

    def keep(module: nn.Module, args: Any, output: Any) -> Any:
        found.update(_chosen(model, _hidden_states(output), layers))
        # The others are let go, and nobody converts them to float32 on the way out.
        return output if asked else type(output)(**{key: output[key] for key in output if key != "hidden_states"})

    return [
        backbone.register_forward_pre_hook(ask, with_kwargs=True),
        backbone.register_forward_hook(keep),
    ]


def _describe(point: Point) -> str:
    return f"module '{point}'" if isinstance(point, str) else f"layer {point}"


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((entry for entry in output if isinstance(entry, Tensor)), None)
    return None


def _hidden_states(outputs: Any) -> tuple[Tensor, ...]:
    hidden_states = getattr(outputs, "hidden_states", None)
    if hidden_states is None:
        raise GeodistillError(
            "The model returned no 'hidden_states', so its layers have no numbers.",
            "Name modules by their path instead, such as 'encoder.layer.1'.",
        )
    return hidden_states


def _chosen(model: nn.Module, hidden_states: Sequence[Tensor], layers: Sequence[int]) -> dict[Point, Tensor]:
    check_layers(model, layers, len(hidden_states) - 1)
    return {layer: hidden_states[layer] for layer in layers}


def row_widths(
    model: nn.Module, points: Sequence[Point], probe: Mapping[str, Tensor] | None = None, *, kind: str = "tokens"
) -> dict[Point, int]:
    """Measure how wide the rows of a kind are at each point, by one forward pass.

    The config does not tell it: OPT-350M's last hidden state is as wide as its word embeddings, half of `hidden_size`,
    and a module path may lead to anything. The model's mode, its buffers and the random state are afterwards as before.

    Args:
        model: any module.
        points: layers or module paths.
        probe: a tiny batch that the model reads; by default `default_probe`.
        kind: a key of `KINDS`; the width of `map` is the number of channels.

    Returns:
        The width by point.

    Raises:
        GeodistillError: the kind of rows does not take a point, or a point does not exist.

    Example:
        row_widths(model, [-1])[-1]  # 384
    """
    with evaluation_mode(model), torch.no_grad():
        _, features = Capture(model, points)(**probe_inputs(model, probe))
    return {point: row_width(feature, kind) for point, feature in features.items()}
