"""Relation-centred kernel alignment: features and logits of one batch, compared by CKA in three ways."""

from __future__ import annotations

from torch import Tensor, nn

from geodistill.errors import GeodistillError
from geodistill.losses.cka import CKALoss


class RCKALoss(nn.Module):
    """The distillation part of RCKA; the cross-entropy with the labels is the trainer's to add.

    w_f (1 − CKA of the features) + w_s (1 − CKA of the logits) + w_c (1 − CKA of the transposed logits).

    The first two compare samples, through N × N Gram matrices (FCKA and intra-LCKA); the third compares classes,
    through P × P ones (inter-LCKA). Every CKA is centred and of this process's batch.

    Args, all by keyword: the weights `features` w_f, `samples` w_s, `classes` w_c; a weight of 0 leaves a term out.
    Called with feature maps (N, …), flattened to one row a sample, of any two sizes, and logits (N, P) of one size. The
    teacher's receive no gradient. Returns a scalar between 0 and the sum of the weights.
    Raises GeodistillError when the logits are not two matrices of one size.

    Reference: arXiv 2401.11824, Rethinking centered kernel alignment in knowledge distillation.

        loss = cross_entropy + RCKALoss()(student_maps, teacher_maps, student_logits, teacher_logits)
    """

    def __init__(self, *, features: float = 1.0, samples: float = 1.0, classes: float = 1.0) -> None:
        super().__init__()
        self.features = features
        self.samples = samples
        self.classes = classes
        self.misalignment = CKALoss()

    def forward(self, student: Tensor, teacher: Tensor, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
            raise GeodistillError(
                f"Logits {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)} cannot be compared by class.",
                "Give logits (samples, classes) of the same samples and classes.",
            )
        pairs = [
            (self.features, student.flatten(1), teacher.flatten(1)),
            (self.samples, student_logits, teacher_logits),
            (self.classes, student_logits.mT, teacher_logits.mT),
        ]
        return sum(
            (weight * self.misalignment(s, t) for weight, s, t in pairs if weight), student_logits.new_zeros(()).float()
        )

    def extra_repr(self) -> str:
        return f"features={self.features}, samples={self.samples}, classes={self.classes}"
