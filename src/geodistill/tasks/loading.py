"""Loading a model or a tokenizer by name, and what is said when that fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from geodistill.data.bundled.models import resolve_model
from geodistill.distillation.sides import Whose
from geodistill.distillation.students.architecture import refuse_encoder_decoder
from geodistill.errors import GeodistillError, require_package
from geodistill.models import ImageClassifiers
from geodistill.quantization import load_quantized, saved_quantization
from geodistill.recipe import TeacherRecipe, WeightKind

# The fewest ordinary tokens, those that are neither special nor added, that a vocabulary can have: a class of tokenizer
# that finds no vocabulary file makes itself one of special tokens and at most one more.
FEWEST_TOKENS = 5
# A vocabulary below this share of the model's cannot be the one that the model was trained with.
SMALLEST_SHARE = 0.01
# How the names of classes end, and the auto class that loads them.
HEADS: dict[str, Any] = {
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForImageClassification": ImageClassifiers,
    "ForCausalLM": AutoModelForCausalLM,
    "LMHeadModel": AutoModelForCausalLM,
}


@dataclass(frozen=True)
class ModelSource:
    """Where a model and its reader come from.

    name: a bundled name, a folder or a hub name; for some tasks also the name of a new model
    revision: of a model on the hub
    trust_remote_code: whether the code that comes with the model may run
    weights: how the model is held in memory
    whose: its side, if the sides differ
    """

    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    weights: WeightKind = "float32"
    whose: Whose = "student"

    @classmethod
    def of_teacher(cls, recipe: TeacherRecipe) -> ModelSource:
        """Return where the teacher of a recipe comes from."""
        return cls(recipe.model, recipe.revision, recipe.trust_remote_code, recipe.weights, "teacher")

    def load(self, from_pretrained: Callable[..., Any], *, what: str = "model", **settings: Any) -> Any:
        """Call a `from_pretrained`, of a config, a tokenizer or a model; raises GeodistillError when it fails."""
        path = resolve_model(self.name)
        settings["trust_remote_code"] = self.trust_remote_code
        if self.revision is not None:
            if Path(path).is_dir():
                raise GeodistillError(
                    f"A revision is of a model on the hub, and '{self.name}' is a folder on this machine.",
                    "Leave the revision out.",
                )
            settings["revision"] = self.revision
        try:
            return from_pretrained(path, **settings)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # tokenizers and a model's own code raise errors of any kind
            remedy = (
                "Look whether its files are whole; it needs config.json, weights in safetensors and a tokenizer."
                if Path(path).is_dir()
                else "Give a folder or the hub name of a model, and look whether the hub can be reached."
            )
            said = (str(error) or type(error).__name__).splitlines()[0]
            if "trust_remote_code" in str(error) and not self.trust_remote_code:
                said = "it comes with Python code, which is not run unless you say so."
                remedy = (
                    "If you trust that code, set trust_remote_code in the section of this model: teacher or student."
                )
            raise GeodistillError(f"The {what} '{self.name}' cannot be loaded: {said}", remedy) from error

    @property
    def config(self) -> Any:
        """The config of the model."""
        return self.load(AutoConfig.from_pretrained)

    def load_model(self, auto_class: Any, **settings: Any) -> Any:
        """Load the model by its auto class; raises GeodistillError if it cannot be loaded or is an encoder–decoder."""
        refuse_encoder_decoder(self.config, self.name)
        return self.load(auto_class.from_pretrained, **weight_settings(self.weights), **settings)


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model; without a padding token, it pads with its end of sequence, as is usual for
    decoders.

    Raises GeodistillError if there is none or only a part of one: transformers makes an almost empty tokenizer of
    the model's class then, which reads every word as unknown.
    """
    tokenizer: PreTrainedTokenizerBase = source.load(AutoTokenizer.from_pretrained, what="tokenizer of the model")
    check_vocabulary(tokenizer, source.name, _vocabulary_size(source))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, name: str, model_size: int | None) -> None:
    """Refuse a tokenizer without a vocabulary; `model_size` is how many tokens the model has embeddings for."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    ordinary = len(tokenizer.get_vocab().keys() - special)
    if ordinary < FEWEST_TOKENS or (model_size is not None and len(tokenizer) < SMALLEST_SHARE * model_size):
        knows = f"its tokenizer knows {len(tokenizer):,} tokens"
        raise GeodistillError(
            f"The model '{name}' has no tokenizer, or only a part of one: {knows}"
            + (f", and the model {model_size:,}." if model_size is not None else "."),
            "Put the tokenizer that the model was trained with beside it: "
            "AutoTokenizer.from_pretrained(SOURCE).save_pretrained(FOLDER).",
        )


def _vocabulary_size(source: ModelSource) -> int | None:
    """How many tokens the config of a model names; None if there is no config, or none that says so."""
    try:
        config = source.config
    except GeodistillError:
        return None
    size = getattr(config.get_text_config(), "vocab_size", None)
    return size if isinstance(size, int) else None


def weight_settings(weights: WeightKind) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that hold a model's weights so.

    Raises GeodistillError if bitsandbytes is wanted and not installed.
    """
    if weights in ("float32", "bfloat16"):
        return {"dtype": getattr(torch, weights)}
    require_package("bitsandbytes", "quantization", f"teacher.weights={weights} was asked for")
    return {"quantization_config": BitsAndBytesConfig(**{f"load_in_{weights}": True})}


def with_quantizers(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return a model that was loaded by this name, with the quantisers that lie in its folder, if there are any."""
    folder = resolve_model(name)
    if saved_quantization(folder) is not None:
        load_quantized(folder, model)
    return model


def load_student(folder: str | Path, *, trust: bool = False) -> PreTrainedModel:
    """Load the student that a run wrote to its folder `student/`, in float32 and evaluation mode.

    A quantised student comes with its quantisers, so it computes as it did when it was scored. Plain transformers loads
    its rounded weights alone.

    Args:
        folder: `student/` of a run.
        trust: run the code that comes with the student.

    Returns:
        A model of transformers.

    Raises:
        GeodistillError: the folder holds no model, or its quantisers are missing or damaged.

    Example:
        student = geodistill.load_student("runs/mine/student")
    """
    source = ModelSource(str(folder), trust_remote_code=trust)
    kinds = source.load(AutoConfig.from_pretrained, what="student").architectures or [""]
    auto_class = next((auto for ending, auto in HEADS.items() if kinds[0].endswith(ending)), AutoModel)
    model = source.load(auto_class.from_pretrained, what="student", dtype=torch.float32)
    return with_quantizers(model, source.name).eval()


def same_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> bool:
    """Tell whether both split and number words alike, so that their tokens are paired."""
    probe = "Geometry-aware distillation, 2025: naïve façade!"
    return student.get_vocab() == teacher.get_vocab() and student(probe)["input_ids"] == teacher(probe)["input_ids"]
