"""A teacher's logits cut to the k largest of each row, with the mass of all the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.losses.row_chunks import chunk_rows


@dataclass(frozen=True)
class TopKLogits:
    """The k likeliest tokens of each row at temperature T, and the rest as one bucket.

    A divergence against a student treats the rest of the student's vocabulary as one bucket too. By the data-processing
    inequality it is at most the divergence of all logits, and it is the same if k is the whole vocabulary. The mass of
    the rest depends on T, so these logits serve one temperature. Make them by `TopKLogits.of(logits, k, temperature)`.

    Args:
        values: (…, k), log-probabilities of softmax(logits / T).
        indices: (…, k), which tokens these are.
        tail_log_mass: (…), the log of the probability of all other tokens together, −∞ if there are none.
        temperature: T.

    Raises:
        GeodistillError: `of` is asked for more logits than there are, or for none.

    Example:
        loss = LogitLoss(2.0)(student_logits, TopKLogits.of(teacher_logits, 64, 2.0))
    """

    values: Tensor
    indices: Tensor
    tail_log_mass: Tensor
    temperature: float

    @classmethod
    @torch.no_grad()
    def of(cls, logits: Tensor, k: int, temperature: float) -> TopKLogits:
        """Cut logits to their k largest, in float32 (float64 for float64 logits).

        Args:
            logits: (…, V).
            k: from 1 to V.
            temperature: T of the loss that will read them.

        Returns:
            The k largest logits of each row, without gradient.

        Raises:
            GeodistillError: k is out of range.
        """
        if not 1 <= k <= logits.shape[-1]:
            raise GeodistillError(
                f"The {k} largest of {logits.shape[-1]} logits were asked for.",
                f"Ask for a number from 1 to {logits.shape[-1]}.",
            )
        flat = logits.flatten(0, -2)
        parts = [_cut(rows, k, temperature) for rows in flat.split(chunk_rows(flat.shape[-1], flat.device))]
        values, indices, tail = (torch.cat(part) for part in zip(*parts, strict=True))
        shape = logits.shape[:-1]
        return cls(values.view(*shape, k), indices.view(*shape, k), tail.view(shape), temperature)

    @property
    def k(self) -> int:
        return self.values.shape[-1]

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Values (n, k), indices (n, k) and tail mass (n,), the leading dimensions made one."""
        return self.values.flatten(0, -2), self.indices.flatten(0, -2), self.tail_log_mass.flatten()

    def check_temperature(self, temperature: float) -> None:
        if temperature != self.temperature:
            raise GeodistillError(
                f"The teacher's logits were cut to their {self.k} largest at temperature {self.temperature:g}, "
                f"and the loss is at temperature {temperature:g}.",
                "Give both the same temperature, or keep all logits (teacher.cache_top_k=null).",
            )

    def pack(self) -> Tensor:
        """All of it as one tensor (…, 2k + 1): values, tail mass, indices, which float32 holds exactly below 2²⁴."""
        return torch.cat([self.values, self.tail_log_mass.unsqueeze(-1), self.indices.to(self.values.dtype)], dim=-1)

    @classmethod
    def unpack(cls, packed: Tensor, temperature: float) -> TopKLogits:
        k = packed.shape[-1] // 2
        return cls(packed[..., :k], packed[..., k + 1 :].long(), packed[..., k], temperature)


def _cut(logits: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    softened = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    whole = softened.logsumexp(-1, keepdim=True)
    values, indices = softened.topk(k, dim=-1)
    # Of the rest itself: as one minus the others it would be lost to rounding if it is small.
    tail = softened.scatter(-1, indices, -torch.inf).logsumexp(-1)
    return values - whole, indices, tail - whole.squeeze(-1)
