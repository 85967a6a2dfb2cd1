"""A quantised model on disk: as a state dict, and as a folder for plain transformers and for us."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.quantization import (
    calibrate,
    describe_quantization,
    load_quantized,
    quantize,
    quantized_modules,
    save_quantized,
    saved_quantization,
)
from geodistill.quantization.save import QUANTIZATION_FILE
from geodistill.recipe import QuantizationRecipe

RECIPE = QuantizationRecipe(weights=3, activations=5)
Make = Callable[[str], nn.Module]
Logits = Callable[[nn.Module, Any], Tensor]


def prepared(model: nn.Module, batch: Any, recipe: QuantizationRecipe = RECIPE) -> Any:
    """A quantised model whose intervals are no longer those that it started with."""
    quantize(model, recipe)
    calibrate(model, [batch], recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".interval", ".offset")):
                parameter.mul_(0.9)
    return model


def test_a_state_dict_holds_all(named: tuple[nn.Module, Any], make: Make, logits: Logits) -> None:
    model, batch = named
    other = type(model)(*([] if not hasattr(model, "config") else [model.config])).eval()  # of other random weights
    prepared(model, batch)
    quantize(other, RECIPE)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(model, batch), logits(other, batch))


@pytest.mark.parametrize("recipe", [RECIPE, QuantizationRecipe(weights=2, activations=None, per_channel=False)])
@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "resnet8"])
def test_a_folder_loads_here_and_in_plain_transformers(
    make: Make, batch_of: dict[str, Any], logits: Logits, name: str, recipe: QuantizationRecipe, tmp_path: Path
) -> None:
    batch, model = batch_of[name], prepared(make(name), batch_of[name], recipe)
    before, expected = {key: value.clone() for key, value in model.state_dict().items()}, logits(model, batch)
    save_quantized(model, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    plain, said = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for layer, quantized in quantized_modules(model).items():
        assert torch.equal(plain.get_submodule(layer).weight, quantized.rounded_weight())
    if recipe.activations is None:
        torch.testing.assert_close(logits(plain, batch), expected)

    loaded: Any = type(model).from_pretrained(tmp_path)
    load_quantized(tmp_path, loaded)
    torch.testing.assert_close(logits(loaded, batch), expected, rtol=1e-6, atol=1e-6)
    assert describe_quantization(loaded) == describe_quantization(model) == saved_quantization(tmp_path)
    assert any(key.endswith("weight_quantizer.interval") for key in load_file(tmp_path / QUANTIZATION_FILE))


def test_the_config_says_how_a_model_is_quantised(make: Make, batch_of: dict[str, Any], tmp_path: Path) -> None:
    model = prepared(make("resnet8"), batch_of["resnet8"])
    save_quantized(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    said = config["geodistill_quantization"]
    assert said["layers"]["classifier"] == {"weights": 8, "activations": 8}
    assert said["layers"]["stages.0.0.residual.0"] == {"weights": 3, "activations": 5}
    assert (said["per_channel"], said["symmetric"], said["biases"]) == (True, False, True)
    assert "quantization_config" not in config and config["model_type"] == "geodistill_resnet"


def test_a_folder_without_quantisers_is_refused(make: Make, batch_of: dict[str, Any], tmp_path: Path) -> None:
    model: Any = make("bert")
    with pytest.raises(GeodistillError, match="The model has no quantisers"):
        save_quantized(model, tmp_path)
    model.save_pretrained(tmp_path)
    assert saved_quantization(tmp_path) is None
    with pytest.raises(GeodistillError, match="holds no quantised model"):
        load_quantized(tmp_path, model)
    save_quantized(prepared(model, batch_of["bert"]), tmp_path)
    with pytest.raises(GeodistillError, match="is of another model"):
        load_quantized(tmp_path, make("llama"))
    (tmp_path / QUANTIZATION_FILE).unlink()
    with pytest.raises(GeodistillError, match="lacks its quantisers"):
        load_quantized(tmp_path, make("bert"))


def test_a_damaged_file_is_an_error(make: Make, batch_of: dict[str, Any], tmp_path: Path) -> None:
    save_quantized(prepared(make("bert"), batch_of["bert"]), tmp_path)
    whole = (tmp_path / QUANTIZATION_FILE).read_bytes()
    (tmp_path / QUANTIZATION_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeodistillError, match="cannot be read"):
        load_quantized(tmp_path, make("bert"))
