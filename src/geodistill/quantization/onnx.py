"""Integer layers as ONNX: how their operators are translated, and in how many bits their weights are stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

import geodistill.quantization.integers  # noqa: F401  (it makes the operators)
from geodistill.quantization.integers import StoredWeight

OPSET = 21
"""The first in which integers have 4 bits."""
OPSET_OF_TWO_BITS = 25


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how the operators of integer layers are translated: the `custom_translation_table` of `torch.onnx.export`.

    Values are clipped where that costs least. Before a matrix product it is done on the integers, or ONNX Runtime would
    compute in float; before a convolution on the floats, which takes less time.
    """
    import numpy as np
    import onnx_ir
    from onnxscript import opset21

    op: Any = opset21

    def constant(value: Any) -> Any:
        return op.Constant(value=onnx_ir.tensor(value))

    def round_to_grid(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
        integers = op.QuantizeLinear(x, scale, zero_point)
        if (low, high) != (0, 255):
            integers = op.Clip(integers, constant(np.uint8(low)), constant(np.uint8(high)))
        return op.DequantizeLinear(integers, scale, zero_point)

    def dequantize(integers: Any, scale: Any, zero_point: Any, axis: int) -> Any:
        return op.DequantizeLinear(integers, scale, zero_point, axis=axis)

    def convolve(
        x: Any,
        scale: Any,
        zero_point: Any,
        low: int,
        high: int,
        integers: Any,
        weight_scale: Any,
        middle: int,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Any:
        if (low, high) != (0, 255):
            zero = op.Cast(zero_point, to=onnx_ir.DataType.FLOAT)
            x = op.Clip(x, *(op.Mul(op.Sub(constant(np.float32(end)), zero), scale) for end in (low, high)))
        summed = op.ConvInteger(
            op.QuantizeLinear(x, scale, zero_point),
            integers,
            zero_point,
            constant(np.uint8(middle)),
            strides=stride,
            pads=[*padding, *padding],
            dilations=dilation,
            group=groups,
        )
        step = op.Mul(scale, weight_scale)
        if len(weight_scale.shape):
            step = op.Reshape(step, constant(np.array([-1, *[1] * len(stride)])))
        return op.Mul(op.Cast(summed, to=onnx_ir.DataType.FLOAT), step)

    operators = torch.ops.geodistill
    ours: dict[str, Any] = {"round_to_grid": round_to_grid, "dequantize": dequantize, "convolve": convolve}
    return {getattr(operators, name).default: translation for name, translation in ours.items()}


def pack_weights(exported: Any, model: nn.Module) -> None:
    """Store the weights of an exported model of integer layers in as few bits as ONNX has: 2, 4 or 8.

    They are cast to bytes in the graph. ONNX Runtime does that once, when it loads the file; without the cast it would
    unpack them at each call.

    Args:
        exported: the `torch.onnx.ONNXProgram` of `model`, changed in place.
        model: with the integer layers.
    """
    import onnx_ir

    graph = exported.model.graph
    for name, module in model.named_modules():
        weight = graph.initializers.get(f"{name}.integers") if isinstance(module, StoredWeight) else None
        kind = None if weight is None else packed_kind(module.bits)
        if weight is None or kind is None:
            continue
        content: Any = onnx_ir.tensor(weight.const_value.numpy().astype(kind.numpy()), name=f"{name}.packed")
        packed = onnx_ir.Value(
            name=content.name, shape=content.shape, type=onnx_ir.TensorType(kind), const_value=content
        )
        cast = onnx_ir.node("Cast", [packed], attributes={"to": onnx_ir.DataType.UINT8})
        onnx_ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
        graph.insert_before(graph[0], cast)
        graph.initializers.pop(weight.name)
        graph.register_initializer(packed)
        if kind == onnx_ir.DataType.UINT2:
            exported.model.opset_imports[""] = OPSET_OF_TWO_BITS


def packed_kind(bits: int) -> Any:
    """Return the type that weights of so many bits are stored in, an `onnx_ir.DataType`; None for whole bytes.

    Weights of 2 bits get 4 if the installed onnx or ONNX Runtime does not know integers of 2 bits.
    """
    import onnx_ir

    if bits > 4:
        return None
    return onnx_ir.DataType.UINT2 if bits == 2 and runs_two_bits() else onnx_ir.DataType.UINT4


@cache
def runs_two_bits() -> bool:
    """Tell whether the installed onnx writes integers of 2 bits and the installed ONNX Runtime reads them."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    if not hasattr(TensorProto, "UINT2") or onnx.defs.onnx_opset_version() < OPSET_OF_TWO_BITS:
        return False
    weight = helper.make_tensor("weight", TensorProto.UINT2, [4], [0, 1, 2, 3])
    cast = helper.make_node("Cast", ["weight"], ["bytes"], to=TensorProto.UINT8)
    graph = helper.make_graph(
        [cast], "probe", [], [helper.make_tensor_value_info("bytes", TensorProto.UINT8, [4])], [weight]
    )
    opsets = [helper.make_opsetid("", OPSET_OF_TWO_BITS)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {})[0].tolist() == [0, 1, 2, 3]
    except Exception:  # the runtime raises its classes, which differ between releases
        return False
