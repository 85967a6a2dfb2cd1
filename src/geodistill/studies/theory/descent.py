"""Student vectors that are optimised directly under a loss, without any model between, and what happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geodistill.geometry import FeatureRows, Moments, prepare_features
from geodistill.geometry.distances import gram_square, procrustes_square, similarity
from geodistill.geometry.projection import projection_residual
from geodistill.losses import CKALoss, GramLoss, ProcrustesLoss, ProjectionLoss

MakeLoss = Callable[[Tensor, int], nn.Module]
"""From the teacher's vectors (n, d_t) and the student's width to a loss."""
PRINCIPAL = "MSE to principal components"
RATE = 0.03


def learned_projection(teacher: Tensor, width: int) -> nn.Module:
    return ProjectionLoss(width, teacher.shape[1]).double()


def principal_components(teacher: Tensor, width: int) -> nn.Module:
    """‖SVᵀ/‖S‖ − T/‖T‖‖_F² with V the leading principal directions (d_t, d_s): a projection that learns nothing."""
    loss = ProjectionLoss(width, teacher.shape[1]).double()
    _, _, directions = torch.linalg.svd(teacher - teacher.mean(0), full_matrices=False)
    loss.weight.data.copy_(directions[:width])
    loss.requires_grad_(False)
    return loss


OBJECTIVES: dict[str, MakeLoss] = {
    "procrustes": lambda teacher, width: ProcrustesLoss(),
    "gram": lambda teacher, width: GramLoss(),
    "cka": lambda teacher, width: CKALoss(),
    "projection": learned_projection,
}
RACERS: dict[str, MakeLoss] = {**OBJECTIVES, PRINCIPAL: principal_components}


class Distances(NamedTuple):
    """All measures of one moment: D_P², D_FG², CKA, and the residual of the best linear map."""

    procrustes: float
    gram: float
    cka: float
    residual: float


def distances(student: Tensor, teacher: FeatureRows) -> Distances:
    """Take all measures from the same second moments."""
    moments = Moments.from_rows(student, teacher)
    (procrustes, _), (gram, _) = (square(moments, True, True) for square in (procrustes_square, gram_square))
    found = procrustes, gram, similarity(moments, True), projection_residual(moments)
    return Distances(*(each.item() for each in found))


class Descent(NamedTuple):
    """The student's vectors (n, d_s) at the end, and the distances after so many steps."""

    student: Tensor
    steps: list[int]
    track: list[Distances]

    def steps_to(self, measure: str, goal: float) -> int | None:
        """The first recorded step at which a distance is at most `goal`; None if it never is."""
        pairs = zip(self.steps, self.track, strict=True)
        return next((step for step, each in pairs if getattr(each, measure) <= goal), None)


def descend(
    make_loss: MakeLoss, teacher: Tensor, start: Tensor, *, steps: int, rate: float = RATE, every: int = 10
) -> Descent:
    """Optimise vectors (n, d_s) with Adam under a loss against teacher vectors (n, d_t), from a given start.

    A learned projection starts as its seed says and is trained beside the vectors, with the same rate.
    """
    torch.manual_seed(0)
    loss, rows = make_loss(teacher, start.shape[1]), prepare_features(teacher)
    student = start.clone().requires_grad_()
    learned = [each for each in loss.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam([student, *learned], lr=rate, fused=True)
    recorded, track = [0], [distances(start, rows)]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(student, rows).backward()
        optimizer.step()
        if step % every == 0 or step == steps:
            recorded.append(step)
            track.append(distances(student.detach(), rows))
    return Descent(student.detach(), recorded, track)


def random_start(rows: int, width: int, seed: int) -> Tensor:
    """Gaussian vectors (n, d_s) of about unit length, the same for every loss."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) / width**0.5
