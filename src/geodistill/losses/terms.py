"""From a term of a recipe to a loss: the options that a loss has, the check of what a term says, and the loss itself.

term = resolve_term(FeatureTerm(loss="cka", normalize="rows"))   # all options filled in
loss = make_loss(term)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model
from torch import nn

from geodistill.applies import DoesNotApply, Rule, only_with, refuse_what_does_not_apply
from geodistill.errors import GeodistillError
from geodistill.explain import Keys, dotted_path, explain, no_valid_value, would_change_nothing
from geodistill.losses import LOSSES, LossKind
from geodistill.losses.divergences import DIVERGENCES
from geodistill.losses.logits import LogitLoss, ProblemType
from geodistill.recipe import FeatureTerm, LogitTerm, ObjectiveRecipe

# Whether a loss is of the whole batch over all ranks is one setting of a training, and none of each term.
OF_THE_TRAINING = ("global_batch",)


class CheckedTerm(FeatureTerm):
    """A feature term that has the options of one loss as fields, and no other keys."""

    model_config = ConfigDict(extra="forbid")


def loss_options(loss: type[nn.Module]) -> dict[str, tuple[Any, Any]]:
    """Return the options of a loss, by name: the type and the default in a recipe.

    They are the keyword-only parameters of the constructor. A constructor that ends in **options also has the
    parameters of its base class.
    """
    options: dict[str, tuple[Any, Any]] = {}
    for owner in loss.__mro__:
        if (constructor := owner.__dict__.get("__init__")) is None:
            continue
        types = get_type_hints(constructor, include_extras=True)
        parameters = inspect.signature(constructor).parameters.values()
        for each in parameters:
            if each.kind is each.KEYWORD_ONLY and each.name not in (*options, *OF_THE_TRAINING):
                default = ... if each.default is each.empty else each.default
                options[each.name] = (types.get(each.name, Any), default)
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return options


@cache
def term_model(kind: LossKind) -> type[CheckedTerm]:
    """Return the pydantic model of a feature term of this loss."""
    fields: Any = {
        name: (annotation, Field(default)) for name, (annotation, default) in loss_options(kind.loss).items()
    }
    model = create_model("FeatureTerm", __base__=CheckedTerm, **fields)
    model.rules = (*FeatureTerm.rules, *kind.rules)
    return model


def resolve_objective(objective: ObjectiveRecipe, *, source: str = "the objective", at: Keys = ()) -> ObjectiveRecipe:
    """Return an objective with the rows and all options of its feature terms filled in.

    Args:
        source: what the recipe is called in an error.
        at: the keys that lead from the recipe to the objective.

    Raises GeodistillError for an unknown loss, divergence or option, an option of the wrong type, one that would change
    nothing, and rows that the loss does not take.
    """
    if objective.logits is not None:
        check_logit_term(objective.logits, source=source, at=[*at, "logits"])
    terms = [
        resolve_term(term, source=source, at=[*at, "features", place]) for place, term in enumerate(objective.features)
    ]
    return objective.model_copy(update={"features": terms})


def resolve_term(term: FeatureTerm, *, source: str = "the feature term", at: Keys = ()) -> FeatureTerm:
    """Return a feature term with its rows and all options of its loss filled in; see `resolve_objective`."""
    if term.loss not in LOSSES:
        raise no_valid_value(term.loss, [*at, "loss"], LOSSES, source)
    kind = LOSSES[term.loss]
    model = term_model(kind)
    fields = {name: getattr(term, name) for name in FeatureTerm.model_fields}
    options = dict(_without_defaults_of_others(term, model, source, at))
    try:
        checked = model(**{**fields, "rows": term.rows or kind.rows, **options})
    except ValidationError as error:
        raise explain(error, source, model, at) from None
    if not kind.takes(str(checked.rows)):
        raise GeodistillError(
            f"'{dotted_path([*at, 'rows'])}' in {source} is '{checked.rows}', which '{term.loss}' does not compare.",
            f"Valid: {', '.join(kind.only)}." if kind.only else f"Choose rows other than {' and '.join(kind.never)}.",
        )
    return FeatureTerm(**{name: getattr(checked, name) for name in model.model_fields})


def _without_defaults_of_others(
    term: FeatureTerm, model: type[CheckedTerm], source: str, at: Keys
) -> Iterator[tuple[str, Any]]:
    """Leave out options that only other losses have, which a recipe that is written in full may hold as defaults."""
    for name, value in term.options.items():
        if name in OF_THE_TRAINING and value is True:
            continue  # the default, in a recipe that was written in full when a term still had the key
        others = [] if name in model.model_fields else [each for each in LOSSES if name in _options_of(each)]
        if not others:
            yield name, value
        elif value not in [_options_of(each)[name] for each in others]:
            raise would_change_nothing([*at, name], only_with(f"loss: {' or '.join(others)}"), source)


def _options_of(name: str) -> dict[str, Any]:
    return {option: default for option, (_, default) in loss_options(LOSSES[name].loss).items()}


def make_loss(term: FeatureTerm, *widths: int) -> nn.Module:
    """Make the loss of a feature term.

    Args:
        term: resolved or not.
        widths: the width, or the number of channels, of student and teacher; for a loss that reads them.
    """
    term = resolve_term(term)
    kind = LOSSES[term.loss]
    return kind.loss(*(widths if kind.reads_widths else ()), **term.options)


def check_logit_term(term: LogitTerm, *, source: str = "the logit term", at: Keys = ()) -> None:
    """Refuse an unknown divergence, and a parameter that the divergence does not have."""
    if term.divergence not in DIVERGENCES:
        raise no_valid_value(term.divergence, [*at, "divergence"], DIVERGENCES, source)
    try:
        refuse_what_does_not_apply(term, [_rule_of("beta"), _rule_of("skew")])
    except DoesNotApply as error:
        raise would_change_nothing([*at, error.key], error.remedy, source) from None


def _rule_of(parameter: str) -> Rule:
    names = [name for name, kind in DIVERGENCES.items() if kind.parameter == parameter]
    return Rule((parameter,), lambda term: term.divergence in names, only_with(f"divergence: {' or '.join(names)}"))


def make_logit_loss(term: LogitTerm, problem: ProblemType | None = None) -> LogitLoss:
    """Make the logit loss that a term describes; None stands for one distribution over all outputs."""
    check_logit_term(term)
    return LogitLoss(
        term.temperature,
        divergence=term.divergence,
        beta=term.beta,
        skew=term.skew,
        problem_type=problem or "single_label_classification",
    )
