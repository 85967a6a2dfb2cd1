"""Print the lower bounds of pyproject.toml as pip constraints: `python tests/lowest.py pyproject.toml EXTRA …`.

torch is left out, since its release is chosen by its build.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def lowest(text: str, extras: list[str]) -> list[str]:
    """Return NAME==VERSION for each `NAME>=VERSION` of the dependencies, of some extras, and of the tests' packages."""
    lists = dict(re.findall(r"^([\w-]+) = \[(.*?)\]$", text, re.DOTALL | re.MULTILINE))
    bounds = {
        name: version
        for section in ("dependencies", "dev", *extras)
        for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', lists[section])
    }
    return [f"{name}=={version}" for name, version in bounds.items() if name != "torch"]


if __name__ == "__main__":
    print("\n".join(lowest(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2:])))
