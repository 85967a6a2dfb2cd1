"""Real weights: the packages are fetched into the user's cache on the first run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from geodistill.data.bundled import models
from geodistill.data.bundled.models import bert_state, build_bert, resolve_model
from geodistill.data.bundled.packages import MINILM_L3, SMOLLM2, extract
from geodistill.errors import GeodistillError

PREFIX = "model.0.auto_model"


def test_minilm_l6_loads_and_understands() -> None:
    folder = resolve_model("bundled:minilm-l6")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (6, 384)
    batch = tokenizer(
        ["How many people live here ?", "What is the population ?", "The film was dull."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    similarity = mean @ mean.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3


def test_other_names_are_returned_as_they_are(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert resolve_model("gpt2") == "gpt2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundled:minilm-l5", "Did you mean 'bundled:minilm-l6'"),
        ("./no/such/folder", "no model folder"),
        ("runs/demo/student", "no model folder"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        resolve_model(name)


def test_minilm_l3_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(models, "extract", lambda package, folder: pytest.fail("fetched in vain"))
    with pytest.raises(GeodistillError, match=r"geodistill\[onnx\]"):
        resolve_model("bundled:minilm-l3")


def test_smollm2_without_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEODISTILL_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(models, "extract", lambda package, folder: pytest.fail("fetched in vain"))
    with pytest.raises(GeodistillError, match=r"geodistill\[decoders\]"):
        resolve_model("bundled:smollm2-135m")


@pytest.mark.slow
def test_smollm2_is_the_exported_model_and_answers(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    folder = resolve_model("bundled:smollm2-135m")
    assert not list(Path(folder).glob("*.gguf"))
    extract(SMOLLM2, tmp_path)
    (file,) = SMOLLM2.members
    exported = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file).state_dict()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    state = model.state_dict()
    assert state.keys() == exported.keys() and all(torch.equal(state[name], exported[name]) for name in state)
    assert getattr(model.config, "quantization_config", None) is None
    assert not getattr(model, "is_quantized", False)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_minilm_l3_is_the_exported_model(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = resolve_model("bundled:minilm-l3")
    assert not list(Path(folder).glob("*.onnx"))
    extract(MINILM_L3, tmp_path)
    session = onnxruntime.InferenceSession(str(next(tmp_path.glob("*.onnx"))))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = [
        "What is the capital of France ?",
        "A longer sentence, with rarer words such as serendipity, and more of it.",
    ]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    feeds = {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
    (expected,) = session.run(["onnx::Shape_422"], feeds)  # the graph's name for the last hidden state
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).last_hidden_state, torch.from_numpy(expected), rtol=0, atol=1e-5)


def export(model: BertModel, path: Path) -> None:
    """Write initialisers and MatMul nodes with the names, and the transposition, that PyTorch's exporter gives them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

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


def test_the_state_and_the_sizes_of_an_exported_bert_come_back(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
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
