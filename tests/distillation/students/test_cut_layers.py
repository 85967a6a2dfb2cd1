"""A cut student is the teacher's own blocks, one after the other, in families of all kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from geodistill.distillation.signals import model_inputs
from geodistill.distillation.students.build import build_student
from geodistill.distillation.students.cut_layers import choose_entries, find_blocks, keep_layers, per_layer_lists
from geodistill.errors import GeodistillError
from geodistill.recipe import StudentRecipe

SIZES: dict[str, Any] = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
BERT = {**SIZES, "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 24}
LLAMA = {**BERT, "num_key_value_heads": 2}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": BERT,
    "electra": {**BERT, "embedding_size": 8},
    "distilbert": {**SIZES, "dim": 16, "n_layers": 6, "n_heads": 2, "hidden_dim": 24},
    "deberta-v2": {**BERT, **RELATIVE},
    "mpnet": BERT,
    "xlnet": {"vocab_size": 60, "d_model": 16, "n_layer": 6, "n_head": 2, "d_inner": 24},
    "big_bird": BERT,
    "longformer": {**BERT, "attention_window": [4, 4, 8, 8, 4, 16], "max_position_embeddings": 130},
    "gpt2": {**SIZES, "n_embd": 16, "n_layer": 6, "n_head": 2},
    "gpt_neo": {
        **SIZES,
        "hidden_size": 16,
        "num_layers": 6,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 3]],
        "window_size": 2,
    },
    "gpt_neox": BERT,
    "opt": {
        **SIZES,
        "hidden_size": 16,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "ffn_dim": 24,
        "word_embed_proj_dim": 16,
    },
    "llama": LLAMA,
    "qwen2": {**LLAMA, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 3},
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 3},
    "gemma3_text": {
        **LLAMA,
        "head_dim": 8,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "cohere2": {**LLAMA, "sliding_window": 3},
    "smollm3": LLAMA,
}
MODERNBERT = {**BERT, "cls_token_id": 0, "sep_token_id": 2, "local_attention": 4}
KEPT = [2, 3, 6]


def teacher_of(family: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # attention that is far from even, so that another mask shows
    return model


def block_calls(model: PreTrainedModel, ids: torch.Tensor) -> list[Any]:
    """With what each block is called, and what it returns."""
    calls: list[Any] = []
    handles = [
        block.register_forward_hook(
            lambda _, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
        )
        for block in find_blocks(model)[1]
    ]
    with torch.no_grad():
        model(**model_inputs(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}))
    for handle in handles:
        handle.remove()
    return [(args, kwargs, output if isinstance(output, torch.Tensor) else output[0]) for args, kwargs, output in calls]


def chained(teacher: PreTrainedModel, kept: list[int], ids: torch.Tensor) -> list[torch.Tensor]:
    """What the teacher's own blocks make of a text, each called as the teacher calls it, one after the other."""
    calls, blocks, states = block_calls(teacher, ids), find_blocks(teacher)[1], []
    args, kwargs, _ = calls[0]
    hidden = args[0] if args else kwargs["hidden_states"]
    for place in kept:
        args, kwargs, _ = calls[place - 1]
        with torch.no_grad():
            block = blocks[place - 1]
            output = block(hidden, *args[1:], **kwargs) if args else block(**{**kwargs, "hidden_states": hidden})
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        states.append(hidden)
    return states


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kept", [KEPT, [1, 2, 3]])
def test_a_cut_student_is_its_teachers_blocks_in_a_row(family: str, kept: list[int], tmp_path: Path) -> None:
    teacher = teacher_of(family, FAMILIES[family])
    ids = torch.randint(3, 60, (2, 32), generator=torch.Generator().manual_seed(1))
    student = keep_layers(teacher, kept).eval()
    student.save_pretrained(tmp_path)
    expected = chained(teacher, kept, ids)
    for model in (student, type(student).from_pretrained(tmp_path).eval()):
        outputs = [output for _, _, output in block_calls(model, ids)]
        assert len(outputs) == 3
        for ours, theirs in zip(outputs, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "family, settings",
    [
        ("modernbert", MODERNBERT),  # the first block has no norm
        ("gpt2", {**FAMILIES["gpt2"], "scale_attn_by_inverse_layer_idx": True}),
        ("qwen2_moe", {**LLAMA, "decoder_sparse_step": 2, "num_experts": 4, "moe_intermediate_size": 8}),
    ],
)
def test_a_family_whose_places_decide_is_refused(family: str, settings: dict[str, Any]) -> None:
    teacher = teacher_of(family, settings)
    with pytest.raises(GeodistillError, match="Layers 2, 4 cannot be cut out of") as caught:
        keep_layers(teacher, [2, 4])
    assert "student.model" in caught.value.remedy
    assert find_blocks(keep_layers(teacher, [1, 2, 3]))[1][2] is not None, "the first layers are where they were"


def test_modernbert_is_cut_where_its_first_layer_stays_first() -> None:
    teacher = teacher_of("modernbert", MODERNBERT)
    ids = torch.randint(3, 60, (2, 32), generator=torch.Generator().manual_seed(1))
    student = keep_layers(teacher, [1, 4, 5]).eval()
    assert student.config.layer_types == ["full_attention", "full_attention", "sliding_attention"]
    for (_, _, ours), theirs in zip(block_calls(student, ids), chained(teacher, [1, 4, 5], ids), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_list_of_another_meaning_is_left_as_it_is() -> None:
    teacher = teacher_of("deberta-v2", {**BERT, **RELATIVE, "num_hidden_layers": 2})
    assert per_layer_lists(teacher.config, every=True) == ["pos_att_type"]
    assert keep_layers(teacher, [2]).config.pos_att_type == ["p2c", "c2p"]


def test_a_window_too_long_for_a_short_text_shows_as_well() -> None:
    settings = {**FAMILIES["longformer"], "attention_window": [64, 64, 64, 64, 64, 128], "max_position_embeddings": 130}
    student = keep_layers(teacher_of("longformer", settings), [5, 6])
    assert student.config.attention_window == [64, 128]


def test_entries_are_chosen_by_block() -> None:
    values = {"layer_types": ["a", "b", "c"], "other": [1, 2, 3]}
    assert choose_entries(values, ["layer_types"], [2, 0]) == {"layer_types": ["c", "a"]}


@pytest.mark.parametrize("family", ["longformer", "gpt_neo", "modernbert", "qwen2", "gemma3_text", "smollm3"])
def test_a_new_student_has_lists_of_its_own_length(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(family, **{**FAMILIES, "modernbert": MODERNBERT}[family])
    auto = AutoModelForSequenceClassification if family in ("longformer", "modernbert") else AutoModelForCausalLM
    student = build_student(StudentRecipe(width=8, layers=2, heads=2), auto.from_config(config), seed=1)
    ids = torch.full((1, 16), 5)
    assert student(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.isfinite().all()
    student.save_pretrained(tmp_path)
    assert type(student).from_pretrained(tmp_path).config.num_hidden_layers == 2
