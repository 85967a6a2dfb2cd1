"""Any torch model of images, made by a function of an installed module: `python:torchvision.models:resnet18`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from geodistill.errors import GeodistillError

WEIGHTS = "model.safetensors"


class PythonConfig(PretrainedConfig):
    """Where a model comes from.

    Args:
        factory: `package.module:callable`, which is called with `num_classes`.
        num_channels: colour channels of an image.
        **kwargs: as for any config of transformers: num_labels, id2label, label2id, problem_type.

    Example:
        PythonConfig(factory="torchvision.models:resnet18", num_labels=10)
    """

    model_type = "geodistill_python"
    factory: str = ""
    num_channels: int = 3


class PythonForImageClassification(PreTrainedModel):
    """A torch model that gives logits (b, num_labels) for images (b, 3, h, w), with the interface of transformers.

    It is built by `module.callable(num_classes=num_labels)`, as timm and torchvision name it, so to load it from a
    folder is to run code that the folder names. The auto classes of transformers refuse to; `ImageClassifiers`
    does it for a folder that is trusted. Its points are module paths that begin with `model.`; its layers have no
    numbers.

    Args:
        config: a `PythonConfig`.

    Raises:
        GeodistillError: the module or its callable is not found, or the callable makes no torch model.

    Example:
        config = PythonConfig(factory="torchvision.models:resnet18", num_labels=10)
        PythonForImageClassification(config)(torch.randn(2, 3, 32, 32)).logits  # (2, 10)
    """

    config_class = PythonConfig
    config: PythonConfig
    main_input_name = "pixel_values"
    input_modalities = "image"
    base_model_prefix = ""

    def __init__(self, config: PythonConfig) -> None:
        super().__init__(config)
        self.model = build(config.factory, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Classify images (b, 3, h, w). Returns `logits` (b, num_labels) and, with labels (b,), the `loss`; there are
        no hidden states."""
        logits = self.model(pixel_values)
        expected = (pixel_values.shape[0], self.config.num_labels)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise GeodistillError(
                f"The model of '{self.config.factory}' gives {found}, and its logits should be {expected}.",
                "Let the callable take num_classes and return a model that gives one tensor of logits.",
            )
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the weights as the callable made them."""

    @classmethod
    def from_pretrained(  # type: ignore[override]  # of a folder alone
        cls,
        name: Any,
        *,
        dtype: torch.dtype | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **changes: Any,
    ) -> Any:
        """Build the model that a folder names, by running its callable, and load its weights.

        The model is built as the callable builds it, since a model that begins without memory, as those of transformers
        do, loses the buffers that are not saved.

        Args:
            name: a folder that `save_pretrained` wrote.
            dtype: of the weights.
            output_loading_info: whether to return, beside the model, which weights were missing.
            ignore_mismatched_sizes: leave weights of another size, such as those of a new head, unchanged.
            **changes: other entries of the config, such as num_labels.

        Raises:
            GeodistillError: weights are missing, unknown or of another size.
        """
        if "quantization_config" in changes:
            raise GeodistillError(
                f"The model '{name}' is held in float32 or bfloat16 alone.", "Set weights to one of them."
            )
        config = PythonConfig.from_pretrained(name, **changes)
        model = cls(config)
        own, saved = model.state_dict(), load_file(Path(name) / WEIGHTS)
        misfits = {key for key in saved if key in own and saved[key].shape != own[key].shape}
        missing, unknown = own.keys() - saved.keys(), saved.keys() - own.keys()
        if missing or unknown or (misfits and not ignore_mismatched_sizes):
            raise GeodistillError(
                f"The weights in '{name}' are not those of '{config.factory}': "
                f"{min(missing | unknown | misfits)} does not fit.",
                "Use the version of its package that the model was saved with.",
            )
        model.load_state_dict({key: value for key, value in saved.items() if key not in misfits}, strict=False)
        if dtype is not None:
            model.to(dtype)  # type: ignore[arg-type]  # transformers wraps a method of torch
        model.eval()
        return (model, {"missing_keys": sorted(misfits)}) if output_loading_info else model


def build(factory: str, num_classes: int) -> nn.Module:
    """Call `package.module:callable` with `num_classes`, which runs its code.

    Raises:
        GeodistillError: the form is another, the module cannot be imported, or the call makes no torch model.
    """
    module_name, _, name = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), name)
        model = make(num_classes=num_classes)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise GeodistillError(
            f"The model 'python:{factory}' cannot be made: {str(error) or type(error).__name__}.",
            "Give python:PACKAGE.MODULE:CALLABLE of an installed module; the callable takes num_classes.",
        ) from error
    if not isinstance(model, nn.Module):
        raise GeodistillError(
            f"'{factory}' makes a {type(model).__name__}, which is no torch model.", "Name what makes an nn.Module."
        )
    return model


class ImageClassifiers:
    """The auto class of image classifiers, which also loads a `PythonForImageClassification` that is trusted.

    Raises:
        GeodistillError: `from_pretrained` finds a folder that names code and is not trusted.

    Example:
        model = ImageClassifiers.from_pretrained("runs/mine/student", trust_remote_code=True)
    """

    @staticmethod
    def from_pretrained(name: str, *, trust_remote_code: bool = False, **settings: Any) -> Any:
        """Load an image classifier.

        Args:
            name: a folder or a hub name.
            trust_remote_code: run the code that comes with the model.
            **settings: as for the auto class of transformers.

        Returns:
            The model.

        Raises:
            GeodistillError: the folder names code, and is not trusted.
        """
        revision = settings.get("revision")
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        if not isinstance(config, PythonConfig):
            return AutoModelForImageClassification.from_pretrained(
                name, trust_remote_code=trust_remote_code, **settings
            )
        if not trust_remote_code:
            raise GeodistillError(
                f"The model '{name}' is made by the code of '{config.factory}', which is not run unless you say so.",
                "If you trust that code, set trust_remote_code in the section of this model: teacher or student.",
            )
        return PythonForImageClassification.from_pretrained(name, **settings)
