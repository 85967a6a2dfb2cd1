"""Low-rank adapters (LoRA, Hu et al. 2021) on a student, through peft: its weights stay, small matrices learn."""

from __future__ import annotations

from typing import Any


def adapted_model(model: Any) -> Any:
    """Return the transformers model inside a PeftModel, with its adapters in place; any other model as it is."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()
