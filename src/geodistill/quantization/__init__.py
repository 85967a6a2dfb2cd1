"""Quantisers with learned intervals: put into a model, trained, and taken out again."""

from geodistill.quantization.calibrate import calibrate
from geodistill.quantization.insert import (
    LayerBits,
    check_intervals,
    is_quantized,
    layer_bits,
    quantize,
    quantized_modules,
    remove_quantizers,
)
from geodistill.quantization.modules import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedModule,
    QuantizedTransposedLinear,
)
from geodistill.quantization.quantizer import Quantizer, fake_quantize
from geodistill.quantization.save import describe_quantization, load_quantized, save_quantized, saved_quantization

__all__ = [
    "LayerBits",
    "QuantizedConv1d",
    "QuantizedConv2d",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedModule",
    "QuantizedTransposedLinear",
    "Quantizer",
    "calibrate",
    "check_intervals",
    "describe_quantization",
    "fake_quantize",
    "is_quantized",
    "layer_bits",
    "load_quantized",
    "quantize",
    "quantized_modules",
    "remove_quantizers",
    "save_quantized",
    "saved_quantization",
]
