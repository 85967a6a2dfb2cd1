"""The public names: all there, all documented, and none of them imported before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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


def test_no_module_imports_at_its_top_what_windows_lacks() -> None:
    only_posix = {"resource", "fcntl", "grp", "pwd", "posix", "pty", "termios", "syslog", "readline"}
    for path in Path(geodistill.__file__).parent.rglob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            assert not only_posix & {name.partition(".")[0] for name in names}, path.name
