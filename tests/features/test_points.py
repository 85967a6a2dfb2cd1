from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from geodistill.errors import GeodistillError
from geodistill.features import Capture, default_probe, last_layer, points, row_widths

CNN = {"num_channels": 3, "num_labels": 4}
SMALL = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    stages = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    match name:
        case "bert":
            return BertModel(BertConfig(vocab_size=20, **SMALL))
        case "vit":
            return ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, **SMALL, num_labels=4))
        case "resnet":
            return ResNetForImageClassification(ResNetConfig(**stages, **CNN))
        case "regnet":
            sizes = {**stages, "layer_type": "y", "groups_width": 4}
            return RegNetForImageClassification(RegNetConfig(**sizes, **CNN))
        case "convnext":
            sizes = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 32}
            return ConvNextForImageClassification(ConvNextConfig(**sizes, **CNN))
        case _:
            return MobileNetV2ForImageClassification(MobileNetV2Config(image_size=32, depth_multiplier=0.25, **CNN))


FAMILIES = ["bert", "vit", "resnet", "regnet", "convnext", "mobilenet"]


@pytest.mark.parametrize("name", FAMILIES)
def test_numbers_reach_from_the_stem_to_the_last_hidden_state(name: str) -> None:
    model = make(name).train()
    last = last_layer(model)
    assert points(model)[: last + 1] == list(range(last + 1)) and "" not in points(model)
    assert model.training
    model.eval()
    _, features = Capture(model, [0, last, -1])(**default_probe(model))
    assert torch.equal(features[last], features[-1])
    with pytest.raises(GeodistillError, match=f"Layer {last + 1} is out of range"):
        Capture(model, [last + 1])(**default_probe(model))


@pytest.mark.parametrize("name", FAMILIES[1:])
def test_widths_of_maps_are_their_channels(name: str) -> None:
    model = make(name).eval()
    _, features = Capture(model, [1, -1])(**default_probe(model))
    for kind in ("positions", "pooled"):
        widths = row_widths(model, [1, -1], kind=kind)
        channels = [each.shape[2 if each.ndim == 3 else 1] for each in features.values()]
        assert list(widths.values()) == channels


def test_a_module_of_the_users_own_has_paths_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    assert points(model) == ["0", "1"]
    with pytest.raises(GeodistillError, match="not a transformers model"):
        last_layer(model)


def test_what_no_example_can_be_made_up_of_needs_a_probe() -> None:
    model = make("bert")
    model.main_input_name = "spikes"
    with pytest.raises(GeodistillError, match="reads 'spikes', of which no example"):
        default_probe(model)
    probe = {"input_ids": torch.tensor([[1, 2, 3]])}
    assert row_widths(model, [1], probe) == {1: 8}
