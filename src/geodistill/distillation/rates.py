"""Learning rates by the names of parameters, such as {"*.interval": 1e-4}: the first pattern that matches counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from geodistill.errors import GeodistillError, nearest_names


def match_rates(names: Iterable[str], rates: Mapping[str, float]) -> dict[str, str]:
    """Return for each name of a parameter the first of the patterns that matches it, if there is one.

    Raises GeodistillError for a pattern that matches no name, and for one whose names are all taken by earlier ones.
    """
    names = list(names)
    owners = {
        name: pattern
        for name in names
        for pattern in [next((pattern for pattern in rates if fnmatchcase(name, pattern)), None)]
        if pattern is not None
    }
    for pattern in rates:
        if pattern in owners.values():
            continue
        taken = next((owners[name] for name in names if fnmatchcase(name, pattern)), None)
        if taken is not None:
            raise GeodistillError(
                f"The pattern '{pattern}' of 'rates' would change nothing: '{taken}' matches its parameters before it.",
                "Put the narrower pattern first; the first that matches a name counts.",
            )
        raise GeodistillError(
            f"The pattern '{pattern}' of 'rates' matches no parameter that is trained.",
            f"The nearest: {', '.join(nearest_names(pattern, names)) or 'none, since none is trained'}.",
        )
    return owners


def set_rates(optimizer: Any, parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> None:
    """Split the groups of a new optimizer, so that parameters whose names match a pattern have its learning rate.

    A schedule then changes each rate in proportion.
    """
    owners = match_rates((name for name, each in parameters.items() if each.requires_grad), rates)
    pattern_of = {id(parameters[name]): pattern for name, pattern in owners.items()}
    others, chosen = [], []
    for group in optimizer.param_groups:
        others.append({**group, "params": [each for each in group["params"] if id(each) not in pattern_of]})
        for pattern, rate in rates.items():
            matched = [each for each in group["params"] if pattern_of.get(id(each)) == pattern]
            if matched:
                chosen.append({**group, "params": matched, "lr": rate})
    optimizer.param_groups[:] = [*others, *chosen]
