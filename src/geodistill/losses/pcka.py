"""Patch-based centred kernel alignment, for the feature maps of dense prediction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodistill.errors import GeodistillError
from geodistill.geometry.features import full_precision, or_one


class PCKALoss(nn.Module):
    """1 − CKA between the patches of two feature maps, channel by channel, averaged over channels.

    Maps (B, C, H, W) are enlarged (bilinear) to whole patches of P × P pixels. For each channel, the patches of the map
    are the rows of a matrix (patches × B·P²), and CKA compares the student's with the teacher's through Gram matrices
    of (patches × patches). A map of a single patch has no shape to compare: centred, it gives a zero.

    Args, all by keyword:
        patch: the side P of a patch, in pixels.
        centered: subtract the mean patch, as CKA is defined. False is what the authors' code does; its loss −CKA
            differs from this one by a constant.

    Called with maps of the same B and C; the student's are brought to the teacher's H and W. The teacher's receive no
    gradient. Returns a float32 scalar between 0 and 1, whatever autocast says (float64 for float64 maps).
    Raises GeodistillError when the maps do not have the same samples and channels.

    Reference: arXiv 2401.11824, Rethinking centered kernel alignment in knowledge distillation. There the loss weighs
    10, on levels 0 to 3 of a feature pyramid.

        loss = detection_loss + 10 * sum(PCKALoss()(s, t) for s, t in zip(student_pyramid, teacher_pyramid))
    """

    def __init__(self, *, patch: int = 16, centered: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.centered = centered

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
            raise GeodistillError(
                f"Maps {tuple(student.shape)} and {tuple(teacher.shape)} do not have the same samples and channels.",
                "Give two maps (samples, channels, height, width); bring channels together with a 1 × 1 convolution.",
            )
        size = [-(-side // self.patch) * self.patch for side in teacher.shape[2:]]
        dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
        with full_precision(student.device):
            kernels = [self.kernels(maps.to(dtype), size) for maps in (student, teacher.detach())]
            squares = [kernel.square().sum((1, 2)) for kernel in kernels]
            alignment = (kernels[0] * kernels[1]).sum((1, 2)) / or_one(squares[0] * squares[1]).sqrt()
            distance = (1 - alignment).mean()
        single = self.centered and kernels[0].shape[1] < 2
        return distance * 0 if single else distance

    def kernels(self, maps: Tensor, size: list[int]) -> Tensor:
        """The Gram matrices of a map's patches, (C, patches, patches), each of rows of unit Frobenius norm."""
        if list(maps.shape[2:]) != size:
            maps = functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        b, c, h, w = maps.shape
        grid = maps.reshape(b, c, h // self.patch, self.patch, w // self.patch, self.patch)
        rows = grid.permute(1, 2, 4, 0, 3, 5).reshape(c, (h // self.patch) * (w // self.patch), b * self.patch**2)
        if self.centered:
            rows = rows - rows.mean(1, keepdim=True)
        peak = or_one(rows.detach().abs().amax((1, 2), keepdim=True))
        rows = rows / peak
        rows = rows / or_one(rows.square().sum((1, 2), keepdim=True)).sqrt()
        return rows @ rows.mT

    def extra_repr(self) -> str:
        return f"patch={self.patch}, centered={self.centered}"
