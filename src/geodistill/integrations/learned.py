"""Learned projections beside a model that somebody else's trainer optimises, synchronises and saves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.model import check_separate
from geodistill.distillation.objective import Objective
from geodistill.errors import GeodistillError
from geodistill.losses.ranks import world_size
from geodistill.recipe import FeatureTerm


def bind_terms(
    terms: Sequence[FeatureTerm], student: PreTrainedModel, teacher: nn.Module, *, seed: int, global_batch: bool = True
) -> Objective:
    """Return an objective of feature terms alone, its projections drawn from `seed` and the same on every rank.

    Raises GeodistillError for no terms, and for a label or logit term, which the trainer's own loss stands for.
    """
    if not all(isinstance(term, FeatureTerm) for term in terms):
        raise GeodistillError(
            "Only feature terms are added to the loss of another trainer.",
            "Leave LabelTerm and LogitTerm out: the trainer itself computes what it learns from labels and logits.",
        )
    check_separate(student, teacher)
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        objective = Objective(terms, student=student, teacher=teacher, global_batch=global_batch)
    for parameter in objective.parameters():
        parameter.register_hook(average_over_ranks)
    return objective


def average_over_ranks(gradient: Tensor) -> Tensor:
    """What DistributedDataParallel does for the model's own parameters, which these are not among."""
    if world_size() == 1:
        return gradient
    total = gradient.contiguous().clone()
    dist.all_reduce(total)
    return total / world_size()


def train_along(module: nn.Module, optimizer: Any) -> None:
    """Let an optimiser train a module's parameters too, at the rate and decay of its first group."""
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    # Not a group of its own: a schedule that was made before knows only the groups that there were.
    optimizer.param_groups[0]["params"].extend(each for each in module.parameters() if id(each) not in known)


def refuse_sharding(module: nn.Module, sharded: bool) -> None:
    """Say that learned projections do not go with a trainer that shards its parameters."""
    if sharded and any(True for _ in module.parameters()):
        raise GeodistillError(
            "A learned projection is not trained beside a model that FSDP or DeepSpeed shards.",
            "Use procrustes, gram or cka, which learn nothing, or train with DDP.",
        )
