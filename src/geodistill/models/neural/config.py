"""The config of a neural transformer."""

from __future__ import annotations

from typing import Literal

from transformers import PretrainedConfig

from geodistill.errors import GeodistillError

MODALITIES = ("spikes", "lfp")


class NeuralConfig(PretrainedConfig):
    """The config of a neural transformer.

    Args:
        modality: `spikes`, counts from 0 up, or `lfp`, numbers of about unit variance.
        sessions: name of each session → its number of channels. Different sessions have different channels.
        session_order: the names in the order that the weights have them; by default as in `sessions`. It is written
            beside them, because a saved config sorts its keys.
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
    session_order: list[str] | None = None

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        sessions = dict(self.sessions or {"session": self.patch_size})
        self.sessions = {name: sessions[name] for name in [*(self.session_order or ()), *sessions] if name in sessions}
        self.session_order = list(self.sessions)
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
