"""A model in shards over processes: what is refused, what is sharded as one piece, and how it becomes whole again."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel
from transformers.training_args import TrainingArguments

from geodistill.errors import GeodistillError

Model = TypeVar("Model", bound=nn.Module)


def check_sharding(arguments: TrainingArguments) -> None:
    """Refuse the ways of sharding after which a student could not be made whole, FSDP1 and ZeRO-3, and several GPUs in
    one process."""
    check_one_device(arguments)
    if fsdp_version(arguments) == 1:
        raise GeodistillError(
            "FSDP1 is not supported: the trained student would stay in shards.",
            "Set fsdp_version: 2, as docs/launch/fsdp.yaml does.",
        )
    if arguments.deepspeed_plugin is not None and arguments.deepspeed_plugin.zero_stage == 3:
        raise GeodistillError(
            "ZeRO-3 is not supported: the trained student would stay in shards.",
            "Shard with FSDP2 (docs/launch/fsdp.yaml), or take ZeRO-2 (docs/launch/zero2.json).",
        )


def check_one_device(arguments: TrainingArguments) -> None:
    """Refuse several GPUs in one process: the Trainer would copy the student to all of them with nn.DataParallel, and
    the copies would share neither the teacher nor what is captured."""
    if arguments.n_gpu > 1:
        raise GeodistillError(
            f"One process sees {arguments.n_gpu} GPUs, and a student is trained on one GPU a process.",
            "Start one process a GPU with 'accelerate launch' or 'torchrun', or choose one: CUDA_VISIBLE_DEVICES=0.",
        )


def fsdp_version(arguments: TrainingArguments) -> int | None:
    """The version of FSDP that the arguments or, without a word in them, the launcher asks for; None without FSDP."""
    asked = arguments.fsdp_plugin_args
    if asked is not None:
        return int(asked["fsdp_version"])
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return int(os.environ.get("FSDP_VERSION", "1"))
    return None


def blocks_to_shard(model: PreTrainedModel) -> set[str]:
    """Names of the classes of blocks that FSDP shards one by one, all but those around the input embeddings.

    accelerate shards a model's input embeddings by themselves, and fails if they lie in shards already.
    """
    try:
        embeddings = model.get_input_embeddings()
    except NotImplementedError:  # a model of images has none
        return set(model._no_split_modules or ())
    around = {
        type(module).__name__
        for module in model.modules()
        if module is not embeddings and any(inner is embeddings for inner in module.modules())
    }
    return set(model._no_split_modules or ()) - around


def whole_model(model: Model) -> Model:
    """Return a model with all its weights on every rank: itself or, if FSDP shards it, a copy made of the shards."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    # FSDP gives the modules that it shards classes of its own.
    kind: Any = next(each for each in type(model).__mro__ if not issubclass(each, FSDPModule))
    whole = kind(model.config)
    shards = model.state_dict().items()
    whole.load_state_dict({name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in shards})
    if whole.can_generate():
        whole.generation_config = model.generation_config
    return whole
