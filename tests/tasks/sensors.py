"""A model of series for tests: it reads `input_values` (b, t, channels), and leaves padding out by the mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class SensorConfig(PretrainedConfig):
    model_type = "geodistill-test-sensor"

    def __init__(self, channels: int = 3, hidden_size: int = 8, num_hidden_layers: int = 1, **rest: Any) -> None:
        super().__init__(**rest)
        self.channels, self.hidden_size, self.num_hidden_layers = channels, hidden_size, num_hidden_layers


class SensorModel(PreTrainedModel):
    """Layers of attention over the time bins that there are."""

    config_class = SensorConfig
    main_input_name = "input_values"
    base_model_prefix = "sensor"

    def __init__(self, config: SensorConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.channels, config.hidden_size)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(config.hidden_size, 2, 2 * config.hidden_size, dropout=0.0, batch_first=True)
            for _ in range(config.num_hidden_layers)
        )
        self.post_init()

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool = False, **_: Any
    ) -> BaseModelOutput:
        hidden = [self.embed(input_values)]
        padding = None if attention_mask is None else attention_mask == 0
        for layer in self.layers:
            hidden.append(layer(hidden[-1], src_key_padding_mask=padding))
        return BaseModelOutput(last_hidden_state=hidden[-1], hidden_states=tuple(hidden))


AutoConfig.register(SensorConfig.model_type, SensorConfig, exist_ok=True)
AutoModel.register(SensorConfig, SensorModel, exist_ok=True)


def sensor(channels: int, width: int = 8, layers: int = 1, seed: int = 0) -> SensorModel:
    torch.manual_seed(seed)
    return SensorModel(SensorConfig(channels, width, layers))
