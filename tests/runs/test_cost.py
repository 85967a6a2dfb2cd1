from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

# In a separate process: here a garbage collection at the wrong moment gives back what earlier tests left, and the
# memory of the smaller tensor would fit below the peak.
ALLOCATE = """
import torch
from geodistill.runs.cost import peak_megabytes, reset_peak_memory

large = torch.ones(50_000_000)  # 200 MB
with_large = peak_megabytes()
del large
reset_peak_memory()
before = peak_megabytes()
smaller = torch.ones(25_000_000)  # 100 MB
print(with_large, before, peak_megabytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets the peak begin anew")
def test_the_peak_is_of_what_came_after_the_reset() -> None:
    printed = subprocess.run([sys.executable, "-c", ALLOCATE], capture_output=True, text=True, check=True).stdout
    with_large, before, with_smaller = map(float, printed.split())
    assert before < with_large - 150
    assert 80 < with_smaller - before < 120


def test_the_peak_is_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no `resource`, and no /proc either."""
    monkeypatch.setitem(sys.modules, "resource", None)
    cost = importlib.reload(importlib.import_module("geodistill.runs.cost"))
    monkeypatch.setattr(cost.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cost, "CLEAR", Path("absent"))
    monkeypatch.setattr(cost, "STATUS", Path("absent"))
    cost.reset_peak_memory()
    assert cost.peak_megabytes() is None
