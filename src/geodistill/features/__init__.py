"""From a model to feature rows: capture hidden states, choose rows, pair layers."""

from geodistill.features.capture import (
    Capture,
    Point,
    evaluation_mode,
    feature_width,
    feature_widths,
    find_module,
    hidden_size,
    input_names,
    layer_count,
    model_config,
)
from geodistill.features.layers import map_layers, resolve_layer
from geodistill.features.rows import (
    IGNORED_LABEL,
    ROW_KINDS,
    count_word_tokens,
    find_special_tokens,
    response_logits_mask,
    select_rows,
)
from geodistill.features.scored import (
    count_scored,
    is_causal,
    next_token_loss,
    next_tokens_scored,
    only_scored,
    scored_logits,
    scored_tokens,
)
from geodistill.features.words import NO_WORD, TokenWords, align_words, token_words

__all__ = [
    "IGNORED_LABEL",
    "NO_WORD",
    "ROW_KINDS",
    "Capture",
    "Point",
    "TokenWords",
    "align_words",
    "count_scored",
    "count_word_tokens",
    "evaluation_mode",
    "feature_width",
    "feature_widths",
    "find_module",
    "find_special_tokens",
    "hidden_size",
    "input_names",
    "is_causal",
    "layer_count",
    "map_layers",
    "model_config",
    "next_token_loss",
    "next_tokens_scored",
    "only_scored",
    "resolve_layer",
    "response_logits_mask",
    "scored_logits",
    "scored_tokens",
    "select_rows",
    "token_words",
]
