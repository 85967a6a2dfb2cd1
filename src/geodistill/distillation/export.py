"""A finished student as a folder that plain transformers loads, and as an ONNX file that was checked against it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from geodistill.distillation.model_card import StudentFacts, write_model_card
from geodistill.distillation.onnx_file import (
    Agreement,
    FirstOutput,
    OnnxModel,
    batches_in_order,
    compare_outputs,
    random_batch,
    require_onnx,
    write_onnx,
)
from geodistill.distillation.sides import Reader
from geodistill.errors import GeodistillError
from geodistill.features import is_causal
from geodistill.quantization import is_quantized, load_quantized, save_quantized

ONNX_FILE = "model.onnx"
TOLERANCE = 1e-4
# (examples, tokens) that differ from what was traced; one of them is a single example.
CHECKED = ((1, 5), (3, 12))
LEAST_AGREEMENT = 0.99


def export_student(
    student: PreTrainedModel,
    reader: Reader,
    folder: str | Path,
    *,
    onnx: bool = False,
    examples: Sequence[Any] = (),
    facts: StudentFacts | None = None,
) -> Agreement | None:
    """Write a student and its reader's files to `folder`, for `from_pretrained` and `pipeline` of plain transformers.

    Of a quantised student plain transformers loads float weights that lie on the grid, and `geodistill.load_student`
    the fake-quantised student. README.md in the folder is the model card, which has what `facts` tell of the student.

    With `onnx=True` also `model.onnx` for any number of examples and tokens: in float32 or, if the student is
    quantised, with integer weights. It is compared with the student as it loads from the folder: a float one on random
    inputs, a quantised one on `examples`, what the reader made of rows. Returns how far the two agree, or None without
    ONNX.

    The folder appears whole or not at all: all is written beside it first, and an earlier export is replaced only then.
    Raises GeodistillError when `folder` holds anything but an export, when a package for ONNX is missing, when the
    ONNX file of a float student differs by more than 10⁻⁴, when that of a quantised one decides less than 99 % of the
    examples as the student does, and for the ONNX file of a quantised language model.
    """
    folder = Path(folder).expanduser().resolve()
    _refuse_other_contents(folder)
    if onnx:
        require_onnx()
        if is_quantized(student) and is_causal(student):
            raise no_integers_of_decoders()
    with _written_whole(folder) as scratch:
        if is_quantized(student):
            save_quantized(student, scratch)
        else:
            student.save_pretrained(scratch)
        reader.save(scratch)
        write_model_card(student, scratch, facts)
        return _checked_onnx(student, reader, scratch, examples) if onnx else None


def no_integers_of_decoders() -> GeodistillError:
    """What to say if a quantised language model is to be written as ONNX."""
    return GeodistillError(
        "A quantised language model is not written as ONNX.",
        "Leave --onnx out: student/ has its rounded weights and its quantisers.",
    )


def _checked_onnx(student: PreTrainedModel, reader: Reader, folder: Path, examples: Sequence[Any]) -> Agreement:
    # Loaded afresh: no hooks of the training, float32, and what is checked is what was written.
    model = type(student).from_pretrained(folder, dtype=torch.float32).eval()
    file = folder / ONNX_FILE
    if not is_quantized(student):
        write_onnx(model, reader, file)
        names = FirstOutput(model, reader).names
        random = [random_batch(model, reader, names, *shape) for shape in CHECKED]
        found = compare_outputs(model, OnnxModel(file), random)
        if not found.difference <= TOLERANCE:  # NaN included
            raise GeodistillError(
                f"The ONNX file differs from the student by {found.difference:.1e}, more than {TOLERANCE:.0e}.",
                "Export without ONNX, or report the architecture as unsupported.",
            )
        return found
    load_quantized(folder, model)
    write_onnx(model, reader, file, integers=True)
    found = compare_outputs(model, OnnxModel(file), batches_in_order(reader, examples))
    if not found.share >= LEAST_AGREEMENT:
        raise GeodistillError(
            f"The ONNX file of integers decides {found.share:.1%} of {found.outputs:,} examples as the fake-quantised "
            f"student does, fewer than {LEAST_AGREEMENT:.0%}.",
            "Export without ONNX, or report the architecture as unsupported.",
        )
    return found


def _refuse_other_contents(folder: Path) -> None:
    if not folder.exists():
        return
    entries = list(folder.iterdir()) if folder.is_dir() else None
    is_export = entries is not None and (folder / "config.json").is_file() and all(entry.is_file() for entry in entries)
    if entries != [] and not is_export:
        raise GeodistillError(
            f"'{folder}' holds something else than an exported student, which an export would replace.",
            "Give a folder that is empty or does not exist yet.",
        )


@contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, which takes its place if all goes well and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    scratch, old = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("new", "old"))
    scratch.mkdir()
    try:
        yield scratch
        replaces = folder.exists()
        if replaces:
            folder.rename(old)
        try:
            scratch.rename(folder)
        except OSError:
            if replaces:
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
