"""The neural transformer: spike counts or field potentials of many sessions become one latent for each bin of time."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from geodistill.errors import GeodistillError
from geodistill.models.neural.config import NeuralConfig
from geodistill.models.neural.layers import NeuralBackbone


@dataclass
class NeuralOutput(ModelOutput):
    """What a neural transformer returns.

    loss: of the reconstruction, if labels are given
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
        """The transformer that is this session's alone; None if sessions share one."""
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
    config.sessions, config.session_order = known, list(known)
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
