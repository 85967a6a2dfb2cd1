from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModel, PreTrainedModel

from geodistill.tasks import text_reader
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.text_reader import UNLIMITED, TextReader, position_limit, shared_position_limit

ROWS = 40
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
ENCODER = {**SIZES, "vocab_size": 60, "pad_token_id": 1, "max_position_embeddings": ROWS}
DECODER = {"vocab_size": 60, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": ROWS, "bos_token_id": 0}
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "bert": (ROWS, ENCODER),
    "electra": (ROWS, ENCODER),
    "albert": (ROWS, ENCODER),
    "distilbert": (
        ROWS,
        {"vocab_size": 60, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": ROWS},
    ),
    "deberta-v2": (ROWS, ENCODER),
    "roberta": (ROWS - 2, ENCODER),
    "xlm-roberta": (ROWS - 2, ENCODER),
    "camembert": (ROWS - 2, ENCODER),
    "data2vec-text": (ROWS - 2, ENCODER),
    "xmod": (ROWS - 2, {**ENCODER, "default_language": "en_XX"}),
    "ibert": (ROWS - 2, ENCODER),
    "mpnet": (ROWS - 2, ENCODER),
    "longformer": (ROWS - 2, {**ENCODER, "attention_window": 4}),
    "nystromformer": (ROWS, ENCODER),  # its table has two rows more
    "gpt2": (ROWS, {**DECODER, "eos_token_id": 0}),
    "openai-gpt": (ROWS, DECODER),
    "opt": (
        ROWS,
        {
            "vocab_size": 60,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "ffn_dim": 16,
            "word_embed_proj_dim": 16,
            "max_position_embeddings": ROWS,
        },
    ),
}


def model_of(family: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(family, **settings)).eval()


def read(model: PreTrainedModel, length: int) -> torch.Tensor:
    ids = torch.full((1, length), 7)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_of_the_limit_is_read_and_a_longer_one_is_not(family: str) -> None:
    limit, settings = FAMILIES[family]
    model = model_of(family, settings)
    assert position_limit(model) == limit
    assert read(model, limit).isfinite().all()
    with pytest.raises((RuntimeError, IndexError)):
        read(model, limit + 1)


def test_relative_positions_have_no_limit() -> None:
    settings: dict[str, Any] = {"vocab_size": 60, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}
    xlnet = model_of("xlnet", settings)
    assert position_limit(xlnet) == UNLIMITED
    assert read(xlnet, 700).isfinite().all()
    t5 = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 16}
    assert position_limit(model_of("t5", t5)) == UNLIMITED


def test_rotary_positions_end_where_the_config_says() -> None:
    assert position_limit(model_of("llama", ENCODER)) == ROWS


def test_the_padding_index_is_that_of_the_table() -> None:
    model = model_of("roberta", ENCODER)
    model.config.pad_token_id = None  # as a tokenizer may change it afterwards
    assert position_limit(model) == ROWS - 2


def test_two_models_share_the_positions_of_the_shorter_one() -> None:
    bert, roberta = model_of("bert", ENCODER), model_of("roberta", ENCODER)
    assert shared_position_limit(bert, roberta) == shared_position_limit(roberta, bert) == ROWS - 2


def test_texts_that_are_read_in_parts_are_read_alike(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs, cut at eight tokens, with their words."""
    texts = [" ".join(["river"] * length) for length in range(1, 12)]
    split = Dataset.from_dict({"text": texts, "text_pair": list(reversed(texts))})
    reader = TextReader.load(ModelSource(str(encoder))).within(8)

    def read() -> tuple[list[dict[str, Any]], dict[str, int]]:
        cut: dict[str, int] = {"train": 5}
        return reader.encode(split, words=True, cut=cut, part="train"), cut

    whole = read()
    monkeypatch.setattr(text_reader, "AT_ONCE", 4)
    assert read() == whole
    examples, cut = whole
    assert [each["example_id"] for each in examples] == list(range(11)) and cut == {"train": 11}
