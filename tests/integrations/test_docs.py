"""Every snippet of docs/integrations.md runs, with small models under the names that it uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch.utils.data import DataLoader

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "max_steps": 2}
TEXTS = [f"Line {number} of a few." for number in range(16)]


@pytest.fixture
def names(tokenizer: Any, language_model: Callable[..., Any], tmp_path: Path, encoder: Path) -> dict[str, Any]:
    def embedder() -> SentenceTransformer:
        module = Transformer(str(encoder))
        return SentenceTransformer(modules=[module, Pooling(module.get_embedding_dimension())], device="cpu")

    batches = []
    for start in range(0, len(TEXTS), 4):
        batch = dict(tokenizer(TEXTS[start : start + 4], padding=True, return_tensors="pt"))
        batch.pop("token_type_ids", None)
        batches.append({**batch, "labels": batch["input_ids"]})
    turns = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "This."}]
    return {
        "torch": torch,
        "Dataset": Dataset,
        "student": language_model(2, 16).train(),
        "teacher": language_model(4, 32, seed=1).eval(),
        "tokenizer": tokenizer,
        "batch": batches[0],
        "batches": batches,
        "loader": DataLoader(batches, batch_size=None),
        "texts": TEXTS,
        "rows": [{"input_ids": [*range(4, 10)], "attention_mask": [1] * 6}] * 8,
        "training_options": QUIET,
        "conversations": Dataset.from_dict({"messages": [turns] * 8}),
        "output_dir": str(tmp_path),
        "student_dir": str(tmp_path / "student"),
        "arguments": {**QUIET, "bf16": False, "per_device_train_batch_size": 2, "max_length": 32},
        "training_arguments": SentenceTransformerTrainingArguments(str(tmp_path), **QUIET),
        "student_embedder": embedder(),
        "teacher_embedder": embedder(),
        "trainer_options": {
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        },
    }


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.split("\n", 1)[0])
def test_the_snippet_runs(snippet: str, names: dict[str, Any]) -> None:
    before = [value.clone() for value in names["student"].parameters()]
    exec(compile(snippet, str(PAGE), "exec"), names)
    trained = names["student"].parameters()
    embeds = "student_embedder" in snippet
    moved = any(
        value.grad is not None or not torch.equal(value, old) for value, old in zip(trained, before, strict=True)
    )
    assert moved != embeds


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 6
