"""Each benchmark runs to its end on the smallest setting; what it measures there means nothing."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Load a benchmark as a script would find it: what lies beside it can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield lambda name: runpy.run_path(str(BENCHMARKS / f"{name}.py"))
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(benchmark: dict[str, Any], monkeypatch, capsys, *arguments: str) -> str:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    benchmark["main"]()
    torch.set_num_threads(threads)
    return capsys.readouterr().out


def test_candidates_take_turns(load):
    order: list[str] = []
    timing = load("timing")
    times = timing["interleaved"]({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [len(each) for each in times.values()] == [2, 2]


def test_losses(load):
    losses = load("losses")
    *_, error = losses["map_row"]((2, 3, 9, 8, 4), rounds=1).split()
    assert float(error) < 1e-6
    line = losses["row"]((16, 4, 6), *losses["lm_like"](16, 4, 6), rounds=1)
    assert line.startswith("(16, 4, 6)")
    assert "nan" not in line


def test_step(load):
    step = load("step")
    shape = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    lines = step["lines"](*step["bert"](sentences=2, length=8, layers=2, **shape), rounds=1)
    candidates = ["KD", *(f"KD + {loss}" for loss in step["LOSSES"])]
    assert [line.split("  ")[0] for line in lines] == candidates
    config = LlamaConfig(vocab_size=50, num_hidden_layers=2, **shape)
    ids = torch.randint(50, (3, 8))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    batch["labels"][:, :4] = -100
    lines = step["lines"](LlamaForCausalLM(config), LlamaForCausalLM(config), batch, rounds=1)
    assert [line.split("  ")[0] for line in lines] == [*candidates, "KD, all logits"]


def test_quantization(load):
    quantization = load("quantization")
    lines = quantization["lines"](*quantization["bert"](layers=1, width=8, sentences=2, length=4), rounds=1)
    assert [line[:20].strip() for line in lines] == list(quantization["CANDIDATES"])
    assert lines[0].split()[-3:][0] == "1.00" and "nan" not in "".join(lines)


def test_cache(load, monkeypatch, capsys):
    printed = run(load("cache"), monkeypatch, capsys, "--rounds", "1", "--epochs", "2", "--limit", "8")
    assert re.search(r"^bfloat16 +\d+\.\d\d +\d+\.\d\d$", printed, re.MULTILINE)


@pytest.mark.slow
def test_peers(load, monkeypatch, capsys):
    benchmark = load("peers")
    monkeypatch.setitem(benchmark["main"].__globals__, "torchdistill_is_there", lambda: False)
    printed = run(benchmark, monkeypatch, capsys, "--epochs", "1", "--limit", "8")
    assert "torchdistill is left out" in printed
    assert re.search(r"^plain loop, padded to 128( +\d+\.?\d*){5}$", printed, re.MULTILINE)
