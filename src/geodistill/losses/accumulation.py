"""The loss of a whole batch that arrives in parts, with the exact gradient of the whole.

The sum of the losses of micro-batches is another objective than the loss of their union. The union's is reached in two
passes: sum the moments of all parts, then give each part its share of the gradient. The second pass runs the
student again, unless its graph is kept; the loss itself, with its polar factor, is solved once.

    total = sum((loss.moments(s, t, m) for s, t, m in parts[1:]), loss.moments(*parts[0]))   # under torch.no_grad()
    whole = AccumulatedLoss(loss, total)
    for s, t, m in parts:
        whole(s, t, m).backward()                                                            # sums to the whole's
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geodistill.geometry.features import FeatureRows
from geodistill.geometry.moments import Moments
from geodistill.geometry.numerics import full_precision, or_one
from geodistill.losses.base import FeatureLoss
from geodistill.losses.ranks import sum_moments, world_size

STUDENT_FIELDS = ("student_mean", "student_square", "cross", "student_gram")


class AccumulatedLoss:
    """The loss of the whole as a function of one part of it, given the moments of the whole.

    Called with a part, it returns the part's share of the loss, by count: the shares of all parts add up to the loss of
    the whole. So do their gradients, in the student and in the loss's own parameters. With `global_batch`, `total` is
    the sum over this rank's parts; ranks are summed here, and gradients are exact once averaged over ranks.

    Args:
        loss: any feature loss.
        total: the sum of `loss.moments(student, teacher, mask)` over all parts.

    Attributes:
        value: the loss of the whole, a float64 scalar without gradient.

    Returns:
        Called with (student, teacher, mask) of a part: a scalar, the part's share.

    Example:
        with torch.no_grad():
            total = loss.moments(*parts[0]) + loss.moments(*parts[1])
        whole = AccumulatedLoss(loss, total)
        for student, teacher, mask in parts:
            whole(student, teacher, mask).backward()
    """

    def __init__(self, loss: FeatureLoss, total: Moments) -> None:
        self.loss = loss
        self.ranks = world_size() if loss.global_batch else 1
        if self.ranks > 1:
            total = sum_moments(total)
        leaves = {name: getattr(total, name) for name in STUDENT_FIELDS if getattr(total, name) is not None}
        leaves = {name: value.detach().requires_grad_() for name, value in leaves.items()}
        # By name: a sharded loss has other tensors for its parameters in each forward pass.
        parameters = {name: each for name, each in loss.named_parameters() if each.requires_grad}
        with torch.enable_grad(), full_precision(total.cross.device):
            value = loss.from_moments(replace(total, **leaves))
            gradients = torch.autograd.grad(value, [*leaves.values(), *parameters.values()], allow_unused=True)
        self.value = value.detach()
        self.total = total
        self.slopes = dict(zip(leaves, gradients, strict=False))
        self.parameter_slopes = dict(zip(parameters, gradients[len(leaves) :], strict=True))

    def __call__(self, student: Tensor, teacher: Tensor | FeatureRows, mask: Tensor | None = None) -> Tensor:
        part = self.loss.moments(student, teacher, mask)
        share = part.count / or_one(self.total.count)
        about = part.about(self.total.student_mean.detach(), self.total.teacher_mean.detach())
        about = replace(about, student_mean=share * part.student_mean)
        terms = [_inner(slope, getattr(about, name)) for name, slope in self.slopes.items() if slope is not None]
        for name, slope in self.parameter_slopes.items():
            if slope is not None:
                terms.append(share * _inner(slope, self.loss.get_parameter(name)))
        linear = torch.stack([term.to(share.dtype) for term in terms]).sum()
        return (self.ranks * (share * self.value + linear - linear.detach())).to(part.product_dtype)


def _inner(slope: Tensor, value: Tensor) -> Tensor:
    return (slope * value).sum()
