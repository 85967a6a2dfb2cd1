"""Losses that pull a student's features into the shape of its teacher's: one module each, and one dict of them all.

A new loss is one file in this folder and one row of `LOSSES`. The names and options of a recipe, `make_loss`, the table
in docs/losses.md and the tests that every loss has to pass read that dict.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from geodistill.applies import Rule
from geodistill.losses.accumulation import AccumulatedLoss
from geodistill.losses.base import FeatureLoss, MapLoss
from geodistill.losses.cka import CKALoss
from geodistill.losses.cosine import CosineLoss
from geodistill.losses.gram import GramLoss
from geodistill.losses.mse import MSELoss
from geodistill.losses.pcka import PCKALoss
from geodistill.losses.procrustes import ProcrustesLoss
from geodistill.losses.projection import ProjectionLoss
from geodistill.losses.rcka import RCKALoss


@dataclass(frozen=True)
class LossKind:
    """What a recipe, an objective and the documentation have to know of a loss: a row of `LOSSES`.

    Args:
        loss: the class. The keyword-only parameters of its constructor are the options of the loss in a recipe.
        formula: what it computes, in one line; a part of the docstring of the class, and a cell of the table in the
            docs.
        rows: the kind of rows that it compares if the recipe names none.
        only: the kinds of rows that it takes; none named: every kind but the kinds in `never`.
        never: the kinds of rows that it does not take.
        reads_widths: its constructor takes the width, or the number of channels, of student and teacher, in this order.
        reads_logits: it is called with (student, teacher, student_logits, teacher_logits).
        rules: options that would change nothing under some condition, which are refused then.

    Example:
        LOSSES["gram"] = LossKind(GramLoss, "‖SSᵀ − TTᵀ‖_F²")
    """

    loss: type[nn.Module]
    formula: str
    rows: str = "tokens"
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ("map",)
    reads_widths: bool = False
    reads_logits: bool = False
    rules: tuple[Rule, ...] = ()

    def takes(self, rows: str) -> bool:
        """Whether the loss compares rows of this kind."""
        return rows in self.only if self.only else rows not in self.never

    def adds_up(self, rows: str) -> bool:
        """Whether micro-batches of these rows add up to a whole, by second moments of d × d.

        Maps have no such moments, and neither have logits that are compared sample by sample. The moments of `samples`
        would be as large as the maps squared.
        """
        return not self.reads_logits and rows not in ("samples", "map")


LOSSES: dict[str, LossKind] = {
    "procrustes": LossKind(ProcrustesLoss, "‖S‖_F² + ‖T‖_F² − 2‖SᵀT‖∗"),
    "gram": LossKind(GramLoss, "‖SSᵀ − TTᵀ‖_F² = ‖SᵀS‖_F² + ‖TᵀT‖_F² − 2‖SᵀT‖_F²"),
    "cka": LossKind(
        CKALoss,
        "1 − ‖SᵀT‖_F² / (‖SᵀS‖_F ‖TᵀT‖_F)",
        rules=(
            Rule(
                ("normalize",),
                lambda term: term.normalize == "rows",
                "Leave it out, or set it to rows: CKA does not depend on scale.",
            ),
        ),
    ),
    "mse": LossKind(MSELoss, "‖S − T‖_F² / (n d_t)", never=("map", "samples"), reads_widths=True),
    "cosine": LossKind(
        CosineLoss, "1 − (1/n) Σ_i ⟨s_i, t_i⟩ / (‖s_i‖ ‖t_i‖)", never=("map", "samples"), reads_widths=True
    ),
    # A learned map of flattened maps has channels × height × width columns and rows.
    "projection": LossKind(ProjectionLoss, "‖SW + b − T‖_F²", never=("map", "samples"), reads_widths=True),
    "rcka": LossKind(
        RCKALoss,
        "w_f (1 − CKA(S, T)) + w_s (1 − CKA(Z_S, Z_T)) + w_c (1 − CKA(Z_Sᵀ, Z_Tᵀ))",
        rows="samples",
        only=("samples", "pooled", "cls", "mean", "last"),
        reads_logits=True,
    ),
    "pcka": LossKind(
        PCKALoss,
        "(1/C) Σ_c (1 − ⟨K_c, L_c⟩_F / (‖K_c‖_F ‖L_c‖_F))",
        rows="map",
        only=("map",),
        reads_widths=True,
    ),
}
"""Every loss between features, by its name in a recipe."""

__all__ = [
    "LOSSES",
    "AccumulatedLoss",
    "CKALoss",
    "CosineLoss",
    "FeatureLoss",
    "GramLoss",
    "LossKind",
    "MSELoss",
    "MapLoss",
    "PCKALoss",
    "ProcrustesLoss",
    "ProjectionLoss",
    "RCKALoss",
]
