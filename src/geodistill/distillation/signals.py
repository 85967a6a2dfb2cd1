"""The teacher: what it is asked for, and how it answers while the student trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from geodistill.distillation.outputs import is_label, logits_of
from geodistill.distillation.students.adapters import adapted_model
from geodistill.errors import GeodistillError
from geodistill.features import (
    Capture,
    Point,
    Rows,
    input_names,
    only_scored,
    scored_logits,
    scored_tokens,
    select_rows,
)
from geodistill.losses.top_k import TopKLogits


class FeatureRequest(NamedTuple):
    """Feature rows that an objective asks of the teacher: which layer or module, which rows of it."""

    point: Point
    rows: str
    special_tokens: bool = True


@dataclass(frozen=True)
class TeacherSignals:
    """What the teacher says of one batch: logits, if it has any, and the rows of each request with their mask.

    Logits are (b, …); of a causal language model (r, V), a row for each of `scored_tokens`, or the largest of each.
    """

    logits: Tensor | TopKLogits | None
    features: dict[FeatureRequest, Rows] = field(default_factory=dict)


TEACHER_PREFIX = "teacher_"
"""What the names of a batch's inputs begin with that only the teacher reads, if it has another tokenizer."""


NO_INPUTS = ("example_id", "special_tokens_mask", "word_ids")
"""Columns of a batch that say something of its rows, and that no model reads."""
BESIDE_INPUTS = (*NO_INPUTS, "attention_mask", "token_type_ids", "position_ids")
"""Columns of a batch that say something of its inputs, and from which alone no model could answer."""


class SignalSource(Protocol):
    """Where teacher signals come from: the model itself (`Teacher`) or what it wrote to disk (`TeacherCache`).

    requests: the rows that it gives
    model: the teacher, whose layers are paired with the student's; its weights are not asked. None if there is none
    widths: of rows that are narrower than the teacher's are
    vocabulary: how many of a language model's logits stand for a token; None for all
    """

    @property
    def requests(self) -> Sequence[FeatureRequest]: ...

    @property
    def model(self) -> Any: ...

    @property
    def widths(self) -> Mapping[FeatureRequest, int]: ...

    @property
    def vocabulary(self) -> int | None: ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals: ...

    def to(self, device: torch.device) -> Any: ...


class Teacher:
    """A teacher that runs beside the student: in eval mode, without gradients, in bfloat16 if that is faster.

    It is no nn.Module on purpose: no trainer can move, wrap, save or train it by accident. The model is changed: it is
    put into eval mode, again before each answer if somebody called `train()` on it, and its parameters ask for no
    gradient. To train it afterwards, call `model.requires_grad_(True)`.

    Args:
        model: a transformers model, a PeftModel around one, or any module that is called with the batch's tensors by
            name. The requests of such a module name paths within it, and its logits are the entry `logits` of what it
            returns.
        requests: the rows that it is asked for, such as `Objective.requests`.
        precision: of its forward pass.
        logits: False asks for rows alone, and a language model's head, as wide as the vocabulary, is not run.
        vocabulary: how many of a language model's logits stand for a token. The others, which pad its size, are left
            out.

    Returns:
        Called with a batch, a `TeacherSignals` with the logits, if there are any, and the rows of each request.

    Example:
        signals = Teacher(model, objective.requests)(batch)
    """

    def __init__(
        self,
        model: nn.Module,
        requests: Sequence[FeatureRequest] = (),
        *,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        logits: bool = True,
        vocabulary: int | None = None,
    ) -> None:
        self.model: Any = adapted_model(model).eval().requires_grad_(False)
        self.requests = list(dict.fromkeys(requests))
        self.precision = precision
        self.logits = logits
        self.vocabulary = vocabulary
        self.widths: Mapping[FeatureRequest, int] = {}
        self._capture = Capture(self.model, [request.point for request in self.requests])

    def to(self, device: torch.device) -> Teacher:
        self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        inputs = teacher_view(inputs)
        if self.model.training:  # a module that holds it was told to train
            self.model.eval()
        device = device_of(inputs)
        bfloat16 = runs_in_bfloat16(self.precision, device)
        # An enclosing autocast of the student's must not decide the teacher's precision, so it is set either way.
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)
        scored = scored_tokens(self.model, inputs, wanted=self.logits)
        with autocast, only_scored(self.model, scored):
            outputs, hidden = self._capture(**model_inputs(self.model, inputs))
        logits = logits_of(outputs) if self.logits else None
        rows = teacher_rows(hidden, self.requests, inputs)
        return TeacherSignals(None if logits is None else scored_logits(logits, scored)[..., : self.vocabulary], rows)


