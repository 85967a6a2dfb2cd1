"""Architectures that no library has, as models of transformers: classifiers of small pictures, and of recordings the
neural transformer."""

from geodistill.models.base import CifarClassifier, CifarConfig
from geodistill.models.from_python import ImageClassifiers, PythonConfig, PythonForImageClassification
from geodistill.models.mobilenet_v2 import CifarMobileNetV2Config, CifarMobileNetV2ForImageClassification
from geodistill.models.named import NAMES, made, made_config, named, named_config, register
from geodistill.models.neural import NeuralConfig, NeuralModel, new_neural_model, with_sessions
from geodistill.models.resnet import CifarResNetConfig, CifarResNetForImageClassification
from geodistill.models.shufflenet_v1 import CifarShuffleNetV1Config, CifarShuffleNetV1ForImageClassification
from geodistill.models.shufflenet_v2 import CifarShuffleNetV2Config, CifarShuffleNetV2ForImageClassification
from geodistill.models.vgg import CifarVGGConfig, CifarVGGForImageClassification
from geodistill.models.wide_resnet import CifarWideResNetConfig, CifarWideResNetForImageClassification

# On import, because from_pretrained reads the family from config.json and asks transformers' table for its class:
# a saved student can be loaded as soon as this package was imported, and nobody has to know which class it is.
register()

__all__ = [
    "NAMES",
    "CifarClassifier",
    "CifarConfig",
    "CifarMobileNetV2Config",
    "CifarMobileNetV2ForImageClassification",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "CifarShuffleNetV1Config",
    "CifarShuffleNetV1ForImageClassification",
    "CifarShuffleNetV2Config",
    "CifarShuffleNetV2ForImageClassification",
    "CifarVGGConfig",
    "CifarVGGForImageClassification",
    "CifarWideResNetConfig",
    "CifarWideResNetForImageClassification",
    "ImageClassifiers",
    "NeuralConfig",
    "NeuralModel",
    "PythonConfig",
    "PythonForImageClassification",
    "made",
    "made_config",
    "named",
    "named_config",
    "new_neural_model",
    "register",
    "with_sessions",
]
