"""What the end-to-end tests share: a teacher cut from the bundled weights, and recipes that train it in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from geodistill.data.bundled.models import resolve_model
from geodistill.data.examples import load_examples
from geodistill.recipe import DataRecipe, Recipe
from geodistill.runs.recipe_file import check_recipe, merge
from geodistill.runs.teacher import prepare_teacher
from geodistill.studies import workers as workers_module
from geodistill.tasks.classification import Classification

WriteRecipe = Callable[..., Path]
WriteCsv = Callable[..., Path]
THINGS = ("river", "engine", "painter", "island", "number", "letter")


@pytest.fixture(scope="session", autouse=True)
def quiet_and_single_threaded() -> None:
    torch.set_num_threads(1)
    disable_progress_bar()


@pytest.fixture(autouse=True)
def denormals_kept() -> None:
    """Begin each test with denormal numbers kept: libraries that are compiled for speed flush them when they are
    loaded, and hypothesis refuses to draw floats then."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first two layers of the bundled MiniLM, without a head, and its tokenizer."""
    bundled = resolve_model("bundled:minilm-l6")
    folder = tmp_path_factory.mktemp("encoder")
    AutoModel.from_pretrained(bundled, num_hidden_layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def content(encoder: Path) -> dict[str, Any]:
    """A recipe of a few seconds: 64 questions a split, the cut teacher fine-tuned for two steps, one student layer."""
    return {
        "data": {"source": "bundled:trec", "limit": 64, "max_length": 16},
        "teacher": {"model": str(encoder), "training": {"max_steps": 2, "batch_size": 16, "bf16": False}},
        "student": {"width": 32, "layers": 1},
        "objective": {"label": {}, "logits": {}, "features": [{"loss": "procrustes"}]},
        "training": {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "logging_steps": 2},
    }


@pytest.fixture(scope="session")
def classifier(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cut teacher after its fine-tuning on the questions."""
    recipe = check_recipe(content)
    folder = tmp_path_factory.mktemp("fine-tuned") / "teacher"
    prepare_teacher(recipe.teacher, Classification(load_examples(recipe.data)), folder, progress=False)
    return folder


@pytest.fixture
def make_recipe(content: dict[str, Any], classifier: Path) -> Callable[..., Recipe]:
    """The recipe with its teacher given fine-tuned, and what the test lays over it."""

    def make(**changes: Any) -> Recipe:
        given = {**content, "teacher": {"model": str(classifier)}}
        return check_recipe(merge(given, changes))

    return make


@pytest.fixture
def write_recipe(make_recipe: Callable[..., Recipe], tmp_path: Path) -> WriteRecipe:
    def write(name: str = "recipe", **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(make_recipe(**changes).model_dump(mode="json")), encoding="utf-8")
        return path

    return write


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a comparison go in this process: starting another costs more than a small run."""

    class InThisProcess(ThreadPoolExecutor):
        def __init__(self, workers: int, **processes: Any) -> None:
            super().__init__(workers)

    monkeypatch.setattr(workers_module, "ProcessPoolExecutor", InThisProcess)


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    """Write rows of a text and a label."""

    def write(rows: Iterable[tuple[str, Any]], name: str = "rows.csv", header: str = "text,label") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *(f"{text},{label}" for text, label in rows)]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows of a text and a label as JSON."""

    def write(rows: Iterable[tuple[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def questions() -> list[tuple[str, str]]:
    """Sixty made-up questions under the six labels of the bundled ones."""
    draw = random.Random(0)
    labels = ("NUM", "LOC", "HUM", "ENTY", "DESC", "ABBR")
    nouns = ("river", "engine", "painter", "island", "number", "letter", "planet", "harbour")
    return [
        (f"What {draw.choice(nouns)} is near the {draw.choice(nouns)} of item {place}?", labels[place % 6])
        for place in range(60)
    ]


@pytest.fixture(scope="session")
def instruction_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty instructions with one word to repeat, two references each."""
    rows = [
        {
            "instruction": "Repeat the word." if place % 2 else "Say the word twice.",
            "input": f"{THINGS[place % 6]} {place}",
            "output": [THINGS[place % 6], f"the {THINGS[place % 6]}"],
        }
        for place in range(40)
    ]
    path = tmp_path_factory.mktemp("instructions") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def byte_pairs(texts: list[str], size: int, special_tokens: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer of the texts' own words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return backend


@pytest.fixture(scope="session")
def decoder(request: pytest.FixtureRequest, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model of random weights with a tokenizer of the instructions, in a folder: a Llama, or an OPT
    if a test asks for one by `parametrize("decoder", ["opt"], indirect=True)`."""
    family = getattr(request, "param", "llama")
    backend = byte_pairs([instruction_file.read_text(encoding="utf-8")], 320, ["</s>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<pad>")
    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 4, "num_attention_heads": 4}
    ends: dict[str, Any] = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": 0}
    model: Any
    if family == "opt":
        model = OPTForCausalLM(OPTConfig(hidden_size=32, ffn_dim=64, word_embed_proj_dim=32, **shared, **ends))
    else:
        model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=64, **shared, **ends))
    folder = tmp_path_factory.mktemp(family)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of random weights, four layers × 32, and a byte-level BPE tokenizer that has no padding token."""
    backend = byte_pairs(load_examples(DataRecipe()).splits["validation"]["text"], 500, ["<end>"])
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=0, **sizes))
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


LINES = ["What comes after that in the row of numbers?", "After this comes that, of course."]
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def language_model(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Make a Llama or a GPT-2 of so many layers and so wide, with random weights."""

    def make(layers: int, width: int, *, seed: int = 0, family: str = "llama") -> Any:
        torch.manual_seed(seed)
        ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
        if family == "gpt2":
            dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return GPT2LMHeadModel(GPT2Config(**ids, **dropout, n_embd=width, n_layer=layers, n_head=2))
        shape = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 2 * width}
        return LlamaForCausalLM(LlamaConfig(**ids, **shape, num_attention_heads=2))

    return make
