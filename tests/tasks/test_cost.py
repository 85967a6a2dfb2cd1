from __future__ import annotations

import sys

import pytest
import torch

from geodistill.tasks.cost import peak_megabytes, reset_peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets the peak begin anew")
def test_the_peak_is_of_what_came_after_the_reset() -> None:
    large = torch.ones(50_000_000)  # 200 MB
    with_large = peak_megabytes()
    del large
    reset_peak_memory()
    before = peak_megabytes()
    assert before < with_large - 150
    smaller = torch.ones(25_000_000)  # 100 MB
    assert 80 < peak_megabytes() - before < 120
    del smaller
