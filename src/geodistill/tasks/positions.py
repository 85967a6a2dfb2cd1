"""How long a text a model can read: asked of the model, since families count their positions in different ways."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

# What families call their table of absolute positions; the last part of its path in the model.
POSITION_TABLES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
UNLIMITED = 10**9


def position_limit(model: PreTrainedModel) -> int:
    """Return how many tokens a model has positions for, at least 1; 10⁹ where it has no limit.

    That is what its config says, or less where its table of positions begins behind a padding index (RoBERTa, MPNet,
    Longformer: 514 rows hold 512 tokens) or an offset (OPT). Relative positions (T5, XLNet) have no limit.
    """
    config = model.config.get_text_config()
    limits = [UNLIMITED]
    stated = getattr(config, "max_position_embeddings", None)
    if isinstance(stated, int) and stated > 0:  # XLNet says -1
        limits.append(stated)
    for path, module in model.named_modules():
        table = getattr(module, "weight", None)
        if path.rpartition(".")[2] in POSITION_TABLES and isinstance(table, Tensor) and table.ndim == 2:
            padding = getattr(module, "padding_idx", None)
            unused = padding + 1 if padding is not None else getattr(module, "offset", 0)
            limits.append(len(table) - unused)
    return max(1, min(limits))


def shared_position_limit(student: PreTrainedModel, teacher: PreTrainedModel) -> int:
    """Return how many tokens both models have positions for."""
    return min(position_limit(student), position_limit(teacher))
