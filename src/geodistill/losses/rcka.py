"""Relation-centred kernel alignment: features and logits of one batch, compared by CKA in three ways."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.geometry.features import pair_rows
from geodistill.losses.cka import CKALoss
from geodistill.losses.ranks import agree_on_rows, gather_rows, world_size


class RCKALoss(nn.Module):
    """The distillation part of RCKA; the cross-entropy with the labels is a separate term.

    w_f (1 − CKA(S, T)) + w_s (1 − CKA(Z_S, Z_T)) + w_c (1 − CKA(Z_Sᵀ, Z_Tᵀ)), with S and T the features of N samples,
    one row each, and Z_S and Z_T their logits.

    The first two parts compare samples, by N × N Gram matrices (FCKA and intra-LCKA). The third part compares classes,
    by P × P Gram matrices (inter-LCKA). All options are given by keyword.

    Args:
        features: the weight w_f, at least 0. A weight of 0 leaves the part out.
        samples: the weight w_s, at least 0.
        classes: the weight w_c, at least 0.
        centered: centre each CKA, as CKA is defined. False is what the authors' code does. Its loss is −CKA, which
            differs from 1 − CKA by a constant.
        global_batch: with several ranks, the loss of the whole batch over all of them, with its exact gradient once
            gradients are averaged over ranks.

    Shapes: features (N, …) of any two sizes, each sample flattened to one row; logits (N, P) of one size; `mask` (N,)
    says which samples count. The teacher's features and logits receive no gradient.

    Returns:
        A scalar between 0 and the sum of the weights.

    Raises:
        GeodistillError: the logits are not two matrices of one size.

    Reference: arXiv 2401.11824, Rethinking centered kernel alignment in knowledge distillation.

    Example:
        loss = cross_entropy + RCKALoss()(student_maps, teacher_maps, student_logits, teacher_logits)
    """

    def __init__(
        self,
        *,
        features: NonNegativeFloat = 1.0,
        samples: NonNegativeFloat = 1.0,
        classes: NonNegativeFloat = 1.0,
        centered: bool = True,
        global_batch: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.samples = samples
        self.classes = classes
        self.centered = centered
        self.global_batch = global_batch
        self.misalignment = CKALoss(center=centered)

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
            raise GeodistillError(
                f"Logits {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)} cannot be compared by class.",
                "Give logits (samples, classes) of the same samples and classes.",
            )
        if mask is not None:
            kept = mask != 0
            student, teacher, student_logits, teacher_logits = (
                each[kept] for each in (student, teacher, student_logits, teacher_logits)
            )
        loss = student_logits.new_zeros(()).float()
        if self.features:
            loss = loss + self.features * self.misalignment(*self.whole(student.flatten(1), teacher.flatten(1)))
        if self.samples or self.classes:
            s, t = self.whole(student_logits, teacher_logits)
            if self.samples:
                loss = loss + self.samples * self.misalignment(s, t)
            if self.classes:
                loss = loss + self.classes * self.misalignment(s.mT, t.mT)
        return loss

    def whole(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of this process or, with `global_batch`, of all ranks: a batch has few of them, however wide."""
        if not self.global_batch or world_size() == 1:
            return student, teacher
        rows = gather_rows(*agree_on_rows(pair_rows(student, teacher)))
        return rows.student, rows.teacher.values

    def extra_repr(self) -> str:
        options = ("features", "samples", "classes", "centered", "global_batch")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
