"""A student as an ONNX file: float, or of integers if it is quantised; and how far the file is from the student."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.outputs import is_label
from geodistill.distillation.sides import Reader
from geodistill.distillation.signals import model_inputs
from geodistill.distillation.size_and_speed import TIMED, median_milliseconds, size_in_megabytes
from geodistill.errors import GeodistillError
from geodistill.quantization.integers import to_integers
from geodistill.quantization.onnx import OPSET as OPSET_OF_INTEGERS
from geodistill.quantization.onnx import pack_weights, translations

OPSET = 18
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TRACED = (2, 8)  # (examples, tokens)
# A protocol buffer, and thus an ONNX file with its weights inside, ends at 2 GB.
MEGABYTES_IN_ONE_FILE = 1900
BATCH_SIZE = 64


@dataclass(frozen=True)
class Agreement:
    """How far one form of a student is from another on the same examples.

    share: of the outputs for which both decide alike (see `decide_alike`)
    difference: the largest absolute difference of any output
    outputs: how many; one for each example, or one for each token if a model labels tokens
    """

    share: float
    difference: float
    outputs: int


def require_onnx() -> None:
    """Raise GeodistillError if a package of the `onnx` extra is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GeodistillError(
            f"Writing ONNX needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            "Install the extra: pip install geodistill[onnx].",
        )


class FirstOutput(nn.Module):
    """A model as a function of tensors in a fixed order that returns one tensor, which is what ONNX can hold."""

    def __init__(self, model: PreTrainedModel, reader: Reader) -> None:
        super().__init__()
        accepted = inspect.signature(model.forward).parameters
        self.model = model
        self.names = [name for name in reader.names if name in accepted and not is_label(name)]

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)[0]


def write_onnx(model: PreTrainedModel, reader: Reader, file: Path, *, integers: bool = False) -> None:
    """Write a model as ONNX, for any number of examples and tokens, with the names of the reader's columns.

    With `integers` the quantised layers of the model are written with integer weights, else they are written with float
    weights and round as they do in training. The model itself is left unchanged.
    """
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False
    wrapped = FirstOutput(to_integers(copy.deepcopy(model)) if integers else model, reader)  # type: ignore[arg-type]
    traced = random_batch(model, reader, wrapped.names, *TRACED)
    # What is no sequence of tokens has one size.
    tokens = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    axes = tuple(tokens if value.ndim == 2 else {0: tokens[0]} for value in traced.values())
    with _silent(), torch.no_grad():  # a comparison of the outputs settles what tracing warns of
        exported: Any = torch.onnx.export(
            wrapped,
            tuple(traced.values()),
            input_names=wrapped.names,
            output_names=list(model(**traced).keys())[:1],
            dynamic_shapes=(axes,),
            dynamo=True,
            opset_version=OPSET_OF_INTEGERS if integers else OPSET,
            custom_translation_table=translations() if integers else None,
            verbose=False,
        )
    if integers:
        pack_weights(exported, wrapped)
    for node in exported.model.graph.all_nodes():
        node.metadata_props.clear()  # from which line of Python each comes: more than a small student's weights
    exported.save(file, external_data=size_in_megabytes(model) > MEGABYTES_IN_ONE_FILE)


@contextmanager
def _silent() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")  # it misses torchvision each time
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def random_batch(
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


class OnnxModel:
    """An ONNX file as a function of a batch, run by ONNX Runtime on one thread of the CPU."""

    def __init__(self, file: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors alone
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.names = [entry.name for entry in self.session.get_inputs()]

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        (found,) = self.session.run(None, {name: batch[name].numpy() for name in self.names})
        return torch.from_numpy(found)

    def latency(self, reader: Reader, examples: Sequence[Any]) -> float:
        """Return the median milliseconds for one example, one at a time, over the first of the examples."""
        return median_milliseconds(self, [reader.collate([example]) for example in examples[:TIMED]])


@torch.no_grad()
def compare_outputs(
    model: PreTrainedModel, other: Callable[[Mapping[str, Tensor]], Tensor], batches: Iterable[Mapping[str, Tensor]]
) -> Agreement:
    """Compare the first output of a model on the CPU with that of another form of it, over batches.

    Raises GeodistillError if there are none.
    """
    pairs = [(first_output(model, batch), other(batch)) for batch in batches]
    if not pairs:
        raise GeodistillError("There are no examples to compare the ONNX file on.", "Give examples of a test split.")
    expected, found = (torch.cat([each.float().flatten(0, -2) for each in side]) for side in zip(*pairs, strict=True))
    alike = decide_alike(expected, found, model.config.problem_type)
    return Agreement(alike.float().mean().item(), (expected - found).abs().max().item(), len(alike))


@torch.no_grad()
def first_output(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    return model(**model_inputs(model, batch))[0]


def batches_in_order(reader: Reader, examples: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Collate examples in their order."""
    for start in range(0, len(examples), BATCH_SIZE):
        yield reader.collate(examples[start : start + BATCH_SIZE])


def decide_alike(expected: Tensor, found: Tensor, problem: str | None) -> Tensor:
    """Tell for each example whether two outputs (n, labels) lead to one decision.

    That is the largest output, or all the labels with a positive output if an example may have several. A regression
    decides alike if no value differs by more than a hundredth of the range of the expected ones.
    """
    if problem == "regression":
        span = expected.max() - expected.min()
        return ((expected - found).abs() <= span / 100).flatten(1).all(1)
    if problem == "multi_label_classification":
        return ((expected > 0) == (found > 0)).all(1)
    return expected.argmax(-1) == found.argmax(-1)