def teacher_rows(
    features: Mapping[Point, Tensor], requests: Sequence[FeatureRequest], inputs: Mapping[str, Tensor]
) -> dict[FeatureRequest, Rows]:
    """Return the rows of each request, from the teacher's features of a batch."""
    return {
        request: select_rows(features[request.point], inputs, kind=request.rows, special_tokens=request.special_tokens)
        for request in requests
    }


def teacher_view(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the teacher reads of a batch or an example: separate inputs if there are any, else the student's.

    Raises GeodistillError if it has some but none to answer from, such as a mask alone: nothing is filled in from
    the student's, which are others.
    """
    own = {name.removeprefix(TEACHER_PREFIX): inputs[name] for name in inputs if name.startswith(TEACHER_PREFIX)}
    if own and all(name in BESIDE_INPUTS or is_label(name) for name in own):
        read = next((name for name in inputs if name in ("input_ids", "pixel_values")), "input_ids")
        raise GeodistillError(
            f"The batch has '{TEACHER_PREFIX}{next(iter(own))}' for the teacher and no '{TEACHER_PREFIX}{read}'.",
            f"Give all that the teacher reads with the prefix '{TEACHER_PREFIX}', or nothing: it then reads what the "
            "student reads.",
        )
    return own or inputs


def device_of(inputs: Mapping[str, Any]) -> torch.device:
    """Return the device of a batch."""
    return next(value.device for value in inputs.values() if isinstance(value, Tensor))


def check_requests(source: SignalSource, requests: Sequence[FeatureRequest]) -> None:
    """Refuse a source that was made for other layers or rows than the requests that an objective has."""
    missing = [request for request in requests if request not in source.requests]
    if missing:
        raise GeodistillError(
            f"The teacher signals lack the rows that the objective compares: {missing[0]}.",
            "Make the teacher or its cache with requests=objective.requests.",
        )


class NoTeacher:
    """The source for an objective that asks nothing of a teacher, such as labels alone: it says nothing."""

    requests: Sequence[FeatureRequest] = ()
    model: Any = None
    widths: Mapping[FeatureRequest, int] = {}
    vocabulary: int | None = None

    def to(self, device: torch.device) -> NoTeacher:
        return self

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        return TeacherSignals(logits=None)


def teacher_or_source(given: Any) -> nn.Module | SignalSource:
    """Return what a trainer is given as its teacher: a module, or a source of signals; None stands for no teacher.

    Raises GeodistillError for anything else, such as a name.
    """
    if given is None:
        return NoTeacher()
    if isinstance(given, nn.Module) or (callable(given) and hasattr(given, "requests")):
        return given
    said = f"'{given}'" if isinstance(given, str) else f"a {type(given).__name__}"
    raise GeodistillError(
        f"The teacher is {said}, which is no model.",
        "Load it first, as with AutoModelForSequenceClassification.from_pretrained(name), and give the model.",
    )


def model_inputs(model: nn.Module, inputs: Mapping[str, Tensor], *, labels: bool = False) -> dict[str, Any]:
    """Keep the inputs that a model's forward names; families differ (DistilBERT takes no token_type_ids).

    Labels are left out unless asked for, so that a teacher computes no loss. A decoder is told to keep no cache of keys
    and values: whole texts are read at once. A module whose forward names none, as `forward(self, **inputs)`, gets all
    that a tokenizer makes.
    """
    accepted = input_names(model)
    kept: dict[str, Any] = {
        name: value
        for name, value in inputs.items()
        if (name not in NO_INPUTS if accepted is None else name in accepted) and (labels or not is_label(name))
    }
    return {**kept, "use_cache": False} if accepted is not None and "use_cache" in accepted else kept


def runs_in_bfloat16(precision: str, device: torch.device) -> bool:
    """Tell whether a teacher of this `precision` (auto, float32, bfloat16) answers in bfloat16 on a device."""
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_faster(device))


def bfloat16_is_faster(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware; elsewhere autocast to it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older releases of torch cannot tell, and then float32 is the safe answer.
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
