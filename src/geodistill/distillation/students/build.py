"""How a student is made: loaded by name, cut out of its teacher, or built new in the teacher's family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from geodistill.data.bundled.models import resolve_model
from geodistill.distillation.students.adapters import Student, add_adapters
from geodistill.distillation.students.architecture import check_causal, refuse_encoder_decoder
from geodistill.distillation.students.cut_layers import choose_entries, keep_layers, per_layer_lists
from geodistill.distillation.students.embeddings import rotate_embeddings
from geodistill.distillation.students.head_labels import output_names, reorder_outputs
from geodistill.errors import GeodistillError
from geodistill.features import hidden_size, layer_count
from geodistill.models import ImageClassifiers, PythonForImageClassification, made
from geodistill.recipe import MADE, StudentRecipe

AUTO_CLASSES = (
    (AutoModelForSequenceClassification, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING),
    (AutoModelForTokenClassification, MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING),
    (ImageClassifiers, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING),
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
    (AutoModel, MODEL_MAPPING),
)
CLASSIFIERS = (AutoModelForSequenceClassification, AutoModelForTokenClassification, ImageClassifiers)
# What the families call the width between the two matrices of a feed-forward block: the one size without a common name.
INTERMEDIATE_NAMES = ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner")
# Widths beside the hidden size that some families have: of factorised embeddings, and of DeBERTa's pooler.
SIDE_WIDTHS = ("embedding_size", "word_embed_proj_dim", "pooler_hidden_size")


class Head(NamedTuple):
    """The head of a student that is not its teacher's: an auto class, and what a config says of such a head."""

    auto_class: Any
    settings: Mapping[str, Any]


def build_student(
    recipe: StudentRecipe,
    teacher: PreTrainedModel,
    *,
    seed: int,
    sample: Iterable[Mapping[str, Tensor]] = (),
    probe: Mapping[str, Tensor] | None = None,
    head: Head | None = None,
    load: Callable[[str], PreTrainedModel] | None = None,
) -> Student:
    """Return a student with the teacher's kind of head, its labels and its problem type, in float32 and eval mode.

    With `head` it has this head instead, and its teacher may have none.

    - `recipe.model`: a pretrained model through the teacher's auto class, with a head for the teacher's labels. With
      `new:NAME` it is an image model of the CIFAR benchmarks (`geodistill.models.named`) with random weights, for
      images of the size and channels of `probe`, a tiny batch that the student reads; `python:PACKAGE.MODULE:CALLABLE`
      is a torch model that the callable makes (`PythonForImageClassification`). With `load`, which makes or loads a
      model by its name, none of this is done here.
    - `recipe.teacher_layers`: the teacher with fewer blocks, its width and weights kept; see `keep_layers`.
    - `recipe.width` and `recipe.layers`: a new model of the teacher's family; see `shrink_config`. With the
      initialisation `"pca"` its embeddings are the teacher's, rotated and cut; see `rotate_embeddings`, which takes the
      principal directions from `sample`, batches of tokenised text, if there are any.

    With `recipe.lora` it is a PeftModel around that student; see `add_adapters` and, for the end, `merge_adapters`.

    `seed` decides every random weight, and the global random state does not change.
    Raises GeodistillError for a model that cannot be loaded, a layer out of range, or a family that cannot be cut.
    """
    with _seeded(seed):
        if recipe.model is not None and load is not None:
            student = load(recipe.model)
        elif recipe.model is not None and recipe.model.startswith(MADE):
            student = _new_image_model(recipe.model, teacher.config, probe)
        elif recipe.model is not None:
            student = _load(recipe.model, recipe.revision, teacher, recipe.trust_remote_code, head)
        elif recipe.teacher_layers is not None:
            student = keep_layers(teacher, recipe.teacher_layers)
        else:
            student = _new(recipe, teacher)
            if recipe.initialization == "pca":
                rotate_embeddings(student, teacher, sample)
        student = student.float().eval()
        return student if recipe.lora is None else add_adapters(student, recipe.lora).eval()


def _new_image_model(name: str, teacher: PretrainedConfig, probe: Mapping[str, Tensor] | None) -> PreTrainedModel:
    if probe is None:
        raise GeodistillError(
            f"The image model '{name}' cannot be built before it is known what it reads.",
            "Give probe=reader.probe(), a tiny batch of images.",
        )
    _, channels, height, width = probe["pixel_values"].shape
    return made(
        name,
        num_labels=teacher.num_labels or 0,
        image_size=min(height, width),
        num_channels=channels,
        id2label=teacher.id2label,
        label2id=teacher.label2id,
        problem_type=teacher.problem_type,
    )


def _new(recipe: StudentRecipe, teacher: PreTrainedModel) -> PreTrainedModel:
    reasons: list[str] = []
    state = torch.get_rng_state()
    for every in (False, True):
        torch.set_rng_state(state)
        try:
            return type(teacher)(shrink_config(recipe, teacher.config, every=every))
        except GeodistillError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AssertionError, RuntimeError) as error:
            reasons.append(str(error).splitlines()[0].rstrip(".:"))
    raise GeodistillError(
        f"A new student of the family '{teacher.config.model_type}' cannot be built with this width and these layers: "
        f"{reasons[0]}.",
        "Set student.model or student.teacher_layers instead, or choose another width, heads or number of layers.",
    )


