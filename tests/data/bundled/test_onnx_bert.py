from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from geodistill.data.bundled.onnx_bert import bert_state, build_bert  # noqa: E402

PREFIX = "model.0.auto_model"


def export(model: BertModel, path: Path) -> None:
    """Write initialisers and MatMul nodes with the names, and the transposition, that PyTorch's exporter gives them."""
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    initialisers, nodes = [], []
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        module = name.removesuffix(".weight")
        if module in linear:
            anonymous = f"onnx::MatMul_{number}"
            initialisers.append(numpy_helper.from_array(tensor.T.contiguous().numpy(), anonymous))
            node = f"/model/{PREFIX}/{module}".replace("auto_model/", "auto_model.").replace(".", "/")
            node = node.replace("model/0/auto_model", "model.0/auto_model").replace("layer/", "layer.")
            nodes.append(helper.make_node("MatMul", ["input", anonymous], [f"output_{number}"], name=f"{node}/MatMul"))
        else:
            initialisers.append(numpy_helper.from_array(tensor.numpy(), f"{PREFIX}.{name}"))
    nodes.append(helper.make_node("MatMul", ["input", "other"], ["scores"], name="/model/attention/MatMul"))
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "bert", [value], [], initialisers)
    onnx.save(helper.make_model(graph), str(path))


def test_state_and_sizes_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    export(model, tmp_path / "bert.onnx")
    rebuilt = build_bert(bert_state(tmp_path / "bert.onnx", PREFIX), heads=3)
    for size in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings"):
        assert getattr(rebuilt.config, size) == getattr(config, size)
    ids = torch.randint(0, 50, (2, 7))
    torch.testing.assert_close(rebuilt(ids).last_hidden_state, model(ids).last_hidden_state, rtol=0, atol=0)
