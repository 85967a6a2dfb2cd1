"""Low-rank adapters (LoRA, Hu et al. 2021) on a student, through peft: its weights stay, small matrices learn.

A weight W (d_out × d_in) acts as W + α/r · BA, where A (r × d_in) and B (d_out × r) are learned and B starts at zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from geodistill.errors import GeodistillError, require_package, suggest
from geodistill.quantization.save import load_quantizers, save_quantizers, split_state
from geodistill.recipe import LoraRecipe

if TYPE_CHECKING:
    from peft import PeftModel

Student: TypeAlias = "PreTrainedModel | PeftModel"


def add_adapters(student: PreTrainedModel, recipe: LoraRecipe) -> PeftModel:
    """Return the student with adapters on the linear layers that the recipe names, or on all of its backbone's.

    Only they are trained, and the head whole if it is one of classification or regression: a head that is new has
    nothing to adapt. The language-model head stays.

    Raises GeodistillError without peft, and for a name that no linear layer has.
    """
    require_package("peft", "peft", "'student.lora' adds adapters")
    from peft import LoraConfig, get_peft_model

    heads = classification_head(student)
    within = f"({'|'.join(map(re.escape, heads))})(\\..*)?" if heads else None
    check_targets(student, recipe.targets or [])
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=recipe.targets or "all-linear",
        exclude_modules=within,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in student.modules()),
        modules_to_save=heads or None,
    )
    return get_peft_model(student, config)


def adapted_model(model: Any) -> Any:
    """Return the transformers model inside a PeftModel, with its adapters in place; any other model unchanged.

    Raises GeodistillError for prompt learning, which is no part of that model and gives it other rows.
    """
    inner = getattr(model, "get_base_model", None)
    if inner is None:
        return model
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise GeodistillError(
            "Prompts that are learned give one of the two models tokens that the other does not see.",
            "Use adapters of the weights, such as LoRA.",
        )
    return inner()


def merge_adapters(student: Student) -> PreTrainedModel:
    """Return a plain transformers model that computes what the adapted one does; a model without adapters unchanged."""
    return student if isinstance(student, PreTrainedModel) else student.merge_and_unload()


def save_student(student: Student, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write a student whose inner model has the weights `state`: its adapters alone, if it has any.

    Quantisers are written beside the weights, which are not rounded.
    """
    if isinstance(student, PreTrainedModel):
        weights, quantizers = split_state(state)
        student.save_pretrained(folder, state_dict=weights)
        if quantizers:
            save_quantizers(quantizers, folder)
        return
    state = {f"base_model.model.{name}": value for name, value in state.items()}
    # Whether to save embeddings would else be asked of the hub; they are not adapted.
    student.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)


def load_student(student: Student, folder: Path) -> None:
    """Give a student the weights that `save_student` wrote."""
    if isinstance(student, PreTrainedModel):
        saved = type(student).from_pretrained(folder, local_files_only=True)
        student.load_state_dict({**saved.state_dict(), **load_quantizers(folder)})
        return
    from peft import load_peft_weights, set_peft_model_state_dict

    set_peft_model_state_dict(student, load_peft_weights(str(folder), device="cpu"))


def classification_head(model: PreTrainedModel) -> list[str]:
    """Name the parts of a model that have weights and are neither backbone nor a language-model head."""
    if model.base_model is model or model.get_output_embeddings() is not None:
        return []
    return [
        name
        for name, part in model.named_children()
        if part is not model.base_model and any(True for _ in part.parameters())
    ]


def check_targets(model: nn.Module, targets: list[str]) -> None:
    """Refuse a name that is neither the last part of a linear layer's path nor more of it."""
    paths = [path for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for target in targets:
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            names = dict.fromkeys(path.rpartition(".")[2] for path in paths)
            raise GeodistillError(f"The student has no linear layer '{target}' to adapt.", suggest(target, names))
