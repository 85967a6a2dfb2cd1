"""The README.md of a quantised student: how it is rounded, and how it is loaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from transformers import PreTrainedModel

from geodistill.files import write_text
from geodistill.quantization import quantized_modules

CARD = """---
library_name: transformers
tags: [geodistill, quantization]
---

# A quantised student

Made by geodistill. These layers compute with rounded numbers:

| layers | number | weights | inputs |
|---|---:|---|---|
{rows}

All other layers compute in float32. `config.json` says how it is quantised under `geodistill_quantization`.

- `geodistill.load_student(FOLDER)` loads the fake-quantised student: float arithmetic on rounded weights and inputs.
- `from_pretrained(FOLDER)` of transformers loads float weights that are rounded to the grid, and rounds no inputs.
- `model.onnx`, where it is there, holds the weights as integers. ONNX Runtime multiplies integers.
"""


def write_model_card(student: PreTrainedModel, folder: Path) -> None:
    """Write README.md of a quantised student into its folder."""
    kinds = Counter(
        (
            type(module).plain.__name__,
            f"{module.weight_quantizer.bits} bits",
            "float" if module.input_quantizer is None else f"{module.input_quantizer.bits} bits",
        )
        for module in quantized_modules(student).values()
    )
    rows = [f"| {layer} | {number} | {weights} | {inputs} |" for (layer, weights, inputs), number in kinds.items()]
    write_text(folder / "README.md", CARD.format(rows="\n".join(rows)))
