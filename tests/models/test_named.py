"""Models by name: the published number of parameters, the settings that reach the config, and unknown names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

from geodistill.errors import GeodistillError
from geodistill.models import NAMES, named, named_config, register
from geodistill.models.named import FAMILIES

# Parameters for 100 classes, counted in the networks of the authors of CRD: https://github.com/HobbitLong/RepDistiller.
# The authors print no counts. With their weights copied over, our logits and maps were theirs to rounding.
PUBLISHED = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenetv2": 812_836,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
}


def test_every_name_has_a_published_count() -> None:
    assert set(NAMES) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str, count: Callable[[nn.Module], int]) -> None:
    with torch.device("meta"):
        model = named(name, num_labels=100)
    assert count(model) == PUBLISHED[name]


def test_settings_reach_the_config() -> None:
    names = {0: "even", 1: "odd"}
    config = named_config(
        "vgg8", num_labels=2, image_size=28, num_channels=1, id2label=names, problem_type="regression"
    )
    assert (config.num_labels, config.image_size, config.num_channels) == (2, 28, 1)
    assert config.id2label == names and config.problem_type == "regression"
    assert named("wrn_16_1", num_labels=7, image_size=8, num_channels=1)(torch.randn(2, 1, 8, 8)).logits.shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet-20", "resnet20"), ("wrn-40-2", "wrn_40_2"), ("MobileNetV2", "mobilenetv2")]
)
def test_unknown_name_gets_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(GeodistillError, match=f"No image model is named '{name}'. Did you mean '{nearest}'"):
        named(name, num_labels=10)


def test_images_too_small_for_the_name() -> None:
    with pytest.raises(GeodistillError, match="at least 16 × 16 pixels"):
        named("mobilenetv2", num_labels=10, image_size=8)


def test_transformers_knows_the_families() -> None:
    register()  # a second time changes nothing
    for config, model in FAMILIES.items():
        assert type(AutoConfig.for_model(config.model_type)) is config
        assert AutoModelForImageClassification._model_mapping[config] is model
    built = AutoModelForImageClassification.from_config(named_config("resnet8", num_labels=4))
    assert built.config.num_labels == 4
