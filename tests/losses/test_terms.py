"""From a term of a recipe to a loss."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from torch import nn

from geodistill.errors import GeodistillError
from geodistill.losses import CKALoss, FeatureLoss, ProjectionLoss
from geodistill.losses.terms import (
    check_logit_term,
    loss_options,
    make_logit_loss,
    make_loss,
    resolve_objective,
    resolve_term,
)
from geodistill.recipe import FeatureTerm, LogitTerm, ObjectiveRecipe


def test_all_options_are_filled_in_once() -> None:
    term = resolve_term(FeatureTerm(loss="cka", normalize="rows", layers=[(1, 2)]))
    assert term.options == {"center": True, "normalize": "rows", "squared": True}
    assert (term.rows, term.layers) == ("tokens", [(1, 2)])
    assert resolve_term(term) == term
    assert resolve_term(FeatureTerm(loss="cka", normalize="rows", center=True, layers=[(1, 2)])) == term


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "gramm"}, "'gramm' is no valid value of 'loss' in the feature term. Did you mean 'gram'"),
        ({"loss": "gram", "centre": False}, "Unknown key 'centre' .*Did you mean 'center'"),
        ({"loss": "gram", "squared": "perhaps"}, "'squared' in the feature term is not valid: .*boolean"),
        ({"loss": "gram", "normalize": "row"}, "'row' is no valid value of 'normalize' .*Did you mean 'rows'"),
        ({"loss": "pcka", "patch": 0}, "'patch' .*greater than 0"),
        ({"loss": "pcka", "patch": 2.5}, "'patch' .*valid integer"),
        ({"loss": "rcka", "classes": -1}, "'classes' .*greater than or equal to 0"),
        ({"loss": "gram", "orthogonal": True}, "'orthogonal' .*would change nothing. .*only with loss: projection"),
        ({"loss": "gram", "patch": 4}, "'patch' .*would change nothing. .*only with loss: pcka"),
        ({"loss": "cka", "normalize": False}, "'normalize' .*would change nothing. .*does not depend on scale"),
        ({"loss": "rcka", "special_tokens": False}, "'special_tokens' .*would change nothing"),
        ({"loss": "rcka", "rows": "tokens"}, "'rows' .*is 'tokens', which 'rcka' does not compare. Valid: samples"),
        ({"loss": "pcka", "rows": "tokens"}, "'rows' .*is 'tokens', which 'pcka' does not compare. Valid: map"),
        ({"loss": "gram", "rows": "map"}, "'rows' .*is 'map', which 'gram' does not compare. Choose rows other"),
        ({"loss": "projection", "rows": "samples"}, "'samples', which 'projection' does not compare"),
    ],
)
def test_a_mistake_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        resolve_term(FeatureTerm(**values))


def test_a_mistake_in_an_objective_is_named_by_its_place() -> None:
    objective = ObjectiveRecipe.model_validate({"features": [{"loss": "gram"}, {"loss": "cka", "sqared": True}]})
    with pytest.raises(GeodistillError, match=r"Unknown key 'objective.features.1.sqared' in mine.yaml"):
        resolve_objective(objective, source="mine.yaml", at=["objective"])


def test_defaults_of_other_losses_are_dropped() -> None:
    """A recipe that is written in full, or whose loss a sweep replaced, holds them."""
    full = resolve_term(FeatureTerm(loss="projection")).model_dump()
    assert resolve_term(FeatureTerm(**{**full, "loss": "gram"})) == resolve_term(FeatureTerm(loss="gram"))


def test_the_loss_has_the_options_and_the_widths() -> None:
    loss = make_loss(FeatureTerm(loss="projection", orthogonal=True, center=False), 5, 9)
    assert isinstance(loss, ProjectionLoss) and loss.weight.shape == (5, 9)
    assert loss.orthogonal and not loss.center and not loss.global_batch
    assert isinstance(make_loss(FeatureTerm(loss="cka"), 5, 9), CKALoss)


def test_options_are_those_of_the_constructor_and_of_what_it_passes_on() -> None:
    class Outer(FeatureLoss):
        def __init__(self, *, margin: float = 0.5, kind: Literal["a", "b"] = "a", **shared: Any) -> None:
            super().__init__(**shared)

    class Alone(nn.Module):
        def __init__(self, width: int, *, margin: float = 0.5) -> None:
            super().__init__()

    assert loss_options(Outer) == {
        "margin": (float, 0.5),
        "kind": (Literal["a", "b"], "a"),
        **loss_options(FeatureLoss),
    }
    assert loss_options(Alone) == {"margin": (float, 0.5)}


def test_a_parameter_is_of_the_divergences_that_read_it() -> None:
    check_logit_term(LogitTerm(divergence="skewed_reverse_kl", skew=0.3))
    with pytest.raises(GeodistillError, match=r"'beta' in the logit term would change nothing. .*jensen_shannon"):
        check_logit_term(LogitTerm(beta=0.3))
    with pytest.raises(GeodistillError, match=r"'skew' .*skewed_forward_kl or skewed_reverse_kl"):
        make_logit_loss(LogitTerm(divergence="total_variation", skew=0.3))
    with pytest.raises(GeodistillError, match=r"'forwards_kl' is no valid value of 'divergence'.*'forward_kl'"):
        make_logit_loss(LogitTerm(divergence="forwards_kl"))