def shrink_config(recipe: StudentRecipe, config: PretrainedConfig, *, every: bool = False) -> PretrainedConfig:
    """Return the teacher's config with the recipe's width, layers, heads and intermediate width, all else unchanged.

    Grouped key-value heads keep the size of their groups if it divides the number of heads. A factorised embedding
    keeps its width unless the student is narrower; one as wide as the teacher becomes as wide as the student.

    Lists of one entry a layer are left to the family, which makes them from its other settings; with `every`, those
    whose name does not tell what they are have the entries of layers that lie evenly over the teacher's.
    """
    width, layers = recipe.width, recipe.layers
    assert width is not None and layers is not None  # the recipe has both or neither
    heads = recipe.heads or max(1, width // 64)
    if width % heads:
        divisors = [number for number in range(1, width + 1) if width % number == 0 and width // number >= 8]
        raise GeodistillError(
            f"A width of {width} does not divide into {heads} heads.",
            f"Set 'heads' to one of {', '.join(map(str, divisors or [1]))}, or choose another width.",
        )
    values = config.to_dict()
    old_width = hidden_size(config)
    old_heads = values.get(_native(config, "num_attention_heads"))
    intermediate = next((name for name in INTERMEDIATE_NAMES if name in values), None)
    if intermediate is None or not isinstance(old_heads, int) or config.is_encoder_decoder:
        raise GeodistillError(
            f"A new student of the family '{config.model_type}' cannot be built from a width and layers.",
            "Set student.model or student.teacher_layers instead.",
        )
    named = per_layer_lists(config)
    others = [name for name in per_layer_lists(config, every=every) if name not in named]
    even = [layer * layer_count(config) // layers for layer in range(layers)]
    values |= choose_entries(values, others, even)
    for name in [*named, "quantization_config", "_name_or_path"]:
        values.pop(name, None)
    values[_native(config, "hidden_size")] = width
    values[_native(config, "num_hidden_layers")] = layers
    values[_native(config, "num_attention_heads")] = heads
    values[intermediate] = recipe.intermediate or 4 * width
    if values.get("head_dim") is not None:
        values["head_dim"] = width // heads
    if values.get("num_key_value_heads") is not None:
        group = old_heads // values["num_key_value_heads"]
        values["num_key_value_heads"] = heads // group if heads % group == 0 else heads
    for name in SIDE_WIDTHS:
        if values.get(name) is not None:
            values[name] = width if values[name] == old_width else min(values[name], width)
    return type(config).from_dict(values)


def _load(
    name: str, revision: str | None, teacher: PreTrainedModel, trust_remote_code: bool, head: Head | None
) -> PreTrainedModel:
    auto_class = _auto_class(teacher) if head is None else head.auto_class
    settings: dict[str, Any] = {}
    if head is not None:
        settings = {**head.settings, "ignore_mismatched_sizes": True}
    elif auto_class in CLASSIFIERS:
        # A head that was trained for another number of labels is replaced by a new one.
        settings = {
            "id2label": teacher.config.id2label,
            "label2id": teacher.config.label2id,
            "ignore_mismatched_sizes": True,
        }
    source = resolve_model(name)
    try:
        own = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        refuse_encoder_decoder(own, name)
        student = auto_class.from_pretrained(
            source, revision=revision, trust_remote_code=trust_remote_code, dtype=torch.float32, **settings
        )
    except GeodistillError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        if "trust_remote_code" in str(error) and not trust_remote_code:
            raise GeodistillError(
                f"The student '{name}' comes with Python code, which is not run unless you say so.",
                "If you trust that code, set student.trust_remote_code=true.",
            ) from error
        raise GeodistillError(
            f"The student '{name}' cannot be loaded: {str(error).splitlines()[0]}",
            "Give a folder that save_pretrained wrote, a bundled model, or a hub name that can be reached.",
        ) from error
    if settings and head is None:
        reorder_outputs(student, output_names(own), output_names(teacher.config))
    if auto_class is AutoModelForCausalLM:
        check_causal(student, name)
    if head is None:
        student.config.problem_type = teacher.config.problem_type
    padding = getattr(teacher.config, "pad_token_id", None)  # what reads no tokens has none
    if padding is not None and getattr(student.config, "pad_token_id", padding) is None:
        student.config.pad_token_id = padding
    return student


def _auto_class(teacher: PreTrainedModel) -> Any:
    if isinstance(teacher, PythonForImageClassification):
        return ImageClassifiers
    for auto_class, mapping in AUTO_CLASSES:
        if type(teacher.config) in mapping and type(teacher) is mapping[type(teacher.config)]:
            return auto_class
    raise GeodistillError(
        f"A pretrained student with the head of {type(teacher).__name__} cannot be loaded by name.",
        "Use a teacher for classification or language modelling, or give 'teacher_layers' or 'width' with 'layers'.",
    )


def _native(config: PretrainedConfig, name: str) -> str:
    """Return what the family calls a common entry of a config, such as GPT-2's `n_embd` for `hidden_size`."""
    return config.attribute_map.get(name, name)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
