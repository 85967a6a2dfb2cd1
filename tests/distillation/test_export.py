from __future__ import annotations

import importlib.util

import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    DistilBertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    pipeline,
)

from geodistill.distillation import export
from geodistill.distillation.export import export_student
from geodistill.distillation.onnx_file import Agreement, decide_alike
from geodistill.errors import GeodistillError
from geodistill.quantization import calibrate, is_quantized, quantize
from geodistill.recipe import QuantizationRecipe
from geodistill.tasks.loading import load_student
from geodistill.tasks.text_reader import TextReader

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "very"]
LABELS = {0: "negative", 1: "positive"}
CONFIGS = {
    "bert": BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24),
    "distilbert": DistilBertConfig(vocab_size=10, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
}


def student(family="bert"):
    torch.manual_seed(0)
    config = CONFIGS[family]
    config.id2label, config.label2id = LABELS, {name: label for label, name in LABELS.items()}
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():  # logits of a size that a trained head has
        model.classifier.weight.normal_(std=2.0)
    return model


def tokenizer(family="bert"):
    if family == "bert":
        return BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)})
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SENTENCES = ["a good film", "very very bad"]


def test_plain_transformers_loads_the_folder(tmp_path):
    model, words = student(), tokenizer()
    assert export_student(model, TextReader(words), tmp_path / "runs" / "student") is None
    folder = tmp_path / "runs" / "student"
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    encoded = AutoTokenizer.from_pretrained(folder)(SENTENCES, return_tensors="pt", padding=True)
    assert torch.equal(encoded["input_ids"], words(SENTENCES, return_tensors="pt", padding=True)["input_ids"])
    with torch.no_grad():
        expected = model(**encoded).logits
        assert torch.equal(loaded(**encoded).logits, expected)
    assert (folder / "model.safetensors").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["student"]

    answers = pipeline("text-classification", str(folder), device="cpu")(SENTENCES)
    assert [answer["label"] for answer in answers] == [LABELS[label] for label in expected.argmax(1).tolist()]
    assert [answer["score"] for answer in answers] == pytest.approx(expected.softmax(1).max(1).values.tolist())


@pytest.mark.parametrize("family", list(CONFIGS))
def test_onnx_agrees_at_any_shape(tmp_path, family):
    model, words = student(family), tokenizer(family)
    found = export_student(model, TextReader(words), tmp_path / "student", onnx=True)
    assert found is not None and found.difference <= 1e-4 and found.share == 1.0
    file = tmp_path / "student" / "model.onnx"
    (opset,) = [entry.version for entry in onnx.load(file).opset_import if entry.domain == ""]
    assert opset >= 17
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits"]
    assert {tuple(entry.shape) for entry in session.get_inputs()} == {("batch", "sequence")}
    for sentences in (["bad"], [*SENTENCES, "a film", "good", "a very good film a very good film"]):
        encoded = words(sentences, return_tensors="pt", padding=True)
        with torch.no_grad():
            expected = model(**encoded).logits
        (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in encoded.items()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)
        assert expected.abs().max() > 0.1


