"""What is public says what it takes, what it gives back, what goes wrong and how it is called.

Public is what a package lists in `__all__`, and what docs/api.md names.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from transformers import PretrainedConfig, Trainer, TrainingArguments

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
ROOMS = ("geometry", "losses", "features", "quantization", "models")
PACKAGES = ("geodistill", *(f"geodistill.{room}" for room in ROOMS))


def public() -> dict[str, Any]:
    """Every public function and class, by a name that it is imported by."""
    listed = [f"{package}.{name}" for package in PACKAGES for name in import_module(package).__all__]
    named = re.findall(r"^::: (\S+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: resolve_name(name) for name in [*listed, *named]}
    return {name: each for name, each in found.items() if inspect.isclass(each) or inspect.isroutine(each)}


def parameters(each: Any) -> list[str]:
    """What is given by name; of a class what it takes beyond the class that it derives from."""
    if inspect.isclass(each):
        if issubclass(each, PretrainedConfig):
            return [name for name, kind in each.__annotations__.items() if "ClassVar" not in str(kind)]
        if "__init__" not in vars(each) and "__new__" not in vars(each):
            return []
    inherited = {"self"}
    for base in (Trainer, TrainingArguments):
        if inspect.isclass(each) and issubclass(each, base):
            inherited |= inspect.signature(base).parameters.keys() - {"model"}
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    taken = inspect.signature(each).parameters.values()
    return [each.name for each in taken if each.kind not in kinds and each.name not in inherited]


def lacks(each: Any) -> list[str]:
    """The sections that a docstring lacks, and the parameters that it does not name."""
    doc = vars(each).get("__doc__") if inspect.isclass(each) else each.__doc__
    if not doc:
        return ["docstring"]
    given = parameters(each)
    code = re.sub(r'"""[\s\S]*?"""', "", inspect.getsource(each))
    wanted = {"Example": True, "Args": bool(given), "Raises": "raise GeodistillError" in code}
    if inspect.isroutine(each):
        wanted["Returns"] = inspect.signature(each).return_annotation not in ("None", None, inspect.Signature.empty)
    headings = {"Args": ("Args", "Attributes"), "Returns": ("Returns", "Yields")}
    sections = {
        heading
        for heading, needed in wanted.items()
        if needed
        and not any(re.search(rf"^ *{name}:$", doc, re.MULTILINE) for name in headings.get(heading, [heading]))
    }
    return sorted(sections) + [name for name in given if not re.search(rf"\b{name}\b", doc)]


def test_everything_public_is_described() -> None:
    undescribed = {name: missing for name, each in public().items() if (missing := lacks(each))}
    assert not undescribed, "\n".join(f"{name}: {', '.join(each)}" for name, each in undescribed.items())
