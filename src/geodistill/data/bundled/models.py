"""From the name of a model in a recipe to something that `from_pretrained` loads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from geodistill.data.bundled.packages import MINILM_L3, MINILM_L6, SMOLLM2, extract, package_files
from geodistill.data.bundled.store import cached
from geodistill.errors import GeodistillError, require_package, suggest

if TYPE_CHECKING:
    import torch
    from transformers import BertModel

BUNDLED_MODELS = ("bundled:minilm-l6", "bundled:minilm-l3", "bundled:smollm2-135m")
TOKENIZER_FILES = ("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def resolve_model(name: str) -> str:
    """The folder or hub name that `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` load for `name`.

    - `bundled:minilm-l6`: all-MiniLM-L6-v2, a BertModel of 6 layers × 384, 22.7 M parameters, uncased
    - `bundled:minilm-l3`: paraphrase-MiniLM-L3-v2, a BertModel of 3 layers × 384, 17.2 M parameters, same vocabulary;
      rebuilt from an ONNX file, which needs `geodistill[onnx]` once, and without the weights of a pooler
    - `bundled:smollm2-135m`: SmolLM2-135M-Instruct, a LlamaForCausalLM of 30 layers × 576, 134.5 M parameters, with its
      chat template; rebuilt from 4-bit weights, which needs `geodistill[decoders]` once, so fine-tune it first to use
      it as a teacher
    - a folder: returned unchanged, once it is seen to exist
    - anything else is taken for a hub name and returned unchanged

    Raises GeodistillError for an unknown bundled name, a path that is not there, or a package that cannot be fetched.
    """
    if name == "bundled:minilm-l6":
        return str(package_files(MINILM_L6))
    if name == "bundled:minilm-l3":
        return str(cached("paraphrase-MiniLM-L3-v2", build_minilm_l3))
    if name == "bundled:smollm2-135m":
        return str(cached("SmolLM2-135M-Instruct", build_smollm2))
    if name.startswith("bundled:"):
        raise GeodistillError(f"There is no bundled model '{name}'.", suggest(name, BUNDLED_MODELS))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise GeodistillError(
            f"There is no model folder '{name}'.",
            f"Give an existing folder, a hub name, or one of {', '.join(BUNDLED_MODELS)}.",
        )
    return name


def build_minilm_l3(folder: Path) -> None:
    """Write paraphrase-MiniLM-L3-v2 into `folder`, with the tokenizer of all-MiniLM-L6-v2, which has its vocabulary."""
    require_package("onnx", "onnx", "'bundled:minilm-l3' is rebuilt from an ONNX file")
    extract(MINILM_L3, folder)
    exported = next(folder.glob("*.onnx"))
    build_bert(bert_state(exported, "model.0.auto_model"), heads=12).save_pretrained(folder)
    exported.unlink()
    for file in TOKENIZER_FILES:
        shutil.copy(package_files(MINILM_L6) / file, folder)


def bert_state(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The state dict of the BertModel whose modules lie under `prefix`, such as `model.0.auto_model`, in an ONNX file.

    PyTorch's exporter keeps the names of embeddings, biases and normalisation weights. It transposes the weight
    matrices and names them by number, but the node that multiplies by a matrix carries the path of its layer. Needs the
    `onnx` extra.
    """
    import onnx
    import torch
    from onnx import numpy_helper

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
    from transformers import BertConfig, BertModel

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


def build_smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct into `folder`, its 4-bit weights as float32, with tokenizer and chat template."""
    require_package("gguf", "decoders", "'bundled:smollm2-135m' is rebuilt from a GGUF file")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    extract(SMOLLM2, folder)
    (file,) = SMOLLM2.members
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype="float32")
    # What is loaded is no longer quantized, but says that it is, and would be saved and trained as such.
    del model.config.quantization_config
    for mark in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, mark):
            delattr(model, mark)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / file).unlink()
