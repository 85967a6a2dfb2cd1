"""The labels of a classification head: matching their names to other names, and moving a head to another order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from geodistill.errors import GeodistillError

MOST_NAMED = 10
# A name that says nothing but a number, such as LABEL_0, which transformers gives, class-2 or 1.
GENERIC = re.compile(r"(?:(?:label|class)[ _-]?)?([+-]?\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LabelMatch:
    """How labels map to the outputs of a head.

    numbers: for each label, the number of its output; empty if there are no labels
    by_place: whether the names could not be compared, so that the order decided
    notes: what the owner of the labels should know of the mapping, one sentence each
    """

    numbers: list[int]
    by_place: bool = False
    notes: list[str] = field(default_factory=list)


def match_labels(outputs: Sequence[str], labels: Sequence[str], name: str) -> LabelMatch:
    """Match each label of the data to one of a model's outputs; `name` is the model's, for messages.

    Names are compared exactly first, and without regard to case if all names of each side stay distinct so. The
    data may lack labels that the model has. Names decide nothing if the names of one side say only a number (`LABEL_0`,
    `1`), both sides have equally many, and none is common to both: then numbers are matched if both sides have the
    same ones, and else the first label is the first output. A note tells this mapping.

    Raises GeodistillError, naming both lists, in every other case.
    """
    if len(set(outputs)) == len(outputs) and set(labels) <= set(outputs):
        return LabelMatch([outputs.index(label) for label in labels])
    folded_outputs, folded = [each.casefold() for each in outputs], [each.casefold() for each in labels]
    distinct = len(set(folded_outputs)) == len(outputs) and len(set(folded)) == len(labels)
    if distinct and set(folded) <= set(folded_outputs):
        return LabelMatch([folded_outputs.index(label) for label in folded])
    output_numbers, label_numbers = _numbers(outputs), _numbers(labels)
    generic = output_numbers is not None or label_numbers is not None
    if generic and len(outputs) == len(labels) and not set(folded) & set(folded_outputs):
        order = list(range(len(labels)))
        if output_numbers and label_numbers and set(output_numbers) == set(label_numbers) and distinct:
            order = [output_numbers.index(number) for number in label_numbers]
        pairs = few([f"'{label}' is '{outputs[number]}'" for label, number in zip(labels, order, strict=True)])
        return LabelMatch(
            order, True, [f"The labels are matched to the outputs of '{name}' by number or place: {pairs}."]
        )
    raise GeodistillError(
        f"The labels of the data cannot be matched to those of the model '{name}': the data has {len(labels)} "
        f"({quoted(labels)}), and the model has {len(outputs)} ({quoted(outputs)}).",
        "Rename the labels of one side (the model's are id2label in its config.json), give the teacher a new head "
        "(teacher.training), or set data.problem=unlabelled if labels play no part.",
    )


def output_names(config: PretrainedConfig) -> list[str]:
    """Return the name of each output of a head, in order."""
    names: Mapping[Any, str] = config.id2label or {}
    return [str(names.get(number, number)) for number in range(config.num_labels or 0)]


def name_outputs(config: PretrainedConfig, names: Sequence[str]) -> None:
    """Name the outputs of a head, in order."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


@torch.no_grad()
def reorder_outputs(model: PreTrainedModel, current: Sequence[str], wanted: Sequence[str]) -> None:
    """Bring a trained head from the order of its labels, `current`, to the order `wanted`.

    A head of equally many labels that are others is drawn anew, as one of another number of labels is. A head whose
    labels have no names but numbers stays unchanged, as does a model in which the last linear layer is not found.
    """
    layers = [module for module in _head(model) if module.out_features == len(wanted)]
    if list(current) == list(wanted) or len(current) != len(wanted) or len(layers) != 1:
        return
    (layer,) = layers
    try:
        match = match_labels(current, wanted, "")
    except GeodistillError:
        layer.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
        if layer.bias is not None:
            layer.bias.zero_()
        return
    if not match.by_place:
        for parameter in layer.parameters():
            parameter.copy_(parameter[match.numbers].clone())


def few(texts: Sequence[str]) -> str:
    """List texts, and of many only the first ones."""
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return ", ".join(texts[:MOST_NAMED]) + more


def quoted(names: Sequence[str]) -> str:
    return few([f"'{name}'" for name in names])


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers that names consist of; None if a name says more than a number."""
    found = [GENERIC.fullmatch(name) for name in names]
    return None if None in found else [int(match[1]) for match in found if match]


def _head(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers of a model that are outside its backbone."""
    inside = {id(module) for module in model.base_model.modules()} if model.base_model is not model else set()
    return [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in inside]
