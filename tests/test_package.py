"""The public names: all there, all documented, and none of them imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import geodistill


@pytest.mark.parametrize("name", geodistill.__all__)
def test_public_name_is_there_and_documented(name: str) -> None:
    assert (getattr(geodistill, name).__doc__ or "").strip()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'procrustes'"):
        geodistill.procrustes  # noqa: B018


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, geodistill, geodistill.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
