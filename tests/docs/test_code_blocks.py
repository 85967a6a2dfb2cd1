"""Every code block of README, CONTRIBUTING and docs: Python runs, recipes are valid, commands exist.

Python blocks run in the order of their page, in one namespace, with small models under the names that the pages use.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
import yaml
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from transformers import AutoTokenizer

import geodistill
from geodistill.cli import app
from geodistill.geometry.numerics import or_one
from geodistill.losses import LossKind, base
from geodistill.recipes import recipe_path
from geodistill.runs.recipe_file import check_recipe, load_recipe, merge
from geodistill.studies.plan import plan_jobs, split_sweeps

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "max_steps": 2}
CHECKED = {"python", "yaml", "sh", "text"}

# What a page leaves out of a recipe.
TEXTS = {
    "student": {"width": 32, "layers": 2},
    "objective": {"label": {}, "logits": {}, "features": [{"loss": "procrustes"}]},
}
IMAGES = {**TEXTS, "teacher": {"model": "new:resnet8", "training": {}}, "student": {"model": "new:resnet8"}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block(page: Path, names: dict[str, Any], tmp_path: Path) -> None:
    recipes: dict[str, dict[str, Any]] = {}

    def recipe(example: Example) -> None:
        content = complete(yaml.safe_load(example.parsed))
        checked = check_recipe(content)
        if checked.compare and checked.compare.variants:
            plan_jobs(checked, tmp_path)
        if name := re.match(r"# (\S+\.yaml)\n", example.parsed):
            recipes[name[1]] = content

    def commands(example: Example) -> None:
        for line in example.parsed.replace("\\\n", " ").splitlines():
            for command in line.split("  #")[0].split("|"):
                check_command(shlex.split(command, comments=True), recipes)

    parsers = [PythonCodeBlockParser(), CodeBlockParser("yaml", recipe), CodeBlockParser("sh", commands)]
    document = Document.parse(str(page), *parsers)
    document.namespace.update(names)
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_is_passed_over(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {language for language in fences[::2]} <= CHECKED
    assert not any(fences[1::2])


def complete(content: dict[str, Any]) -> dict[str, Any]:
    """Lay a part of a recipe over a small whole one."""
    return merge({"images": IMAGES, "neural": {}}.get(content.get("task", ""), TEXTS), content)


def check_command(words: list[str], recipes: dict[str, dict[str, Any]]) -> None:
    """Check that programs, options, overrides, targets, files and extras of a command exist."""
    program, *rest = words or [""]
    if "geodistill" in words and program != "pip":
        check_geodistill(words[words.index("geodistill") + 1 :], recipes)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program == "python":
        assert rest[0] == "-m" or (ROOT / rest[0]).is_file(), words
    elif program == "pip":
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extras in re.findall(r"\[([\w,-]+)\]", " ".join(rest)):
            assert all(f"\n{extra} = [" in project for extra in extras.split(",")), words
    else:
        assert program in {"", "cd", "echo", "git", "jq", "source"}, words
    for path in re.findall(r"docs/launch/[\w.]+", " ".join(words)):
        assert (ROOT / path).is_file(), path


def check_geodistill(arguments: list[str], recipes: dict[str, dict[str, Any]]) -> None:
    group: Any = typer.main.get_command(app)
    name, *rest = arguments
    if name.startswith("-"):
        return
    with group.commands[name].make_context(name, rest) as context:
        given = context.params
    if name == "demo":
        with recipe_path(f"demo-{given['task'].value}") as path:
            recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    else:
        recipe = recipes.get(str(given.get("recipe")), TEXTS)
    overrides, sweeps = split_sweeps(given.get("overrides") or [])
    load_recipe(recipe, overrides)
    for path, values in sweeps.items():
        for value in values:
            load_recipe(recipe, {path: value})


@pytest.fixture(scope="session")
def finished(content: dict[str, Any], classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipe.yaml, a recipe of seconds, and its run; pages that train by the recipe read the run."""
    folder = tmp_path_factory.mktemp("finished")
    small = {
        **content,
        "teacher": {"model": str(classifier)},
        "student": {**content["student"], "initialization": "random"},
        "training": {**content["training"], "max_steps": 2},
        "compare": {"seeds": [1], "jobs": 1, "variants": {"KD": {}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    geodistill.train(folder / "recipe.yaml", folder / "runs" / "recipe", progress=False)
    return folder


@pytest.fixture
def names(
    page: Path,
    tokenizer: Any,
    language_model: Callable[..., Any],
    finished: Path,
    encoder: Path,
    without_workers: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """What the pages call by name; the working directory has a small recipe.yaml and its run."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "new.csv").write_text("text\nWhich is it?\n", encoding="utf-8")
    texts = [f"Line {number} of a few." for number in range(16)]
    batches = []
    for start in range(0, len(texts), 4):
        batch = dict(tokenizer(texts[start : start + 4], padding=True, return_tensors="pt"))
        batch.pop("token_type_ids", None)
        batches.append({**batch, "labels": batch["input_ids"]})
    turns = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    row = {"input_ids": [*range(4, 10)], "attention_mask": [1] * 6, "labels": [*range(4, 10)]}
    names = {
        "torch": torch,
        "ce": torch.tensor(1.0),
        "student_hidden": torch.randn(4, 6, 16, requires_grad=True),
        "teacher_hidden": torch.randn(4, 6, 32),
        "attention_mask": torch.ones(4, 6),
        "student_logits": torch.randn(4, 6, 9, requires_grad=True),
        "teacher_logits": torch.randn(4, 6, 9),
        "scored": torch.ones(4, 6),
        "student": language_model(2, 16).train(),
        "teacher": language_model(4, 32, seed=1).eval(),
        "tokenizer": tokenizer,
        "student_tokenizer": AutoTokenizer.from_pretrained(encoder),
        "teacher_tokenizer": tokenizer,
        "batch": batches[0],
        "batches": batches,
        "train_dataset": [row] * 8,
        "texts": texts,
        "output_dir": str(tmp_path / "trained"),
        "student_dir": str(tmp_path / "student"),
    }
    if page.name == "CONTRIBUTING.md":
        names.update(vars(base), Any=Any, LossKind=LossKind, or_one=or_one)
    if page.name in ("embeddings.md", "integrations.md"):
        names.update(for_other_trainers(batches, turns, encoder, tmp_path))
    return names


def for_other_trainers(batches: list[Any], turns: list[dict[str, str]], encoder: Path, folder: Path) -> dict[str, Any]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from torch.utils.data import DataLoader

    def embedder() -> SentenceTransformer:
        module = Transformer(str(encoder))
        return SentenceTransformer(modules=[module, Pooling(module.get_embedding_dimension())], device="cpu")

    return {
        "Dataset": Dataset,
        "loader": DataLoader(batches, batch_size=None),
        "training_options": QUIET,
        "conversations": Dataset.from_dict({"messages": [turns] * 8}),
        "arguments": {**QUIET, "bf16": False, "per_device_train_batch_size": 2, "max_length": 32},
        "training_arguments": SentenceTransformerTrainingArguments(str(folder), **QUIET),
        "student_embedder": embedder(),
        "teacher_embedder": embedder(),
        "trainer_options": {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
        },
    }
