"""The neural transformer: spike counts or field potentials of many sessions become one latent for each bin of time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from geodistill.errors import GeodistillError

COUNT_WIDTH = 8  # of the embedding of one neuron's count, before the neurons of a patch are joined
MODALITIES = ("spikes", "lfp")


class NeuralConfig(PretrainedConfig):
    """The config of a neural transformer.

    Args:
        modality: `spikes`, counts from 0 up, or `lfp`, numbers of about unit variance.
        sessions: name of each session → its number of channels. Different sessions have different channels.
        hidden_size: width of the transformer and of the latents.
        num_hidden_layers: blocks of the transformer.
        num_attention_heads: heads of each block.
        intermediate_size: width of the gated MLP of each block.
        patch_size: how many channels make a token.
        max_count: larger counts are embedded as this one; what is predicted is the count itself.
        lfp_embedding: `mlp`, of a bin alone, or `convolution`, which is causal over `kernel_size` bins.
        kernel_size: bins that the convolution reads.
        mask_ratio: the share of tokens that are hidden while the model trains on its reconstruction.
        mask_span: for how many bins in a row a patch is hidden.
        separate: each session has a separate transformer, and nothing is shared: many models in one.
        rope_theta: base of the rotary angles.

    Raises:
        GeodistillError: an unknown modality, no sessions, a session without channels, or heads that do not fit.

    Example:
        NeuralConfig(modality="lfp", sessions={"monday": 32, "tuesday": 24})
    """

    model_type = "geodistill_neural"

    modality: Literal["spikes", "lfp"] = "spikes"
    sessions: dict[str, int] | None = None
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 128
    patch_size: int = 8
    max_count: int = 5
    lfp_embedding: Literal["mlp", "convolution"] = "convolution"
    kernel_size: int = 5
    mask_ratio: float = 0.25
    mask_span: int = 4
    separate: bool = False
    rope_theta: float = 10000.0

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        self.sessions = dict(self.sessions or {"session": self.patch_size})
        if self.modality not in MODALITIES:
            raise GeodistillError(f"There is no modality '{self.modality}'.", "Choose spikes or lfp.")
        for name, channels in self.sessions.items():
            if channels < 1:
                raise GeodistillError(
                    f"The session '{name}' has no {self.modality} channels.", "Leave this session out of the data."
                )
        if self.hidden_size % (2 * self.num_attention_heads):
            raise GeodistillError(
                f"hidden_size {self.hidden_size} does not give {self.num_attention_heads} heads of even width.",
                "Choose a multiple of twice the number of heads.",
            )

    @property
    def patches(self) -> list[int]:
        """How many patches each session has."""
        return [-(-channels // self.patch_size) for channels in (self.sessions or {}).values()]


@dataclass
class NeuralOutput(ModelOutput):
    """What a neural transformer returns.

    loss: of the reconstruction, where labels are given
    last_hidden_state: (b, t, d), the latent of each bin
    logits: (b, t, c), the logarithm of the expected count, or the expected potential, of each channel
    hidden_states: the same as the latents after the embedding and after each block
    """

    loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class NeuralModel(PreTrainedModel):
    """A transformer over bins and patches of channels; its sessions differ in the embeddings of their patches alone.

    token(t, p) = embedding(values of patch p in bin t) + patch embedding(session, p)
    latent(t) = mean over p of RMSNorm(blocks(tokens)(t, p) − patch embedding(session, p))

    Blocks are pre-norm: attention over all tokens of a segment, rotated by the bins' places in time, then a gated MLP.
    While it trains on `labels`, some tokens are hidden, and the loss is taken over their values: the Poisson likelihood
    −(y log λ − λ) of counts, (y − ŷ)² of potentials. In eval mode nothing is hidden, and all values count.

    Bins that are not attended and values that are masked change nothing, whatever they hold.

    Args:
        config: a `NeuralConfig`.

    Raises:
        GeodistillError: the values have not three dimensions.

    Example:
        model = new_neural_model("lfp", {"monday": 16})
        model(torch.randn(2, 50, 16), session=torch.tensor([0, 0])).last_hidden_state  # (2, 50, 64)

    Reference: the architecture of arXiv 2512.12461, described in docs/neural.md.
    """

    config_class = NeuralConfig
    config: NeuralConfig
    main_input_name = "values"
    base_model_prefix = ""
    _no_split_modules = ["NeuralBlock"]  # noqa: RUF012  # as transformers declares it

    def __init__(self, config: NeuralConfig) -> None:
        super().__init__(config)
        self.patch_embedding = nn.Embedding(sum(config.patches), config.hidden_size)
        copies = len(config.patches) if config.separate else 1
        self.backbones = nn.ModuleList(NeuralBackbone(config) for _ in range(copies))
        self.post_init()

    def forward(
        self,
        values: Tensor,
        session: Tensor,
        value_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> NeuralOutput | tuple[Tensor, ...]:
        """Return the latents of segments.

        Args:
            values: (b, t, c) counts or potentials; sessions with fewer than c channels are padded.
            session: (b,) the number of each segment's session, in the order of `config.sessions`; or (b, t), the same
                in each bin and 0 in padding.
            value_mask: (b, t, c), which values are there; by default the values of the session's channels.
            attention_mask: (b, t), non-zero at bins that are there; all by default.
            labels: (b, t, c), what is reconstructed; as `values`, as a rule.
            output_hidden_states, return_dict: as in transformers.
        """
        session = session.amax(dim=1) if session.ndim == 2 else session
        present = self._present(values, session, value_mask, attention_mask)
        identity = self._identity(session, values.shape[2])
        hides = self.training and labels is not None
        hidden = self._draw_hidden(values, identity.shape[1]) if hides else None
        values = torch.where(present, values, torch.zeros((), dtype=values.dtype, device=values.device))
        states, logits = self._run(values, present, identity, session, hidden)

        loss = None
        if labels is not None:
            scored = present
            if hidden is not None:
                scored = present & hidden.repeat_interleave(self.config.patch_size, dim=2)[..., : values.shape[2]]
            loss = self._loss(logits, labels, scored)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = NeuralOutput(
            loss=loss,
            last_hidden_state=states[-1],
            logits=logits,
            hidden_states=tuple(states) if output_hidden_states else None,
        )
        if return_dict is None:
            return_dict = self.config.return_dict
        return output if return_dict else output.to_tuple()

    def rows_of(self, session: str) -> range:
        """The rows of `patch_embedding` that are a session's."""
        place = list(self.config.sessions or {}).index(session)
        start = sum(self.config.patches[:place])
        return range(start, start + self.config.patches[place])

    def backbone_of(self, session: str) -> nn.Module | None:
        """The transformer that is this session's alone; None where sessions share one."""
        return self.backbones[list(self.config.sessions or {}).index(session)] if self.config.separate else None

    def _run(
        self, values: Tensor, present: Tensor, identity: Tensor, session: Tensor, hidden: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """The latents of each layer, (b, t, d), and the predictions, (b, t, c)."""
        if not self.config.separate:
            return self.backbones[0](values, present, identity, hidden)
        layers = self.config.num_hidden_layers + 1
        shape = (*values.shape[:2], self.config.hidden_size)
        dtype = self.patch_embedding.weight.dtype
        states = [values.new_zeros(shape, dtype=dtype) for _ in range(layers)]
        logits = values.new_zeros(values.shape, dtype=dtype)
        for number in session.unique().tolist():
            (rows,) = torch.where(session == number)
            found, predicted = self.backbones[number](
                values[rows], present[rows], identity[rows], None if hidden is None else hidden[rows]
            )
            states = [whole.index_copy(0, rows, part.to(dtype)) for whole, part in zip(states, found, strict=True)]
            logits = logits.index_copy(0, rows, predicted.to(dtype))
        return states, logits

    def _loss(self, logits: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        logits = logits.float()
        target = torch.where(scored, labels, torch.zeros((), dtype=labels.dtype, device=labels.device)).float()
        if self.config.modality == "spikes":
            each = functional.poisson_nll_loss(logits, target, log_input=True, reduction="none")
        else:
            each = (logits - target).square()
        return torch.where(scored, each, 0.0).sum() / scored.sum().clamp(min=1)

    def _present(
        self, values: Tensor, session: Tensor, value_mask: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        if values.ndim != 3:
            raise GeodistillError(f"values has {values.ndim} dimensions.", "Give segments, (segments, bins, channels).")
        channels = torch.tensor(list((self.config.sessions or {}).values()), device=values.device)
        place = torch.arange(values.shape[2], device=values.device)
        present = (place < channels[session].unsqueeze(1)).unsqueeze(1).expand_as(values)
        if value_mask is not None:
            present = present & (value_mask != 0)
        return present if attention_mask is None else present & (attention_mask != 0).unsqueeze(2)

    def _identity(self, session: Tensor, channels: int) -> Tensor:
        """The embedding of each patch, (b, p, d); zeros for patches that the session does not have."""
        counts = torch.tensor(self.config.patches, device=session.device)
        starts = counts.cumsum(0) - counts
        place = torch.arange(-(-channels // self.config.patch_size), device=session.device)
        there = place < counts[session].unsqueeze(1)
        rows = torch.where(there, starts[session].unsqueeze(1) + place, 0)
        return self.patch_embedding(rows) * there.unsqueeze(2)

    def _draw_hidden(self, values: Tensor, patches: int) -> Tensor:
        """Which tokens (b, t, p) are hidden: spans of bins, drawn from torch's generator."""
        span = self.config.mask_span
        drawn = torch.rand(len(values), -(-values.shape[1] // span), patches, device=values.device)
        return (drawn < self.config.mask_ratio).repeat_interleave(span, dim=1)[:, : values.shape[1]]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d):
            init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.3 if module is getattr(self, "patch_embedding", None) else 1.0)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, NeuralBackbone):
            init.normal_(module.hidden_token, std=0.05)


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


def with_sessions(model: NeuralModel, sessions: Mapping[str, int]) -> NeuralModel:
    """Return a copy of a model that knows more sessions, whose patch embeddings begin at the mean of all others.

    Args:
        model: the model; it stays unchanged.
        sessions: name of each new session → its number of channels. Sessions that the model knows stay unchanged.

    Returns:
        The copy, on the same device and in the same mode.

    Raises:
        GeodistillError: a known session has another number of channels.

    Example:
        with_sessions(model, {"monday": 32}).rows_of("monday")
    """
    known = dict(model.config.sessions or {})
    for name, channels in sessions.items():
        if known.setdefault(name, channels) != channels:
            raise GeodistillError(
                f"The session '{name}' has {channels} channels, and the model knows it with {known[name]}.",
                "Give sessions of other recordings other names.",
            )
    config = copy.deepcopy(model.config)
    config.sessions = known
    wider = NeuralModel(config)
    rows = model.patch_embedding.weight
    state = {name: value for name, value in model.state_dict().items() if name != "patch_embedding.weight"}
    table = rows.mean(dim=0, keepdim=True).repeat(sum(config.patches), 1)
    table[: len(rows)] = rows
    wider.load_state_dict({**state, "patch_embedding.weight": table.detach()}, strict=not config.separate)
    wider.to(device=rows.device, dtype=rows.dtype)  # type: ignore[call-arg]  # transformers wraps it
    return wider.train(model.training)


def new_neural_model(name: str, sessions: Mapping[str, int], **settings: Any) -> NeuralModel:
    """Return a neural transformer with random weights, by the name that a recipe has for it.

    Args:
        name: one of `NEURAL_NAMES`: spikes, lfp, lfp-mlp, lfp-separate.
        sessions: name of each session → its number of channels.
        **settings: other entries of `NeuralConfig`.

    Returns:
        The model.

    Raises:
        GeodistillError: no model has the name.

    Example:
        model = new_neural_model("lfp", {"monday": 16, "tuesday": 12})
    """
    if name not in NEURAL_NAMES:
        raise GeodistillError(
            f"No neural model is named '{name}'.", f"Choose one of {', '.join(NEURAL_NAMES)}, after 'new:'."
        )
    return NeuralModel(NeuralConfig(sessions=dict(sessions), **{**NEURAL_NAMES[name], **settings}))


NEURAL_NAMES: dict[str, dict[str, Any]] = {
    "spikes": {"modality": "spikes"},
    "lfp": {"modality": "lfp"},
    "lfp-mlp": {"modality": "lfp", "lfp_embedding": "mlp"},
    "lfp-separate": {"modality": "lfp", "separate": True},
}
"""The settings of each neural model by the name that follows `new:` in a recipe."""


def names_of(sessions: Sequence[str], config: NeuralConfig) -> list[int]:
    """Return the number of each session in a config.

    Raises:
        GeodistillError: the model does not know a session.
    """
    known = list(config.sessions or {})
    unknown = [name for name in sessions if name not in known]
    if unknown:
        raise GeodistillError(
            f"The model does not know the session '{unknown[0]}'.",
            "Add it with geodistill.models.with_sessions, and adapt its patch embeddings.",
        )
    return [known.index(name) for name in sessions]
