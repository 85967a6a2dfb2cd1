"""`tests/lowest.py`, which `make test-lowest` takes its versions from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_lower_bound_is_printed_but_that_of_torch() -> None:
    command = [sys.executable, str(ROOT / "tests" / "lowest.py"), str(ROOT / "pyproject.toml"), "peft"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line.partition("==")[0] for line in printed]
    assert {"transformers", "accelerate", "numpy", "safetensors", "pydantic", "peft", "pytest"} <= set(names)
    assert not {"torch", "onnx", "geodistill"} & set(names) and len(names) == len(set(names))
    assert all(line.partition("==")[2][0].isdigit() for line in printed)
