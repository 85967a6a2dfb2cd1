"""How far the student's distribution q over classes or tokens is from the teacher's p: formulas on log-probabilities.

Each function takes log q and log p (…, n) and returns the divergence (…), in nats, and its slope (…, n): the derivative
by each log q, as though these were free. The slope is written out because automatic differentiation of the formulas is
not finite if a probability is zero, and keeps more of the size of the vocabulary alive than the formulas need.

All but total variation are of second order where p and q meet: c · ½ Σ (p − q)² / p, with c = 1 for both KL, (1 − w)²
when skewed by w, and β (1 − β) for Jensen–Shannon, which says how weights compare from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from geodistill.errors import GeodistillError, suggest

Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_kl(student_log: Tensor, teacher_log: Tensor, skew: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(p ‖ w p + (1 − w) q): at least 0, at most −log w; infinite at w = 0 if the student rules out what p allows.

    Reference: Hinton et al. (2015), section 2, for w = 0; Ko et al. (2024), DistiLLM, section 3.1, for the skew w.
    """
    teacher = teacher_log.exp()
    gap, share = _against_mixture(teacher_log, student_log, skew)
    return (teacher * gap).sum(-1), -teacher * share


def reverse_kl(student_log: Tensor, teacher_log: Tensor, skew: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(q ‖ w q + (1 − w) p): at least 0, at most −log w; infinite at w = 0 if the teacher rules out what q allows.

    Reference: Gu et al. (2024), MiniLLM, section 2, for w = 0; Ko et al. (2024), DistiLLM, section 3.1, for the skew w.
    """
    student = student_log.exp()
    gap, share = _against_mixture(student_log, teacher_log, skew)
    return (student * gap).sum(-1), student * (gap + share)


def jensen_shannon(student_log: Tensor, teacher_log: Tensor, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    """β KL(p ‖ m) + (1 − β) KL(q ‖ m) with m = β p + (1 − β) q: between 0 and the entropy of (β, 1 − β).

    Symmetric at β = ½. Divided by β it tends to the forward KL as β → 0, and divided by 1 − β to the reverse as β → 1.

    Reference: Agarwal et al. (2024), On-Policy Distillation of Language Models (GKD), equation 1.
    """
    forward, forward_slope = forward_kl(student_log, teacher_log, skew=beta)
    reverse, reverse_slope = reverse_kl(student_log, teacher_log, skew=1 - beta)
    return beta * forward + (1 - beta) * reverse, beta * forward_slope + (1 - beta) * reverse_slope


def total_variation(student_log: Tensor, teacher_log: Tensor) -> tuple[Tensor, Tensor]:
    """½ Σ |p − q|, between 0 and 1. It is of first order if p is near q, and has no gradient if they are equal.

    Reference: Wen et al. (2023), f-Divergence Minimization for Sequence-Level Knowledge Distillation.
    """
    student = student_log.exp()
    difference = student - teacher_log.exp()
    return difference.abs().sum(-1) / 2, student * difference.sign() / 2


@dataclass(frozen=True)
class DivergenceKind:
    """A divergence by its name in a recipe.

    function: of log q and log p, as in this module, and of the parameter by its name, if there is one.
    formula: with p the teacher's distribution and q the student's; a cell of the table in docs/losses.md.
    parameter: the key of the logit term that it reads.
    """

    function: Callable[..., tuple[Tensor, Tensor]]
    formula: str
    parameter: Literal["beta", "skew"] | None = None


DIVERGENCES: dict[str, DivergenceKind] = {
    "forward_kl": DivergenceKind(forward_kl, "KL(p ‖ q)"),
    "reverse_kl": DivergenceKind(reverse_kl, "KL(q ‖ p)"),
    "jensen_shannon": DivergenceKind(
        jensen_shannon, "β KL(p ‖ m) + (1 − β) KL(q ‖ m), m = βp + (1 − β)q", parameter="beta"
    ),
    "skewed_forward_kl": DivergenceKind(forward_kl, "KL(p ‖ wp + (1 − w)q)", parameter="skew"),
    "skewed_reverse_kl": DivergenceKind(reverse_kl, "KL(q ‖ wq + (1 − w)p)", parameter="skew"),
    "total_variation": DivergenceKind(total_variation, r"½ Σ \|p − q\|"),
}
"""Every divergence between distributions, by its name in a recipe. A new one is a function and a row here."""


def choose_divergence(name: str, *, beta: float = 0.5, skew: float = 0.1) -> Divergence:
    """Return the divergence of this name with its parameter bound.

    Raises GeodistillError for an unknown name, β outside (0, 1) or a skew outside [0, 1).
    """
    if not 0 < beta < 1:
        raise GeodistillError(
            f"The beta of a Jensen–Shannon divergence is {beta}.",
            "Give one between 0 and 1; its ends are forward_kl and reverse_kl.",
        )
    if not 0 <= skew < 1:
        raise GeodistillError(f"The skew of a divergence is {skew}.", "Give one from 0 to below 1, such as 0.1.")
    if name not in DIVERGENCES:
        raise GeodistillError(f"Unknown divergence '{name}'.", suggest(name, DIVERGENCES))
    kind = DIVERGENCES[name]
    given = {"beta": beta, "skew": skew}
    return partial(kind.function, **{kind.parameter: given[kind.parameter]}) if kind.parameter else kind.function


def _against_mixture(one_log: Tensor, other_log: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """log(x / m) for m = w x + (1 − w) y, and y's share of m, (1 − w) y / m; zero and 1 − w where x is negligible."""
    one = one_log.exp()
    # What x multiplies may be anything there, infinity included, and 0 · ∞ is no number.
    negligible = one < torch.finfo(one.dtype).tiny
    if weight == 0:
        return (one_log - other_log).masked_fill_(negligible, 0), torch.ones_like(one)
    # As a ratio, since m itself would be rounded to zero before x is.
    ratio = (1 - weight) * (other_log.exp() / one).masked_fill_(negligible, 1)
    mixture = weight + ratio
    return -mixture.log(), ratio / mixture
