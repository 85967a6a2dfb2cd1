"""A student cut out of its teacher: fewer of its blocks, and what its config says block by block."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from geodistill.distillation.students.same_blocks import difference
from geodistill.errors import GeodistillError
from geodistill.features import layer_count

OTHER_WAYS = "Set student.model, or student.width with student.layers, instead of student.teacher_layers"


def keep_layers(teacher: PreTrainedModel, layers: int | Sequence[int]) -> PreTrainedModel:
    """Return a copy of the teacher with the first `layers` of its blocks, or with the blocks listed, in that order.

    Blocks are numbered as everywhere: 1 is the first, -1 the last, and 0, the embedding layer, is always kept, as is
    whatever follows the blocks. A block that carries a number gets the number of its new place. Of what the config
    lists block by block, such as `layer_types`, the student has the entries of its blocks.

    Raises GeodistillError for a layer that the teacher lacks, and if the student would not compute what the
    teacher's blocks do one after the other, as in families where a block's place decides what it is.
    """
    if getattr(teacher, "is_quantized", False):
        raise GeodistillError(
            "A student's weights cannot be cut out of a teacher whose weights are quantised.",
            "Set teacher.weights=bfloat16, or give student.model.",
        )
    path, blocks = find_blocks(teacher)
    kept = resolve_blocks(layers, len(blocks))
    reason = ""
    # Lists of one entry a block have names of all kinds, and a list of another meaning may have as many entries by
    # chance. So those whose name tells it are cut first, and all of them if that gives another model.
    for every in (False, True):
        lists = per_layer_lists(teacher.config, every=every)
        try:
            student = _cut(teacher, path, kept, lists)
        except (ValueError, TypeError, KeyError, IndexError, AssertionError, RuntimeError) as error:
            reason = reason or shorten(str(error), 160, placeholder=" …").rstrip(".")
            continue
        reason = difference(student, teacher, path, kept, lists)
        if not reason:
            return student
    raise GeodistillError(
        f"Layers {', '.join(str(block + 1) for block in kept)} cannot be cut out of a '{teacher.config.model_type}' "
        f"model, where a layer's place decides what it computes ({reason}).",
        f"{OTHER_WAYS}, or keep the first layers in their order.",
    )


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the path of a model's list of blocks, and the list."""
    count = layer_count(model.config)
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outermost = [entry for entry in lists if not any(entry[0].startswith(f"{path}.") for path, _ in lists)]
    if len(outermost) != 1:
        raise GeodistillError(
            f"The blocks of a '{model.config.model_type}' model cannot be told apart.", f"{OTHER_WAYS}."
        )
    return outermost[0]


def resolve_blocks(layers: int | Sequence[int], count: int) -> list[int]:
    """Turn layer numbers (1 … count, or negative) into places in the list of blocks."""
    numbers = list(range(1, layers + 1)) if isinstance(layers, int) else list(layers)
    wrong = [number for number in numbers if not (1 <= number <= count or -count <= number <= -1)]
    if not numbers or wrong:
        problem = f"The teacher has no layer {wrong[0]} to copy." if wrong else "There is no teacher layer to copy."
        raise GeodistillError(
            problem,
            f"It has layers 1 to {count}, where -1 is the last; 0, the embedding layer, is always copied.",
        )
    return [number - 1 if number > 0 else number + count for number in numbers]


def per_layer_lists(config: PretrainedConfig, *, every: bool = False) -> list[str]:
    """Name the entries of a config that hold one value for each block, such as `layer_types`; with `every`, those too
    whose name does not tell it, such as Longformer's `attention_window`."""
    count = layer_count(config)
    return [
        name
        for name, value in config.to_dict().items()
        if every or "layer" in name
        if isinstance(value, list | tuple) and len(value) == count
    ]


def choose_entries(values: Mapping[str, Any], names: Sequence[str], blocks: Sequence[int]) -> dict[str, Any]:
    """Return what a config's per-layer lists are for these blocks of its model."""
    chosen: dict[str, Any] = {name: [values[name][block] for block in blocks] for name in names}
    if "attention_layers" in values and "attention_types" in values:
        # GPT-Neo writes its list a second time, as repetitions of a pattern: here the pattern is the list, once.
        chosen["attention_types"] = [[[values["attention_layers"][block] for block in blocks], 1]]
    return chosen


def _cut(teacher: PreTrainedModel, path: str, kept: Sequence[int], lists: Sequence[str]) -> PreTrainedModel:
    config = copy.deepcopy(teacher.config)
    for name, value in choose_entries(config.to_dict(), lists, kept).items():
        setattr(config, name, value)
    config.num_hidden_layers = len(kept)
    written = type(config).from_dict(copy.deepcopy(config.to_dict()))
    if written.to_dict() != config.to_dict():
        raise ValueError("its config does not read as it was written")
    student = type(teacher)(config)
    weights = teacher.state_dict()
    state = {name: weight for name, weight in weights.items() if not name.startswith(f"{path}.")}
    for new, old in enumerate(kept):
        prefix = f"{path}.{old}."
        for name, weight in weights.items():
            if name.startswith(prefix):
                state[f"{path}.{new}.{name.removeprefix(prefix)}"] = weight
    student.load_state_dict(state)
    return student
