from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from geodistill.errors import GeodistillError
from geodistill.integrations.learned import average_over_ranks, bind_terms, refuse_sharding, train_along
from geodistill.recipe import FeatureTerm, LogitTerm

PROJECTION = FeatureTerm(loss="projection")


def test_projections_follow_their_seed_and_leave_the_callers_random_state_alone(
    language_model: Callable[..., Any],
) -> None:
    teacher, student = language_model(2, 16), language_model(1, 8)
    torch.manual_seed(5)
    first, again, other = (bind_terms([PROJECTION], student, teacher, seed=seed) for seed in (1, 1, 2))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    (a,), (b,), (c,) = (list(objective.parameters()) for objective in (first, again, other))
    assert a.shape == (8, 16) and torch.equal(a, b) and not torch.equal(a, c)


def test_no_terms_are_a_mistake(language_model: Callable[..., Any]) -> None:
    with pytest.raises(GeodistillError, match="There are no terms"):
        bind_terms([], language_model(1, 8), language_model(2, 16), seed=0)


def test_a_term_that_the_trainer_has_itself_is_a_mistake(language_model: Callable[..., Any]) -> None:
    with pytest.raises(GeodistillError, match="Only feature terms are added"):
        bind_terms([LogitTerm(), PROJECTION], language_model(1, 8), language_model(2, 16), seed=0)  # type: ignore[list-item]


def test_one_process_averages_over_itself() -> None:
    gradient = torch.randn(3)
    assert average_over_ranks(gradient) is gradient


def test_an_optimiser_trains_them_too_and_once() -> None:
    model, learned = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    before = learned.weight.detach().clone()
    train_along(learned, optimizer)
    train_along(learned, optimizer)
    assert len(optimizer.param_groups) == 1 and len(optimizer.param_groups[0]["params"]) == 4
    learned.weight.sum().backward()
    optimizer.step()
    schedule.step()
    assert torch.allclose(learned.weight, before - 0.5)


def test_sharding_goes_only_with_what_learns_nothing() -> None:
    refuse_sharding(nn.Linear(2, 2), sharded=False)
    refuse_sharding(nn.Identity(), sharded=True)
    with pytest.raises(GeodistillError, match="FSDP or DeepSpeed shards"):
        refuse_sharding(nn.Linear(2, 2), sharded=True)
