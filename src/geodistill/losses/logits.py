"""The logit term of knowledge distillation: a divergence between the two softened distributions."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodistill.errors import GeodistillError, suggest
from geodistill.losses.divergences import choose_divergence
from geodistill.losses.row_chunks import MeanDivergence
from geodistill.losses.top_k import TopKLogits

# What the outputs of a head mean, by the names that a transformers config has for it (`problem_type`).
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)


class LogitLoss(nn.Module):
    """Match the teacher's softened distribution over classes or tokens.

    T² · D(p_T, p_S), p = softmax(logits / T), averaged over the rows that count. `problem_type` says what the outputs
    mean, as in a transformers config:

    - `"single_label_classification"`: one distribution over all outputs, as above. This also suits tokens. A single
      output has nothing to choose from, and counts as a regression.
    - `"multi_label_classification"`: each output l is a separate yes or no, p_l = sigmoid(logit_l / T). The loss is
      T² · (1/L) Σ_l D([p_T,l, 1 − p_T,l], [p_S,l, 1 − p_S,l]), the mean over the L labels. The label loss of
      transformers, `BCEWithLogitsLoss`, is also a mean over labels, so both terms have the same scale.
    - `"regression"`: the mean squared error over rows and outputs. T and D play no part.

    D is one of

    - `"forward_kl"`: KL(p_T ‖ p_S). The student must cover all that the teacher finds likely.
    - `"reverse_kl"`: KL(p_S ‖ p_T). Mode-seeking: the student must leave out what the teacher finds unlikely.
    - `"jensen_shannon"`: β KL(p_T ‖ m) + (1 − β) KL(p_S ‖ m), m = β p_T + (1 − β) p_S. Between the two.
    - `"skewed_forward_kl"`: KL(p_T ‖ w p_T + (1 − w) p_S), and `"skewed_reverse_kl"`: KL(p_S ‖ w p_S + (1 − w) p_T).
      Bounded by −log w, so that one unlikely token cannot rule the gradient.
    - `"total_variation"`: ½ Σ |p_T − p_S|.

    Args:
        temperature: T > 0. The factor T² keeps the size of the gradient independent of T, except for total variation,
            which is of first order and is therefore mostly used at T = 1.
        divergence: D, by keyword, as are the others.
        beta: β in (0, 1) of Jensen–Shannon.
        skew: w in [0, 1) of the skewed divergences.
        problem_type: what the outputs mean.

    Called with student and teacher logits (…, classes), or the teacher's as `TopKLogits` (…). The teacher's receive no
    gradient. `mask` (…) is non-zero if a row counts. Other rows may hold anything, NaN included, and get no gradient.
    A logit of −∞ rules a token out: if only the student's does, forward KL is infinite, and if only the teacher's
    does, reverse KL is. Memory beyond the inputs and the student's gradient does not grow with rows × classes.

    Returns:
        A scalar ≥ 0, in nats, float32 (float64 for float64 logits of the student), whatever autocast says; a zero that
        can be differentiated if no row counts.

    Raises:
        GeodistillError: an unknown divergence or problem type, a parameter out of range, shapes that do not fit, and
            `TopKLogits` of another temperature or of outputs that are no single distribution.

    Example:
        loss = LogitLoss(temperature=2.0)(student_logits, teacher_logits)

    Reference: Hinton, Vinyals, Dean (2015), Distilling the Knowledge in a Neural Network, section 2.1; for the other
    divergences see `geodistill.losses.divergences`.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        *,
        divergence: str = "forward_kl",
        beta: float = 0.5,
        skew: float = 0.1,
        problem_type: ProblemType = "single_label_classification",
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise GeodistillError(f"The temperature is {temperature}.", "Give one above zero.")
        if problem_type not in PROBLEM_TYPES:
            raise GeodistillError(f"Unknown problem type '{problem_type}'.", suggest(problem_type, PROBLEM_TYPES))
        self.temperature = temperature
        self.divergence = divergence
        self.beta = beta
        self.skew = skew
        self.problem_type = problem_type
        self._formula = choose_divergence(divergence, beta=beta, skew=skew)

    def forward(self, student: Tensor, teacher: Tensor | TopKLogits, mask: Tensor | None = None) -> Tensor:
        check_shapes(student, teacher, mask)
        if isinstance(teacher, TopKLogits) and self.problem_type != "single_label_classification":
            raise GeodistillError(
                "The largest logits and the mass of the rest describe one distribution over all outputs, and the "
                f"outputs of a {self.problem_type} are none.",
                "Keep all logits (teacher.cache_top_k=null).",
            )
        # Which rows count is read once, which blocks until the accelerator has finished: the others then cost nothing.
        rows = None if mask is None else mask.to(student.device).flatten().nonzero().squeeze(1)
        logits = student.flatten(0, -2)
        if isinstance(teacher, TopKLogits):
            teacher.check_temperature(self.temperature)
            return MeanDivergence.apply(logits, rows, self._formula, self.temperature, *teacher.rows())
        targets = teacher.detach().flatten(0, -2)
        if self.problem_type == "multi_label_classification":
            kept = slice(None) if rows is None else rows
            logits, targets, rows = yes_or_no(logits[kept]), yes_or_no(targets[kept]), None
        elif self.problem_type == "regression" or student.shape[-1] == 1:
            return mean_squared_error(logits, targets, rows)
        return MeanDivergence.apply(logits, rows, self._formula, self.temperature, targets)

    def extra_repr(self) -> str:
        options = ("temperature", "divergence", "beta", "skew", "problem_type")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)


def yes_or_no(logits: Tensor) -> Tensor:
    """Logits (n, L) of L labels as logits of two classes each, (n · L, 2).

    The softmax of [z/T, 0] is [sigmoid(z/T), sigmoid(−z/T)], so every divergence between two softmax distributions is
    the exact one between two Bernoulli distributions.
    """
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1).flatten(0, -2)


def mean_squared_error(student: Tensor, teacher: Tensor, rows: Tensor | None) -> Tensor:
    """The mean over all rows (n, d), or over those named, of (student − teacher)²; zero when there is none."""
    if rows is not None:
        student, teacher = student[rows], teacher[rows]
    dtype = torch.promote_types(student.dtype, torch.float32)
    return functional.mse_loss(student.to(dtype), teacher.to(dtype), reduction="sum") / max(1, student.numel())


def check_shapes(student: Tensor, teacher: Tensor | TopKLogits, mask: Tensor | None) -> None:
    """Refuse logits of other examples or of another vocabulary, and a mask of other rows."""
    found = teacher.values.shape[:-1] if isinstance(teacher, TopKLogits) else teacher.shape
    wanted = student.shape[:-1] if isinstance(teacher, TopKLogits) else student.shape
    if student.ndim < 2 or found != wanted:
        raise GeodistillError(
            f"The student's logits have shape {tuple(student.shape)}, and the teacher's {tuple(found)}.",
            "Give both models the same inputs and the same classes or vocabulary, (…, classes).",
        )
    if mask is not None and mask.shape != student.shape[:-1]:
        raise GeodistillError(
            f"The mask of the logits has shape {tuple(mask.shape)}, and the logits {tuple(student.shape)}.",
            f"Give a mask of shape {tuple(student.shape[:-1])}, one entry a row.",
        )
