"""Which layers of a model are quantised and with how many bits, and that they can be made plain again."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OPTConfig, OPTForCausalLM

from geodistill.errors import GeodistillError
from geodistill.quantization import (
    QuantizedLinear,
    calibrate,
    check_intervals,
    is_quantized,
    layer_bits,
    quantize,
    quantized_modules,
    remove_quantizers,
)
from geodistill.recipe import QuantizationRecipe

Make = Callable[[str], nn.Module]
W4A4 = QuantizationRecipe(weights=4, activations=4)

# First, last and a middle layer with their bits, and how many layers there are.
EXPECTED: dict[str, tuple[int, dict[str, tuple[int, int | None]]]] = {
    "bert": (
        3 + 12 + 2,
        {
            "bert.embeddings.word_embeddings": (8, None),
            "bert.embeddings.position_embeddings": (8, None),
            "bert.encoder.layer.0.attention.self.query": (4, 4),
            "bert.pooler.dense": (4, 4),
            "classifier": (8, 8),
        },
    ),
    "resnet8": (
        1 + 6 + 2 + 1,
        {"stem.0": (8, 8), "stages.0.0.residual.0": (4, 4), "stages.1.0.shortcut.0": (4, 4), "classifier": (8, 8)},
    ),
    "llama": (
        1 + 14 + 1,
        {"model.embed_tokens": (8, None), "model.layers.0.self_attn.q_proj": (4, 4), "lm_head": (8, 8)},
    ),
    "gpt2": (
        2 + 8 + 1,
        {"transformer.wte": (8, None), "transformer.h.1.mlp.c_fc": (4, 4), "lm_head": (8, 8)},
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_first_last_and_embeddings_have_bits_of_their_own(make: Make, name: str) -> None:
    count, expected = EXPECTED[name]
    bits = layer_bits(make(name), W4A4)
    assert len(bits) == count
    assert {layer: tuple(bits[layer]) for layer in expected} == expected
    ends = [layer for layer, each in bits.items() if each == (8, 8)]
    assert len(ends) == (2 if name == "resnet8" else 1)


def test_bits_are_read_from_the_recipe(make: Make) -> None:
    recipe = QuantizationRecipe(weights=3, activations=None, embeddings=None, first_and_last=5)
    bits = layer_bits(make("bert"), recipe)
    assert bits["classifier"] == (5, None) and bits["bert.pooler.dense"] == (3, None)
    assert not any("embeddings" in name for name in bits)
    assert "classifier" not in layer_bits(make("bert"), QuantizationRecipe(first_and_last=None))


def test_patterns_choose_layers(make: Make) -> None:
    recipe = QuantizationRecipe(include=["*.attention.self.*", "classifier"], exclude=["*.key"])
    names = quantize(make("bert"), recipe)
    assert names == [
        *(f"bert.encoder.layer.{layer}.attention.self.{part}" for layer in (0, 1) for part in ("query", "value")),
        "classifier",
    ]


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(make: Make, key: str) -> None:
    recipe = QuantizationRecipe(**{key: ["*.qeury"]})
    with pytest.raises(GeodistillError, match=r"pattern '\*\.qeury' matches no layer.*nearest: .*self\.query"):
        quantize(make("bert"), recipe)
    with pytest.raises(GeodistillError, match=r"pattern 'clasifier' matches no layer.*nearest: classifier"):
        quantize(make("bert"), QuantizationRecipe(**{key: ["clasifier"]}))


def test_that_no_layer_is_left_is_an_error(make: Make) -> None:
    with pytest.raises(GeodistillError, match="No layer of the BertForSequenceClassification is left"):
        quantize(make("bert"), QuantizationRecipe(exclude=["*"]))
    with pytest.raises(GeodistillError, match="No layer of the ReLU is left"):
        quantize(nn.ReLU(), QuantizationRecipe())


def test_a_model_computes_with_few_values_and_is_plain_again(
    named: tuple[nn.Module, Any], logits: Callable[[nn.Module, Any], Tensor]
) -> None:
    model, batch = named
    classes = [type(module) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    before = logits(model, batch)
    names = quantize(model, W4A4)
    assert list(quantized_modules(model)) == names and is_quantized(model)
    calibrate(model, [batch], W4A4)
    rough = logits(model, batch)
    assert not torch.allclose(before, rough, atol=1e-4) and bool(rough.isfinite().all())
    assert state.keys() < model.state_dict().keys()
    remove_quantizers(model)
    assert [type(module) for module in model.modules()] == classes
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    assert torch.equal(logits(model, batch), before)


def test_eight_bits_change_little(named: tuple[nn.Module, Any], logits: Callable[[nn.Module, Any], Tensor]) -> None:
    model, batch = named
    before = logits(model, batch)
    quantize(model, QuantizationRecipe())
    calibrate(model, [batch], QuantizationRecipe())
    assert (logits(model, batch) - before).abs().max() < 0.05 * before.abs().max()


def test_weights_that_were_rounded_stay_as_they_are(
    named: tuple[nn.Module, Any], logits: Callable[[nn.Module, Any], Tensor]
) -> None:
    model, batch = named
    recipe = QuantizationRecipe(weights=3, activations=None)
    quantize(model, recipe)
    fake = logits(model, batch)
    assert torch.equal(logits(remove_quantizers(model, round=True), batch), fake)


def test_a_tied_weight_has_one_quantiser(make: Make, batch_of: dict[str, Any]) -> None:
    model: Any = make("gpt2")
    quantize(model, W4A4)
    calibrate(model, [batch_of["gpt2"]], W4A4)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).double()):
        assert other.lm_head.weight_quantizer is other.transformer.wte.weight_quantizer
        assert other.lm_head.weight is other.transformer.wte.weight
    assert [name for name in model.state_dict() if "lm_head" in name and "weight" not in name.split(".")[1:2]] == [
        "lm_head.input_quantizer.interval",
        "lm_head.input_quantizer.offset",
    ]
    copied = copy.deepcopy(model)
    assert copied.lm_head.weight_quantizer is not model.lm_head.weight_quantizer
    assert torch.equal(copied(**batch_of["gpt2"]).logits, model(**batch_of["gpt2"]).logits)


@pytest.mark.parametrize(
    "options",
    [{"embeddings": 4}, {"embeddings": None}, {"exclude": ["lm_head"]}, {"include": ["*.wte", "*.c_fc"]}],
    ids=str,
)
def test_a_tied_weight_is_rounded_in_one_way(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(GeodistillError, match=r"'transformer.wte' \(.*'lm_head' \(.*embeddings and first_and_last"):
        quantize(make("gpt2"), QuantizationRecipe(**options))


def test_a_layer_used_in_several_places_is_quantised_once() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.ReLU(), shared, nn.Linear(4, 2))
    assert quantize(model, W4A4) == ["0", "1", "4"]
    assert model[1] is model[3] and type(model[3]) is QuantizedLinear


def test_layers_that_others_read_past_are_left(caplog: pytest.LogCaptureFixture) -> None:
    inner = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 8), inner, nn.Linear(8, 2))
    with caplog.at_level(logging.WARNING):
        assert quantize(model, W4A4) == ["0", "2"]
    assert "'1.self_attn.out_proj' stays float: MultiheadAttention reads the weights of its layers" in caplog.text
    assert "'1.linear1' stays float: TransformerEncoderLayer reads" in caplog.text
    caplog.clear()
    quantize(remove_quantizers(model), QuantizationRecipe(exclude=["1.*"]))
    assert not caplog.text
    with pytest.raises(GeodistillError, match=r"matches '1.linear1', which cannot be quantised: TransformerEnc"):
        quantize(remove_quantizers(model), QuantizationRecipe(include=["*.linear1"]))


def test_layers_of_derived_classes_are_left(caplog: pytest.LogCaptureFixture) -> None:
    shape: dict[str, Any] = {"hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16, "num_attention_heads": 2}
    model = OPTForCausalLM(OPTConfig(vocab_size=40, num_hidden_layers=1, **shape))
    with caplog.at_level(logging.WARNING):
        names = quantize(model, W4A4)
    assert "model.decoder.embed_tokens" in names and "model.decoder.embed_positions" not in names
    assert "embed_positions' stays float: OPTLearnedPositionalEmbedding may compute something else" in caplog.text


def test_a_quantised_model_is_not_quantised_again(make: Make) -> None:
    model = make("signal")
    quantize(model, W4A4)
    with pytest.raises(GeodistillError, match="has quantisers already"):
        quantize(model, W4A4)


def test_a_model_with_adapters_is_refused(make: Make) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make("bert"), peft.LoraConfig(target_modules=["query"]))
    for each in (model, model.get_base_model()):
        with pytest.raises(GeodistillError, match=r"has adapters \(LoRA\).*merge_and_unload"):
            quantize(each, W4A4)


def test_a_model_quantised_elsewhere_is_refused(make: Make) -> None:
    model = make("bert")
    foreign = type("Linear4bit", (nn.Linear,), {"__module__": "bitsandbytes.nn.modules"})
    model.classifier = foreign(16, 3)
    with pytest.raises(GeodistillError, match=r"was quantised by bitsandbytes.*weights: float32"):
        quantize(model, W4A4)
    model = make("bert")
    model.hf_quantizer = object()
    with pytest.raises(GeodistillError, match="was quantised already, by object"):
        quantize(model, W4A4)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-40, float("nan"), float("inf")])
def test_a_collapsed_interval_is_named(make: Make, value: float) -> None:
    model: Any = make("bert")
    quantize(model, W4A4)
    check_intervals(model)
    said = "collapsed to zero" if value < 1 else "is not finite"
    with torch.no_grad():
        model.bert.pooler.dense.weight_quantizer.interval[3] = value
    with pytest.raises(GeodistillError, match=f"weights of 'bert.pooler.dense' {said}"):
        check_intervals(model)
    remove_quantizers(model)
    check_intervals(model)
    quantize(model, W4A4)
    with torch.no_grad():
        model.classifier.input_quantizer.offset.fill_(float("nan"))
    with pytest.raises(GeodistillError, match="inputs of 'classifier' is not finite"):
        check_intervals(model)
