from __future__ import annotations

import pytest
import torch

from geodistill.distillation.denormals import denormals_flushed, flushes_denormals


@pytest.fixture(autouse=True)
def as_before() -> None:
    yield
    torch.set_flush_denormal(False)


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
