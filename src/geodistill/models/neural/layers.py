"""The layers of a neural transformer, from values to latents and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from geodistill.models.neural.config import NeuralConfig

COUNT_WIDTH = 8  # of the embedding of one neuron's count, before the neurons of a patch are joined


class NeuralBackbone(nn.Module):
    """From values to latents: an embedding of patches, blocks, and a head that all patches share."""

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        width = config.hidden_size
        self.embedding = SpikeEmbedding(config) if config.modality == "spikes" else FieldEmbedding(config)
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(NeuralBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = NeuralHead(config)
        head = width // config.num_attention_heads
        # Kept as a list: a buffer that is not saved is lost if a model is made without memory and filled later.
        self.frequencies = [config.rope_theta ** (-each / head) for each in range(0, head, 2)]

    def forward(
        self, values: Tensor, present: Tensor, identity: Tensor, hidden: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        bins, channels = values.shape[1:]
        values, present = (self._patched(each) for each in (values, present))  # (b, t, p, c)
        tokens = self.embedding(values, present)
        if hidden is not None:
            tokens = torch.where(hidden.unsqueeze(3), self.hidden_token.to(tokens.dtype), tokens)
        own = identity.unsqueeze(1).expand_as(tokens).flatten(1, 2)
        tokens = tokens.flatten(1, 2) + own
        there = present.any(dim=3).flatten(1, 2)
        attended = there | ~there.any(dim=1, keepdim=True)  # a segment of nothing attends to something, and is zero
        rotation = self._rotation(bins, identity.shape[1], tokens)
        # Without what tells patches apart, which would tell of the session in each of its latents.
        states = [self._latents(tokens - own, there, bins)]
        for block in self.blocks:
            tokens = block(tokens, attended[:, None, None, :], rotation)
            states.append(self._latents(tokens - own, there, bins))
        states[-1] = self._latents(self.norm(tokens - own), there, bins)
        return states, self.head(states[-1], identity)[..., :channels]

    def _patched(self, values: Tensor) -> Tensor:
        padded = functional.pad(values, (0, -values.shape[2] % self.patch_size))
        return padded.unflatten(2, (-1, self.patch_size))

    def _latents(self, tokens: Tensor, there: Tensor, bins: int) -> Tensor:
        kept = torch.where(there.unsqueeze(2), tokens, torch.zeros((), dtype=tokens.dtype, device=tokens.device))
        counts = there.view(len(there), bins, -1).sum(dim=2, keepdim=True).clamp(min=1)
        return kept.view(len(tokens), bins, -1, tokens.shape[2]).sum(dim=2) / counts

    def _rotation(self, bins: int, patches: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = torch.tensor(self.frequencies, device=tokens.device)
        angles = torch.outer(torch.arange(bins, device=tokens.device), frequencies).repeat_interleave(patches, dim=0)
        return angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)


class SpikeEmbedding(nn.Module):
    """A patch of counts as one vector: each count by a table from 0 to `max_count`, joined and mapped."""

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__()
        self.most = config.max_count
        self.counts = nn.Embedding(config.max_count + 1, COUNT_WIDTH)
        self.join = nn.Linear(config.patch_size * COUNT_WIDTH, config.hidden_size)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        embedded = self.counts(values.round().clamp(0, self.most).long()) * present.unsqueeze(-1)
        return self.join(embedded.flatten(3))


class FieldEmbedding(nn.Module):
    """A patch of potentials as one vector: an MLP of its bin, or of the bins up to it by a causal convolution.

    Both read which values are there beside the values.
    """

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__()
        self.kernel = config.kernel_size if config.lfp_embedding == "convolution" else 1
        self.first = nn.Conv1d(2 * config.patch_size, config.intermediate_size, self.kernel)
        self.second = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        batch, bins, patches, _ = values.shape
        read = torch.cat([values, present.to(values.dtype)], dim=3).permute(0, 2, 3, 1).flatten(0, 1)  # (b p, 2c, t)
        mapped = self.first(functional.pad(read, (self.kernel - 1, 0)))
        embedded = self.second(functional.silu(mapped.mT))
        return embedded.view(batch, patches, bins, -1).transpose(1, 2)


class NeuralHead(nn.Module):
    """From a bin's latent z to the values of the patch with embedding e: W [(A z) ⊙ (B e); e].

    The latent is all that a patch is told of its bin, so it has to hold what the channels share. Expected potentials,
    and logarithms of expected counts, are linear in it.
    """

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.latent, self.identity = nn.Linear(width, width), nn.Linear(width, width)
        self.output = nn.Linear(2 * width, config.patch_size)

    def forward(self, latents: Tensor, identity: Tensor) -> Tensor:
        told = self.latent(latents).unsqueeze(2) * self.identity(identity).unsqueeze(1)  # (b, t, p, d)
        return self.output(torch.cat([told, identity.unsqueeze(1).expand_as(told)], dim=3)).flatten(2)


class NeuralBlock(nn.Module):
    """x + attention(RMSNorm(x)), then x + down(silu(gate(n)) · up(n)) with n = RMSNorm(x)."""

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, config.intermediate_size, bias=False)
        self.up = nn.Linear(width, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, tokens: Tensor, attended: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        parts = self.query_key_value(self.attention_norm(tokens)).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(
            rotate(query, *rotation), rotate(key, *rotation), value, attn_mask=attended
        )
        tokens = tokens + self.output(mixed.transpose(1, 2).flatten(2))
        normed = self.mlp_norm(tokens)
        return tokens + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair (i, i + w/2) of a head's numbers (b, h, n, w) by the angle of its place, (n, w/2)."""
    first, second = heads.chunk(2, dim=3)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=3)
