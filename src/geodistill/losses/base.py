"""What the feature losses share: options, rows, and the batch that the geometry is taken over."""

from __future__ import annotations

from torch import Tensor, nn

from geodistill.geometry.distances import Normalize, finish, select, side
from geodistill.geometry.moments import Kernels, Moments
from geodistill.geometry.rows import PairedRows, full_precision
from geodistill.losses.distributed import agree_on_shape, gather_is_cheaper, gather_rows, sum_moments, world_size


class FeatureLoss(nn.Module):
    """A scalar loss between a student's features (…, d_s) and a teacher's (…, d_t), with a mask (…) of rows that count.

    A loss writes one formula, `square`: D² as a function of second moments.

    Args, all by keyword:
        center: subtract the mean row of each side.
        normalize: True divides each side by its Frobenius norm; "rows" scales each row to unit length before centring,
            and divides by the root of the number of rows; False leaves the scale alone.
        squared: D² (smooth at zero) rather than D.
        global_batch: with several ranks running, the loss of the whole batch over all of them.
    """

    grams = True  # whether SᵀS and TᵀT are needed beside SᵀT

    def __init__(
        self,
        *,
        center: bool = True,
        normalize: Normalize = True,
        squared: bool = True,
        global_batch: bool = False,
    ) -> None:
        super().__init__()
        self.center = center
        self.normalize = normalize
        self.squared = squared
        self.global_batch = global_batch

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = select(student, teacher, mask, self.normalize)
        with full_precision(student.device):
            return self.from_moments(self.summarize(rows)).to(rows.dtype)

    def summarize(self, rows: PairedRows) -> Moments | Kernels:
        """Second moments of the batch, of all ranks' batches when the loss is global."""
        if not self.global_batch or world_size() == 1:
            return self.local(rows)
        rows, sizes = agree_on_shape(rows)
        if gather_is_cheaper(sum(sizes), *rows.shape[1:]):
            return self.local(gather_rows(rows, sizes))
        return sum_moments(Moments.of(rows, grams=self.grams))

    def local(self, rows: PairedRows) -> Moments | Kernels:
        return side(rows, self.center)

    def from_moments(self, moments: Moments | Kernels) -> Tensor:
        """The loss as a function of second moments, a float64 scalar."""
        return finish(self.square(moments), self.squared, moments.count.dtype)

    def square(self, moments: Moments | Kernels) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"center={self.center}, normalize={self.normalize!r}, squared={self.squared}, global_batch={self.global_batch}"
