from __future__ import annotations

import time

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from geodistill.distillation.size_and_speed import (
    WARM_UP,
    count_parameters,
    median_milliseconds,
    size_in_megabytes,
)


def test_size_counts_shared_parameters_once() -> None:
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    tied, bare = GPT2LMHeadModel(config), GPT2Model(config)
    assert count_parameters(tied) == count_parameters(bare)
    layer = torch.nn.Linear(999, 250)
    assert count_parameters(layer) == 250_000
    assert size_in_megabytes(layer) == 1.0
    assert size_in_megabytes(layer.bfloat16()) == 0.5


def test_a_latency_is_the_median_without_the_first_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], 0

    def run(seconds: float) -> None:
        nonlocal calls
        calls += 1
        clock[0] += seconds * (100 if calls <= WARM_UP else 1)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert median_milliseconds(run, [0.001, 0.002, 0.009, 0.003, 0.004, 0.005, 0.001]) == pytest.approx(3)
    assert calls == WARM_UP + 7
