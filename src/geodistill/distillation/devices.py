"""What happens on the devices of a process: memory that runs out, and denormal numbers, which slow a CPU down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

import torch

from geodistill.errors import GeodistillError

# How the allocators of the CPU, of CUDA's libraries and of Apple's GPUs say it; each raises a plain RuntimeError.
SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "ALLOC_FAILED")
REMEDY = (
    "Lower training.batch_size (and raise training.gradient_accumulation by as much), training.evaluation_batch_size, "
    "data.max_length, for instructions generation.batch_size, and in a comparison compare.jobs; then run the same "
    "command again: what is finished is kept."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, of an accelerator or of this machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign.lower() in str(error).lower() for sign in SIGNS)


@contextmanager
def telling_of_memory() -> Iterator[None]:
    """Turn the error of memory that ran out into GeodistillError, which says what to lower; also a decorator."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        where = "The accelerator" if isinstance(error, torch.OutOfMemoryError) else "This process"
        said = shorten(str(error).strip().rstrip("."), 200) or type(error).__name__
        raise GeodistillError(f"{where} ran out of memory: {said}.", REMEDY) from error


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Within it torch takes denormal numbers for zero on the CPU; afterwards the setting is what it was.

    Denormal numbers are too small for a full mantissa. They make training on a CPU up to eight times slower and change
    nothing else.
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
