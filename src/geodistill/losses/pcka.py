"""Patch-based centred kernel alignment, for the feature maps of dense prediction."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.geometry.numerics import or_one
from geodistill.losses.base import MapLoss, resize
from geodistill.losses.ranks import agree_on_sizes, largest_over_ranks, sum_over_ranks, world_size


class PCKALoss(MapLoss):
    """1 − CKA between the patches of two feature maps, channel by channel.

    (1/C) Σ_c (1 − ⟨K_c, L_c⟩_F / (‖K_c‖_F ‖L_c‖_F)): K_c = X_c X_cᵀ of the student and L_c of the teacher, where the
    rows of X_c are the n patches of channel c. A row has the P² values of its patch in each of the B samples, so X_c is
    (n × B·P²) and K_c is (n × n). All channels are computed at once.

    Both maps are resized, each in one step, to the teacher's height and width rounded up to whole patches (bilinear,
    corners not aligned).

    Args:
        student_channels: C_s. If it differs from C, a learned 1 × 1 convolution is used; see `MapLoss`.
        teacher_channels: C.
        patch: the side P of a patch, in pixels of the teacher's map; the paper has 16. By keyword, as are the others.
        centered: subtract the mean patch, as CKA is defined. False is what the authors' code does. Its loss is −CKA,
            which differs from this one by the constant 1.
        global_batch: see `MapLoss`. The (C, n, n) matrices are summed over the ranks, whose maps have one size.

    Shapes: student (B, C_s, h, w), teacher (B, C, H, W), or two lists of as many maps, of which the mean is taken;
    `mask` (B,) says which samples count.

    Returns:
        A scalar between 0 and 1. A channel that is constant on either side counts as 1.

    Raises:
        GeodistillError: samples, channels or the number of maps differ, or each map is a single patch, whose CKA never
            changes.

    Reference: arXiv 2401.11824, Rethinking centered kernel alignment in knowledge distillation. The paper gives the
    loss the weight 10, on levels 0 to 3 of a feature pyramid.

    Example:
        loss = detection_loss + 10 * PCKALoss()(student_pyramid[:4], teacher_pyramid[:4])
    """

    def __init__(
        self,
        student_channels: int | None = None,
        teacher_channels: int | None = None,
        *,
        patch: PositiveInt = 16,
        centered: bool = True,
        global_batch: bool = False,
    ) -> None:
        super().__init__(student_channels, teacher_channels, global_batch=global_batch)
        self.patch = patch
        self.centered = centered

    def compare(self, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        rows = [(self.rows(student, teacher), self.rows(teacher, teacher)) for student, teacher in pairs]
        if all(teacher.shape[1] == 1 for _, teacher in rows):
            height, width = pairs[0][1].shape[2:]
            raise GeodistillError(
                f"A map of {height} × {width} is a single patch of {self.patch} × {self.patch}, and there is no second "
                "patch to compare it with.",
                f"Set patch below {max(height, width)}, or choose a layer with larger maps.",
            )
        everywhere = self.global_batch and world_size() > 1
        if everywhere:
            agree_on_sizes([size for _, teacher in rows for size in teacher.shape[:2]], rows[0][0].device)
        return [self.distance(*(kernels(each, everywhere) for each in pair)) for pair in rows]

    def rows(self, maps: Tensor, teacher: Tensor) -> Tensor:
        """The patches of a map as rows, (C, n, B·P²), centred or not."""
        maps = resize(maps, *(-(-side // self.patch) * self.patch for side in teacher.shape[2:]))
        b, c, h, w = maps.shape
        grid = maps.reshape(b, c, h // self.patch, self.patch, w // self.patch, self.patch)
        rows = grid.permute(1, 2, 4, 0, 3, 5).reshape(c, (h // self.patch) * (w // self.patch), b * self.patch**2)
        return rows - rows.mean(1, keepdim=True) if self.centered else rows

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """1 − CKA of kernels (C, n, n), the mean over channels; 1 for a channel that is zero on either side."""
        squares = student.square().sum((1, 2)) * teacher.square().sum((1, 2))
        return (1 - (student * teacher).sum((1, 2)) / or_one(squares).sqrt()).mean()

    def extra_repr(self) -> str:
        return f"patch={self.patch}, centered={self.centered}, global_batch={self.global_batch}"


def kernels(rows: Tensor, everywhere: bool) -> Tensor:
    """The Gram matrices (C, n, n) of rows (C, n, d), of this process or of all ranks, each scaled to unit trace."""
    # Divided by the largest entry first: neither the squares of huge features nor those of tiny ones fit a float32.
    peak = rows.detach().abs().amax((1, 2), keepdim=True)
    rows = rows / or_one(largest_over_ranks(peak) if everywhere else peak)
    product = rows @ rows.mT
    product = sum_over_ranks(product) if everywhere else product
    # CKA does not depend on the scale, and so the gradient does not have to know of it.
    return product / or_one(product.detach().diagonal(dim1=1, dim2=2).sum(1))[:, None, None]
