"""A finished student as a folder that plain transformers loads, and as an ONNX file that was checked against it."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.outputs import is_label
from geodistill.distillation.sides import Reader
from geodistill.distillation.students.build import size_in_megabytes
from geodistill.errors import GeodistillError
from geodistill.quantization import is_quantized, save_quantized

ONNX_FILE = "model.onnx"
ONNX_OPSET = 18
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
# (examples, tokens): one to trace, and two others, of which one is a single example, to check.
TRACED, CHECKED = (2, 8), ((1, 5), (3, 12))
# A protocol buffer, and thus an ONNX file with its weights inside, ends at 2 GB.
MEGABYTES_IN_ONE_FILE = 1900


def export_student(student: PreTrainedModel, reader: Reader, folder: str | Path, *, onnx: bool = False) -> float | None:
    """Write a student and its reader's files to `folder`, for `from_pretrained` and `pipeline` of plain transformers.

    With `onnx=True` also `model.onnx`, in float32 with any number of examples and tokens, after checking that
    onnxruntime agrees with the student as it loads from the folder. Returns the largest absolute difference of any
    output that was seen in the check, or None without ONNX.

    The folder appears whole or not at all: all is written beside it first, and an earlier export is replaced only then.
    Raises GeodistillError when `folder` holds anything but an export, when a package for ONNX is missing, and when the
    ONNX file differs by more than 10⁻⁴.
    """
    folder = Path(folder).expanduser().resolve()
    _refuse_other_contents(folder)
    if onnx:
        _require_onnx()
    with _written_whole(folder) as scratch:
        if is_quantized(student):
            save_quantized(student, scratch)
        else:
            student.save_pretrained(scratch)
        reader.save(scratch)
        return _export_onnx(type(student), reader, scratch) if onnx else None


class _FirstOutput(nn.Module):
    """A model as a function of tensors in a fixed order that returns one tensor, which is what ONNX can hold."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)[0]


def _export_onnx(model_class: type[PreTrainedModel], reader: Reader, folder: Path) -> float:
    # Loaded afresh: no hooks of the training, float32, and what is checked is what was written.
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in reader.names if name in accepted and not is_label(name)]
    wrapped = _FirstOutput(model, names)
    file = folder / ONNX_FILE
    traced = _example(model, reader, names, *TRACED)
    # What is no sequence of tokens has one size.
    tokens = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    axes = tuple(tokens if value.ndim == 2 else {0: tokens[0]} for value in traced.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing, which the check below settles
        torch.onnx.export(
            wrapped,
            tuple(traced.values()),
            file,
            input_names=names,
            output_names=list(model(**traced).keys())[:1],
            dynamic_shapes=(axes,),
            dynamo=True,
            opset_version=ONNX_OPSET,
            external_data=size_in_megabytes(model) > MEGABYTES_IN_ONE_FILE,
            verbose=False,
        )
    difference = max(_difference(wrapped, file, _example(model, reader, names, *shape)) for shape in CHECKED)
    if not difference <= TOLERANCE:  # NaN included
        raise GeodistillError(
            f"The ONNX file differs from the student by {difference:.1e}, more than {TOLERANCE:.0e}.",
            "Export without ONNX, or report the architecture as unsupported.",
        )
    return difference


def _difference(wrapped: _FirstOutput, file: Path, inputs: dict[str, Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        expected = wrapped(*inputs.values())
    return (expected - torch.from_numpy(result)).abs().max().item()


def _example(
    model: PreTrainedModel, reader: Reader, names: Sequence[str], examples: int, tokens: int
) -> dict[str, Tensor]:
    """Random inputs: token ids, where the last sentence is padded from its middle on, and numbers in the shape of the
    reader's probe for all that is no token."""
    generator = torch.Generator().manual_seed(0)
    probe = reader.probe()
    if "input_ids" not in names:
        return {name: torch.randn(examples, *probe[name].shape[1:], generator=generator) for name in names}
    input_ids = torch.randint(model.config.get_text_config().vocab_size, (examples, tokens), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    if examples > 1:
        attention_mask[-1, tokens // 2 :] = 0
        input_ids[-1, tokens // 2 :] = model.config.pad_token_id or 0
    values = {"input_ids": input_ids, "attention_mask": attention_mask}
    return {name: values.get(name, torch.zeros_like(input_ids)) for name in names}


def _require_onnx() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GeodistillError(
            f"Writing ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            "Install the extra: pip install geodistill[onnx].",
        )


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
