"""What is written of integer layers, and that ONNX Runtime computes with integers."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from geodistill.quantization import calibrate, quantize, quantized_modules
from geodistill.quantization import onnx as translated
from geodistill.quantization.integers import to_integers
from geodistill.quantization.onnx import OPSET, pack_weights, packed_kind, runs_two_bits, translations
from geodistill.recipe import QuantizationRecipe


class Every(nn.Module):
    """One layer of each kind, with a product of matrices and a product of a batch of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 16)
        self.batched = nn.Linear(16, 12)
        self.wide = nn.Conv1d(12, 8, 3, padding=1)
        self.high = nn.Conv2d(1, 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.matrix = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        x = torch.relu(self.batched(self.table(numbers)))
        x = torch.relu(self.wide(x.transpose(1, 2)))
        x = torch.relu(self.norm(self.high(x.unsqueeze(1)))).mean((2, 3))
        return self.head(torch.tanh(self.matrix(x)))


@pytest.fixture
def numbers() -> Tensor:
    return torch.randint(10, (16, 9))


def written(recipe: QuantizationRecipe, numbers: Tensor, file: Path) -> nn.Module:
    """Write a quantised model to a file, and return it."""
    model = Every().eval()
    quantize(model, recipe)
    if recipe.activations is not None:
        calibrate(model, [numbers], recipe)
    integers = to_integers(copy.deepcopy(model))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported: Any = torch.onnx.export(
            integers,
            (numbers,),
            input_names=["numbers"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            verbose=False,
        )
    pack_weights(exported, integers)
    exported.save(file, external_data=False)
    onnx.checker.check_model(onnx.load(file), full_check=True)
    return model


def run(file: Path, numbers: Tensor) -> tuple[Tensor, list[str]]:
    """Return what ONNX Runtime computes, and the operators that it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_suffix(".optimized"))
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"numbers": numbers.numpy()})
    return torch.from_numpy(found), [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def weight_types(file: Path, model: nn.Module) -> dict[str, str]:
    """The type that the weight of each layer is stored in."""
    found = {entry.name: TensorProto.DataType.Name(entry.data_type) for entry in onnx.load(file).graph.initializer}
    names = {name: (f"{name}.stored.integers", f"{name}.stored.packed") for name in quantized_modules(model)}
    return {name: next(found[each] for each in stored if each in found) for name, stored in names.items()}


@pytest.mark.parametrize(
    ("bits", "activations", "symmetric", "kind"),
    [(8, 8, False, "UINT8"), (4, 6, True, "UINT4"), (2, 2, False, "UINT2" if runs_two_bits() else "UINT4")],
)
def test_weights_are_stored_and_multiplied_as_integers(
    bits: int, activations: int, symmetric: bool, kind: str, numbers: Tensor, tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    recipe = QuantizationRecipe(weights=bits, activations=activations, symmetric=symmetric)
    model = written(recipe, numbers, file)
    inner = dict.fromkeys(["batched", "wide", "high", "matrix"], kind)
    assert weight_types(file, model) == {**inner, "table": "UINT8", "head": "UINT8"}
    zero_points = [
        onnx.numpy_helper.to_array(entry)
        for entry in onnx.load(file).graph.initializer
        if entry.name.endswith("input.zero_point")
    ]
    assert zero_points and {each.dtype for each in zero_points} == {np.dtype(np.uint8)}
    found, operators = run(file, numbers)
    assert operators.count("MatMulIntegerToFloat") == 3 and operators.count("ConvInteger") == 2
    assert not {"MatMul", "Gemm", "FusedGemm", "Conv", "FusedConv", "DequantizeLinear"} & {*operators}
    with torch.no_grad():
        torch.testing.assert_close(found, model(numbers), rtol=0, atol=1e-5)


def test_weights_alone_are_stored_as_integers_too(numbers: Tensor, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    recipe = QuantizationRecipe(weights=3, activations=None, per_channel=False, embeddings=4, first_and_last=4)
    model = written(recipe, numbers, file)
    assert {*weight_types(file, model).values()} == {"UINT4"}
    found, _ = run(file, numbers)
    with torch.no_grad():
        # ONNX Runtime has a special product for weights of 4 bits, which rounds inputs to bytes.
        torch.testing.assert_close(found, model(numbers), rtol=0, atol=0.01)


def test_weights_take_the_fewest_bits_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {bits: getattr(packed_kind(bits), "name", None) for bits in range(3, 9)}
    assert kinds == {3: "UINT4", 4: "UINT4", 5: None, 6: None, 7: None, 8: None}
    for known, kind in {True: "UINT2", False: "UINT4"}.items():
        monkeypatch.setattr(translated, "runs_two_bits", lambda known=known: known)
        assert packed_kind(2).name == kind
