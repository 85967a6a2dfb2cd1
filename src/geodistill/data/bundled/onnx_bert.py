"""A BertModel rebuilt from the ONNX file that PyTorch exported of it.

The exporter keeps the names of embeddings, biases and normalisation weights. It transposes the weight matrices and
names them by number, but the node that multiplies by one carries the path of its layer. Needs the `onnx` extra.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertModel


def bert_state(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The state dict of the BertModel whose modules lie under `prefix`, such as `model.0.auto_model`, in the file."""
    graph = onnx.load(str(path)).graph
    tensors = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    state = {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            module = node.name.strip("/").removesuffix("/MatMul").replace("/", ".").split(f"{prefix}.", 1)[1]
            state[f"{module}.weight"] = tensors[node.input[1]].T.contiguous()
    return state


def build_bert(state: dict[str, torch.Tensor], heads: int) -> BertModel:
    """The BertModel with this state; every size but the number of heads is read off the tensors.

    It has no pooler: the exported graph has none, since a sentence embedding does not use it.
    """
    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")}),
        num_attention_heads=heads,
        intermediate_size=state["encoder.layer.0.intermediate.dense.bias"].numel(),
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        type_vocab_size=state["embeddings.token_type_embeddings.weight"].shape[0],
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(state)
    return model.eval()