def test_a_disagreeing_file_leaves_the_former_export(tmp_path, monkeypatch):
    folder = tmp_path / "student"
    export_student(student(), TextReader(tokenizer()), folder)
    before = contents(folder)
    monkeypatch.setattr(export, "compare_outputs", lambda *_: Agreement(1.0, float("nan"), 4))
    with pytest.raises(GeodistillError, match="differs from the student"):
        export_student(student("distilbert"), TextReader(tokenizer("distilbert")), folder, onnx=True)
    assert contents(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    words = tokenizer()

    def interrupt(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(words, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_student(student(), TextReader(words), tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_a_new_export_replaces_the_former_whole(tmp_path):
    folder = tmp_path / "student"
    export_student(student("distilbert"), TextReader(tokenizer("distilbert")), folder)
    (folder / "model.onnx").write_bytes(b"of the former student")
    export_student(student(), TextReader(tokenizer()), folder)
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.model_type == "bert"
    assert not (folder / "model.onnx").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    export_student(student(), TextReader(tokenizer()), notes)  # empty: nothing to lose
    (notes / "chapters").mkdir()
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, notes, tmp_path / "file"):
        with pytest.raises(GeodistillError, match="something else"):
            export_student(student(), TextReader(tokenizer()), place)
    assert (tmp_path / "file").read_text() == "mine"
    assert (notes / "chapters").is_dir()


def test_a_missing_extra_is_told_before_anything_is_written(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(GeodistillError, match=r"pip install geodistill\[onnx\]") as error:
        export_student(student(), TextReader(tokenizer()), tmp_path / "student", onnx=True)
    assert "onnxscript, which is not installed" in error.value.problem
    assert list(tmp_path.iterdir()) == []


def quantised(recipe, batch, model=None):
    model = student() if model is None else model
    quantize(model, recipe)
    calibrate(model, [batch], recipe)
    return model


W4A4 = QuantizationRecipe(weights=4, activations=4)


@pytest.fixture
def batch():
    return dict(tokenizer()([*SENTENCES, "a film", "very good", "bad"], return_tensors="pt", padding=True))


@pytest.fixture
def examples():
    encoded = tokenizer()([*SENTENCES, "a film", "very good", "bad"])
    return [{name: encoded[name][place] for name in encoded} for place in range(5)]


def test_a_quantised_student_is_written_in_three_forms(tmp_path, batch, examples):
    model = quantised(W4A4, batch)
    folder = tmp_path / "student"
    found = export_student(model, TextReader(tokenizer()), folder, onnx=True, examples=examples)
    with torch.no_grad():
        expected = model(**batch).logits
        loaded = load_student(folder)
        assert is_quantized(loaded) and torch.equal(loaded(**batch).logits, expected)
        plain = AutoModelForSequenceClassification.from_pretrained(folder)
        assert not is_quantized(plain)
        weight = model.bert.pooler.dense.weight_quantizer
        assert torch.equal(plain.bert.pooler.dense.weight, weight(model.bert.pooler.dense.weight))
    assert found.share == 1.0 and found.outputs == 5
    assert found.difference <= 0.1 * expected.abs().max()
    stored = {entry.name: entry.data_type for entry in onnx.load(folder / "model.onnx").graph.initializer}
    packed = [name for name, kind in stored.items() if kind == onnx.TensorProto.UINT4]
    assert len(packed) == 13 and "model.bert.encoder.layer.0.attention.self.query.stored.packed" in packed
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| Linear | 13 | 4 bits | 4 bits |" in card and "| Embedding | 3 | 8 bits | float |" in card


def test_a_disagreeing_file_of_integers_is_refused(tmp_path, monkeypatch, batch, examples):
    monkeypatch.setattr(export, "write_onnx", lambda *_, **__: None)
    monkeypatch.setattr(export, "OnnxModel", lambda _: None)
    monkeypatch.setattr(export, "compare_outputs", lambda *_: Agreement(0.98, 0.5, 1000))
    with pytest.raises(GeodistillError, match=r"decides 98.0% of 1,000 examples as the fake-quantised student does"):
        export_student(quantised(W4A4, batch), TextReader(tokenizer()), tmp_path / "student", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_integers_are_compared_on_examples(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(export, "write_onnx", lambda *_, **__: None)
    monkeypatch.setattr(export, "OnnxModel", lambda _: None)
    with pytest.raises(GeodistillError, match="no examples to compare the ONNX file on"):
        export_student(quantised(W4A4, batch), TextReader(tokenizer()), tmp_path / "student", onnx=True)


def test_the_integers_of_a_decoder_are_refused(tmp_path, batch):
    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    model = quantised(W4A4, {"input_ids": batch["input_ids"]}, LlamaForCausalLM(LlamaConfig(vocab_size=10, **shape)))
    with pytest.raises(GeodistillError, match="language model is not written as ONNX"):
        export_student(model, TextReader(tokenizer()), tmp_path / "student", onnx=True)
    assert export_student(model, TextReader(tokenizer()), tmp_path / "student") is None
    assert is_quantized(load_student(tmp_path / "student"))


def test_what_counts_as_the_same_decision():
    expected, found = torch.tensor([[2.0, -1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    assert decide_alike(expected, found, "single_label_classification").tolist() == [True, True]
    assert decide_alike(expected, found, "multi_label_classification").tolist() == [False, True]
    values = torch.tensor([[0.0], [10.0]])
    assert decide_alike(values, values + torch.tensor([[0.05], [0.2]]), "regression").tolist() == [True, False]
