"""The rooms of the package, from the ground up: a room imports only rooms below it, and no files import in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import geodistill

ROOT = Path(geodistill.__file__).parent
GROUND = ("aliases", "applies", "display", "errors", "explain", "files", "recipe")
FLOORS = (
    GROUND,
    ("geometry",),
    ("losses",),
    ("quantization",),
    ("features",),
    ("data",),
    ("models",),
    ("distillation",),
    ("tasks",),
    ("runs",),
    ("studies",),
    ("recipes", "integrations"),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(name: str, *, when_loaded: bool = False) -> set[str]:
    """The modules of the package that a file imports, within functions too unless they are left out `when_loaded`."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    if when_loaded:
        kept: list[ast.AST] = []
        waiting: list[ast.AST] = list(tree.body)
        while waiting:
            node = waiting.pop()
            only_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not only_for_types:
                kept.append(node)
                waiting += list(ast.iter_child_nodes(node))
    else:
        kept = list(ast.walk(tree))
    found: set[str] = set()
    for node in kept:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "geodistill":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "geodistill"}
    return {file for module in found if (file := file_of(module)) is not None}


def file_of(module: str) -> str | None:
    """The file of a module, or of the module that a name is imported from."""
    parts = module.split(".")[1:]
    while parts:
        place = "/".join(parts)
        for candidate in (f"{place}.py", f"{place}/__init__.py"):
            if candidate in FILES:
                return candidate
        parts = parts[:-1]
    return "__init__.py" if module != "geodistill" else None


def room(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def test_every_file_is_in_a_room() -> None:
    assert {room(file) for file in FILES} == set(LEVEL)


@pytest.mark.parametrize("file", FILES)
def test_imports_flow_downward(file: str) -> None:
    own = room(file)
    for other in imports(file):
        assert room(other) == own or LEVEL[room(other)] < LEVEL[own] or LEVEL[own] == LEVEL[room(other)] == 0, (
            f"{file} imports {other}, which is not below it"
        )


def test_integrations_know_nothing_of_tasks_and_runs() -> None:
    allowed = {*GROUND, "integrations", "losses", "features", "distillation"}
    for file in FILES:
        if room(file) == "integrations":
            assert {room(other) for other in imports(file)} <= allowed


def test_no_files_import_in_a_circle() -> None:
    graph = {file: imports(file, when_loaded=True) - {file} for file in FILES}
    done: set[str] = set()

    def visit(file: str, path: tuple[str, ...]) -> None:
        assert file not in path, f"a circle: {' → '.join((*path[path.index(file) :], file))}"
        if file not in done:
            for other in graph[file]:
                visit(other, (*path, file))
            done.add(file)

    for file in FILES:
        visit(file, ())
