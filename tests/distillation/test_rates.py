from __future__ import annotations

import pytest
import torch
from torch import nn
from training import Make, Recorder, classifier

from geodistill.distillation.rates import match_rates, set_rates
from geodistill.errors import GeodistillError

NAMES = ["encoder.layer.0.dense.weight", "encoder.layer.0.dense.bias", "head.weight", "head.bias"]


def test_the_first_pattern_that_matches_counts() -> None:
    rates = {"head.*": 1e-3, "*.bias": 1e-4}
    assert match_rates(NAMES, rates) == {NAMES[1]: "*.bias", NAMES[2]: "head.*", NAMES[3]: "head.*"}
    assert match_rates(NAMES, {"head.bia[s]": 1.0}) == {"head.bias": "head.bia[s]"}


@pytest.mark.parametrize(
    ("rates", "problem", "remedy"),
    [
        ({"*.biass": 1e-3}, "'\\*.biass' of 'rates' matches no parameter", "encoder.layer.0.dense.bias, head.bias"),
        ({"head.wieght": 1e-3}, "'head.wieght'", "head.weight"),
        ({"*.bias": 1e-3, "head.bias": 1e-4}, "'head.bias' of 'rates' would change nothing: '\\*.bias'", "narrower"),
    ],
)
def test_a_pattern_in_vain_is_refused(rates: dict[str, float], problem: str, remedy: str) -> None:
    with pytest.raises(GeodistillError, match=problem) as caught:
        match_rates(NAMES, rates)
    assert remedy in caught.value.remedy


def test_groups_keep_their_other_settings() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    decayed = {"params": [model[0].weight, model[1].weight], "weight_decay": 0.1}
    optimizer = torch.optim.AdamW([decayed, {"params": [model[0].bias, model[1].bias], "weight_decay": 0.0}], lr=1.0)
    set_rates(optimizer, dict(model.named_parameters()), {"1.*": 0.5})
    groups = [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert groups == [(1.0, 0.1, 1), (1.0, 0.0, 1), (0.5, 0.1, 1), (0.5, 0.0, 1)]


def test_a_rate_of_next_to_nothing_leaves_its_parameters(make: Make) -> None:
    """Names are names of the student's parameters; names of projections begin with `objective.`."""
    recorder = Recorder()
    rates = {"bert.*": 1e-30, "objective.*": 1e-30}
    trainer = make(rates=rates, max_steps=3, warmup_steps=0.5, weight_decay=0.0, callbacks=[recorder])
    trainer.train()
    first, last = recorder.weights[0], recorder.weights[-1]
    for name in first:
        moved = (last[name] - first[name]).abs().max() > 1e-20
        assert moved == name.startswith("student.classifier"), name
    assert trainer.state.log_history[-2]["learning_rate"] > 1e-4, "the rate that is logged is that of all others"


def test_frozen_parameters_match_nothing(make: Make) -> None:
    trainer = make(rates={"bert.*": 1e-3})
    trainer.student.bert.requires_grad_(False)
    with pytest.raises(GeodistillError, match="no parameter that is trained"):
        trainer.create_optimizer()


def test_an_optimizer_that_is_given_has_rates_of_its_own(make: Make) -> None:
    optimizer = torch.optim.SGD(classifier(1, 16, 0).parameters(), lr=1.0)
    with pytest.raises(GeodistillError, match="which has rates already"):
        make(rates={"*": 1e-3}, options={"optimizers": (optimizer, None)})
