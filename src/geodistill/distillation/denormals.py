"""Denormal numbers, those too small for a full mantissa: CPUs compute with them many times slower than with others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Within it torch takes denormal numbers for zero on the CPU; afterwards the setting is what it was.

    They make training on a CPU up to eight times slower and change nothing else.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Tell whether torch takes denormal numbers for zero on the CPU. It can be set, but torch has no function that
    returns the setting, so one such number is computed."""
    smallest = torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float32, device="cpu")
    return bool(smallest / 2 == 0)
