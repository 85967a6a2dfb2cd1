from __future__ import annotations

import pytest
import torch

from geodistill.distillation.devices import (
    denormals_flushed,
    flushes_denormals,
    is_out_of_memory,
    telling_of_memory,
)
from geodistill.errors import GeodistillError

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    OSError(12, "Cannot allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_memory_that_ran_out_is_told_with_what_to_lower(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(GeodistillError) as caught, telling_of_memory():
        raise error
    assert "ran out of memory" in caught.value.problem
    assert "training.batch_size" in caught.value.remedy and "data.max_length" in caught.value.remedy
    assert "Delete" not in str(caught.value)


def test_a_tensor_larger_than_any_memory() -> None:
    with pytest.raises(GeodistillError, match="This process ran out of memory"), telling_of_memory():
        torch.empty(2**50)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), OSError("no such file"), KeyError("memory")])
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, telling_of_memory():
        raise error
    assert caught.value is error


# Denormal numbers


@pytest.mark.parametrize("flushed", [True, False])
def test_the_setting_is_told_and_put_back(flushed: bool) -> None:
    torch.set_flush_denormal(flushed)
    assert flushes_denormals() is flushed
    with denormals_flushed():
        assert flushes_denormals()
    assert flushes_denormals() is flushed


def test_the_setting_is_put_back_after_an_error() -> None:
    torch.set_flush_denormal(False)
    with pytest.raises(RuntimeError), denormals_flushed():
        raise RuntimeError
    assert not flushes_denormals()
