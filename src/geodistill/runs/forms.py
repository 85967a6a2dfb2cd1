"""The forms of a quantised student: in float32, fake-quantised as in training, and as integers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel

from geodistill.distillation.export import ONNX_FILE
from geodistill.distillation.onnx_file import (
    Agreement,
    OnnxModel,
    batches_in_order,
    compare_outputs,
    first_output,
    write_onnx,
)
from geodistill.distillation.sides import Reader
from geodistill.quantization import remove_quantizers

FLOAT, FAKE, INTEGERS = "float32", "fake-quantised", "integers"


@dataclass(frozen=True)
class Form:
    """One form of a quantised student.

    name: `float32` (rounded weights and no rounded inputs, as plain transformers loads the student), `fake-quantised`
        or `integers`
    agreement: the share of the test split that it decides as the fake-quantised student does; None for that one itself
    difference: the largest difference of any output
    megabytes: of its ONNX file
    latency_ms: the median of one example by ONNX Runtime on one thread
    """

    name: str
    agreement: float | None = None
    difference: float | None = None
    megabytes: float | None = None
    latency_ms: float | None = None


def compare_forms(student: PreTrainedModel, reader: Reader, examples: Sequence[Any], integers: Agreement) -> list[Form]:
    """Tell how far the other forms are from a fake-quantised student, on the CPU; `integers` says it of its file."""
    floats = partial(first_output, plain_form(student))
    plain = compare_outputs(student, floats, batches_in_order(reader, examples))
    return [
        Form(FLOAT, plain.share, plain.difference),
        Form(FAKE),
        Form(INTEGERS, integers.share, integers.difference),
    ]


def measure_forms(
    forms: Sequence[Form], student: PreTrainedModel, reader: Reader, examples: Sequence[Any], folder: Path
) -> list[Form]:
    """Add sizes and latencies to the forms of a student on the CPU, whose integers lie in its `folder`.

    Nothing should run beside it.
    """
    with TemporaryDirectory() as scratch:
        files = {FLOAT: Path(scratch) / "float.onnx", FAKE: Path(scratch) / "fake.onnx", INTEGERS: folder / ONNX_FILE}
        write_onnx(plain_form(student), reader, files[FLOAT])
        write_onnx(student, reader, files[FAKE])
        return [
            replace(
                form,
                megabytes=files[form.name].stat().st_size / 1e6,
                latency_ms=OnnxModel(files[form.name]).latency(reader, examples),
            )
            for form in forms
        ]


def plain_form(student: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a quantised student with rounded weights and without quantisers."""
    plain = copy.deepcopy(student)
    remove_quantizers(plain, round=True)
    return plain
