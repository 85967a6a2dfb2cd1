"""Sharding over processes on the CPU, where accelerate falls back to DistributedDataParallel and does not say so.

Run as a script, this is the command line of geodistill in processes that take themselves for GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer


@contextmanager
def sharding_on_the_cpu() -> Iterator[None]:
    """Let accelerate shard over processes without an accelerator."""
    make = Trainer.create_accelerator_and_postprocess

    def disguised(trainer: Trainer) -> None:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        make(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "create_accelerator_and_postprocess", disguised)
        yield


if __name__ == "__main__":
    from geodistill.cli import main

    with sharding_on_the_cpu():
        main()
