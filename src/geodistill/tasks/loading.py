"""Loading a model or a tokenizer by name, and what is said when that fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from geodistill.data.models import resolve_model
from geodistill.errors import GeodistillError, require_package
from geodistill.recipe import WeightKind


def load_tokenizer(name: str, *, revision: str | None = None, trust: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a bundled model, a folder or a hub name; without a padding token, it pads with its end of
    sequence, as is usual for decoders."""
    tokenizer = load(AutoTokenizer.from_pretrained, name, revision=revision, trust_remote_code=trust)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pad_as(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell a model that knows no padding how its tokenizer pads: a decoder's classifier reads the last token before."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def weight_settings(weights: WeightKind) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that hold a model's weights so.

    Raises GeodistillError where bitsandbytes is wanted and not installed.
    """
    if weights in ("float32", "bfloat16"):
        return {"dtype": getattr(torch, weights)}
    require_package("bitsandbytes", "quantization", f"teacher.weights={weights} was asked for")
    return {"quantization_config": BitsAndBytesConfig(**{f"load_in_{weights}": True})}


def load(from_pretrained: Callable[..., Any], name: str, **settings: Any) -> Any:
    """Call a `from_pretrained` on a bundled name, a folder or a hub name; raises GeodistillError when it fails."""
    path = resolve_model(name)
    if settings.get("revision") is None:
        settings.pop("revision", None)
    try:
        return from_pretrained(path, **settings)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        remedy = (
            "Look whether its files are whole; it needs config.json, weights in safetensors and a tokenizer."
            if Path(path).is_dir()
            else "Give a folder or the hub name of a model, and look whether the hub can be reached."
        )
        raise GeodistillError(f"The model '{name}' cannot be loaded: {str(error).splitlines()[0]}", remedy) from error


def same_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> bool:
    """Tell whether both split and number words alike, so that their tokens are paired."""
    probe = "Geometry-aware distillation, 2025: naïve façade!"
    return student.get_vocab() == teacher.get_vocab() and student(probe)["input_ids"] == teacher(probe)["input_ids"]


def position_limit(model: PreTrainedModel) -> int:
    """Return how many tokens a model has positions for; RoBERTa's begin after the padding index."""
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    offset = (model.config.pad_token_id or 0) + 1 if "roberta" in model.config.model_type else 0
    return int(limit) - offset
