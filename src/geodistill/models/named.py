"""From the name of a benchmark's model, such as `resnet20`, to a config or to a model with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from geodistill.errors import GeodistillError, suggest
from geodistill.models.base import CifarClassifier, CifarConfig
from geodistill.models.from_python import PythonConfig, PythonForImageClassification
from geodistill.models.mobilenet_v2 import CifarMobileNetV2Config, CifarMobileNetV2ForImageClassification
from geodistill.models.neural import NeuralConfig, NeuralModel
from geodistill.models.resnet import CifarResNetConfig, CifarResNetForImageClassification
from geodistill.models.shufflenet_v1 import CifarShuffleNetV1Config, CifarShuffleNetV1ForImageClassification
from geodistill.models.shufflenet_v2 import CifarShuffleNetV2Config, CifarShuffleNetV2ForImageClassification
from geodistill.models.vgg import CifarVGGConfig, CifarVGGForImageClassification
from geodistill.models.wide_resnet import CifarWideResNetConfig, CifarWideResNetForImageClassification
from geodistill.recipe import NEW_MODEL, PYTHON_MODEL

FAMILIES: dict[type[CifarConfig], type[CifarClassifier]] = {
    CifarResNetConfig: CifarResNetForImageClassification,
    CifarWideResNetConfig: CifarWideResNetForImageClassification,
    CifarVGGConfig: CifarVGGForImageClassification,
    CifarMobileNetV2Config: CifarMobileNetV2ForImageClassification,
    CifarShuffleNetV1Config: CifarShuffleNetV1ForImageClassification,
    CifarShuffleNetV2Config: CifarShuffleNetV2ForImageClassification,
}

_TIMES_FOUR = (32, 64, 128, 256)
NAMES: dict[str, Callable[..., CifarConfig]] = {
    "resnet8": partial(CifarResNetConfig, depth=8),
    "resnet14": partial(CifarResNetConfig, depth=14),
    "resnet20": partial(CifarResNetConfig, depth=20),
    "resnet32": partial(CifarResNetConfig, depth=32),
    "resnet44": partial(CifarResNetConfig, depth=44),
    "resnet56": partial(CifarResNetConfig, depth=56),
    "resnet110": partial(CifarResNetConfig, depth=110),
    "resnet8x4": partial(CifarResNetConfig, depth=8, widths=_TIMES_FOUR),
    "resnet32x4": partial(CifarResNetConfig, depth=32, widths=_TIMES_FOUR),
    "wrn_16_1": partial(CifarWideResNetConfig, depth=16, widen_factor=1),
    "wrn_16_2": partial(CifarWideResNetConfig, depth=16, widen_factor=2),
    "wrn_40_1": partial(CifarWideResNetConfig, depth=40, widen_factor=1),
    "wrn_40_2": partial(CifarWideResNetConfig, depth=40, widen_factor=2),
    "vgg8": partial(CifarVGGConfig, convolutions=(1, 1, 1, 1, 1)),
    "vgg11": partial(CifarVGGConfig, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(CifarVGGConfig, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(CifarVGGConfig, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": partial(CifarVGGConfig, convolutions=(2, 2, 4, 4, 4)),
    "mobilenetv2": partial(CifarMobileNetV2Config, width=0.5, expansion=6),
    "shufflenetv1": partial(CifarShuffleNetV1Config, groups=3),
    "shufflenetv2": partial(CifarShuffleNetV2Config, widths=(116, 232, 464)),
}


def named_config(
    name: str, *, num_labels: int, image_size: int = 32, num_channels: int = 3, **settings: Any
) -> CifarConfig:
    """Return the config of a model of the CIFAR benchmarks.

    Args:
        name: one of `NAMES`.
        num_labels: how many outputs the classifier has.
        image_size: height and width of the images, in pixels.
        num_channels: 3 for colour, 1 for grey images.
        **settings: other entries of a config: id2label, label2id, problem_type.

    Returns:
        The config of the model's family.

    Raises:
        GeodistillError: no model has the name (the nearest is named), or the images are too small for it.

    Example:
        named_config("wrn_16_2", num_labels=10).widen_factor  # 2
    """
    if name not in NAMES:
        raise GeodistillError(f"No image model is named '{name}'.", suggest(name, NAMES))
    return NAMES[name](num_labels=num_labels, image_size=image_size, num_channels=num_channels, **settings)


def named(
    name: str, *, num_labels: int, image_size: int = 32, num_channels: int = 3, **settings: Any
) -> CifarClassifier:
    """Return a model of the CIFAR benchmarks with random weights, drawn from torch's generator of random numbers.

    Args:
        name: one of `NAMES`.
        num_labels: how many outputs the classifier has.
        image_size: height and width of the images, in pixels.
        num_channels: 3 for colour, 1 for grey images.
        **settings: other entries of a config: id2label, label2id, problem_type.

    Returns:
        The model. Call `torch.manual_seed` before, for the same weights again.

    Raises:
        GeodistillError: no model has the name (the nearest is named), or the images are too small for it.

    Example:
        model = named("resnet20", num_labels=10)
        model(torch.randn(2, 3, 32, 32)).logits  # (2, 10)

    Reference: the models of Tian et al., "Contrastive representation distillation", arXiv 1910.10699.
    """
    settings.update(num_labels=num_labels, image_size=image_size, num_channels=num_channels)
    config = named_config(name, **settings)
    return FAMILIES[type(config)](config)


def made_config(
    name: str, *, num_labels: int, image_size: int, num_channels: int, **settings: Any
) -> PythonConfig | CifarConfig:
    """Return the config of a model that a recipe calls `new:NAME` or `python:PACKAGE.MODULE:CALLABLE`.

    Args:
        name: what the recipe says. A model of the second kind reads three channels of any size.
        num_labels: how many outputs the classifier has.
        image_size: height and width of the images, in pixels.
        num_channels: 3 for colour, 1 for grey images.
        **settings: other entries of a config: id2label, label2id, problem_type.

    Returns:
        The config.

    Raises:
        GeodistillError: no model has the name (the nearest is named), or the images are too small for it.

    Example:
        made_config("new:resnet8", num_labels=10, image_size=32, num_channels=3).depth  # 8
    """
    if name.startswith(PYTHON_MODEL):
        return PythonConfig(factory=name.removeprefix(PYTHON_MODEL), **{"num_labels": num_labels, **settings})
    shape = {"image_size": image_size, "num_channels": num_channels}
    return named_config(name.removeprefix(NEW_MODEL), num_labels=num_labels, **shape, **settings)


def made(name: str, **settings: Any) -> PreTrainedModel:
    """Return a model that a recipe calls `new:NAME` or `python:PACKAGE.MODULE:CALLABLE`, with random weights.

    Args:
        name: what the recipe says. `python:` runs the code that it names.
        **settings: the other arguments of `made_config`.

    Returns:
        The model.

    Raises:
        GeodistillError: as `made_config`, or the callable makes no torch model.

    Example:
        made("new:resnet8", num_labels=10, image_size=32, num_channels=3)
    """
    config = made_config(name, **settings)
    if isinstance(config, PythonConfig):
        return PythonForImageClassification(config)
    return FAMILIES[type(config)](config)


def register() -> None:
    """Make transformers know the families: `AutoConfig`, `AutoModel`, `AutoModelForImageClassification`, the pipeline.

    Of a model that a function makes, transformers knows the config alone: to build one runs code (`ImageClassifiers`).
    Importing `geodistill` does this as soon as transformers has its auto classes, so nobody has to call it.

    Example:
        import geodistill
        AutoModelForImageClassification.from_pretrained("runs/mine/student")
    """
    AutoConfig.register(PythonConfig.model_type, PythonConfig, exist_ok=True)
    AutoConfig.register(NeuralConfig.model_type, NeuralConfig, exist_ok=True)
    AutoModel.register(NeuralConfig, NeuralModel, exist_ok=True)
    for config, model in FAMILIES.items():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageClassification.register(config, model, exist_ok=True)
        # pipeline("image-classification") runs any model, but calls one an error that is not in this table of names.
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[config.model_type] = model.__name__
