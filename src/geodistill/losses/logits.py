"""The logit term of knowledge distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LogitLoss(nn.Module):
    """Match the teacher's softened class probabilities.

    T² · KL(p_T ‖ p_S), p = softmax(logits / T), averaged over examples; with a single output, which is a regression,
    the mean squared error of the outputs, where T plays no part.

    Args: `temperature` T > 0. The factor T² keeps the gradient's size independent of T.
    Input: student and teacher logits (…, classes); the teacher's receive no gradient. Output: a scalar ≥ 0, in nats,
    float32 (float64 for float64 logits of the student), whatever autocast says.

    Reference: Hinton, Vinyals, Dean (2015), Distilling the Knowledge in a Neural Network, section 2.1.

        loss = LogitLoss(temperature=2.0)(student_logits, teacher_logits)
    """

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        dtype = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        if student.shape[-1] == 1:
            return functional.mse_loss(student, teacher)
        with torch.autocast(student.device.type, enabled=False):
            student_log = functional.log_softmax(student / self.temperature, dim=-1).flatten(0, -2)
            teacher_log = functional.log_softmax(teacher / self.temperature, dim=-1).flatten(0, -2)
            divergence = functional.kl_div(student_log, teacher_log, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"
