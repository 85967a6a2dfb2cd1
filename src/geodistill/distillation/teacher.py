"""The teacher: what it is asked for, and how it answers while the student trains."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.features import Capture, Point, only_scored, scored_logits, scored_tokens, select_rows
from geodistill.losses.top_k import TopKLogits


class FeatureRequest(NamedTuple):
    """Feature rows that an objective asks of the teacher: which layer or module, which rows of it."""

    point: Point
    rows: str
    special_tokens: bool = True


@dataclass(frozen=True)
class TeacherSignals:
    """What the teacher says of one batch: logits, where it has any, and the rows of each request, (b, t, d) or (b, d).

    Logits are (b, …); of a causal language model (r, V), a row for each of `scored_tokens`, or the largest of each.
    """

    logits: Tensor | TopKLogits | None
    features: dict[FeatureRequest, Tensor] = field(default_factory=dict)


TEACHER_PREFIX = "teacher_"
"""What the names of a batch's inputs begin with that are the teacher's alone, where it has a tokenizer of its own."""


class SignalSource(Protocol):
    """Where teacher signals come from: the model itself (`Teacher`) or what it wrote to disk (`TeacherCache`)."""

    @property
    def requests(self) -> Sequence[FeatureRequest]: ...

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals: ...

    def to(self, device: torch.device) -> Any: ...


class Teacher:
    """A teacher that runs beside the student: in eval mode, without gradients, in bfloat16 where that is faster.

    It is no nn.Module on purpose: no trainer can move, wrap, save or train it by accident. With `logits=False` it is
    asked for its rows alone, and a language model's head, as wide as the vocabulary, does nothing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        requests: Sequence[FeatureRequest] = (),
        *,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        logits: bool = True,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.requests = list(dict.fromkeys(requests))
        self.precision = precision
        self.logits = logits
        self._capture = Capture(model, [request.point for request in self.requests])

    def to(self, device: torch.device) -> Teacher:
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        inputs = teacher_view(inputs)
        device = inputs["input_ids"].device
        bfloat16 = self.precision == "bfloat16" or (self.precision == "auto" and bfloat16_is_faster(device))
        # An enclosing autocast of the student's must not decide the teacher's precision, so it is set either way.
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)
        scored = scored_tokens(self.model, inputs, wanted=self.logits)
        with autocast, only_scored(self.model, scored):
            outputs, hidden = self._capture(**model_inputs(self.model, inputs))
        logits = getattr(outputs, "logits", None) if self.logits else None
        rows = teacher_rows(hidden, self.requests, inputs)
        return TeacherSignals(None if logits is None else scored_logits(logits, scored), rows)


def teacher_rows(
    hidden: Mapping[Point, Tensor], requests: Sequence[FeatureRequest], inputs: Mapping[str, Tensor]
) -> dict[FeatureRequest, Tensor]:
    """Return the rows of each request, from the teacher's hidden states of a batch."""
    return {
        request: select_rows(
            hidden[request.point],
            kind=request.rows,
            attention_mask=inputs.get("attention_mask"),
            special_tokens_mask=inputs.get("special_tokens_mask"),
            special_tokens=request.special_tokens,
            labels=inputs.get("labels"),
            word_ids=inputs.get("word_ids"),
        )[0]
        for request in requests
    }


def teacher_view(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the teacher reads of a batch or an example: its own inputs where it has any, else the student's."""
    own = {name: value for name, value in inputs.items() if name.startswith(TEACHER_PREFIX)}
    return {name.removeprefix(TEACHER_PREFIX): value for name, value in own.items()} or inputs


class NoTeacher:
    """The source for an objective that asks nothing of a teacher, such as labels alone: it says nothing."""

    requests: Sequence[FeatureRequest] = ()

    def to(self, device: torch.device) -> NoTeacher:
        return self

    def __call__(self, inputs: Mapping[str, Tensor]) -> TeacherSignals:
        return TeacherSignals(logits=None)


def model_inputs(model: nn.Module, inputs: Mapping[str, Tensor], *, labels: bool = False) -> dict[str, Any]:
    """Keep the inputs that a model's forward names; families differ (DistilBERT takes no token_type_ids).

    Labels are left out unless asked for, so that a teacher computes no loss. A decoder is told to keep no cache of keys
    and values: whole texts are read at once.
    """
    accepted = inspect.signature(model.forward).parameters
    kept: dict[str, Any] = {
        name: value for name, value in inputs.items() if name in accepted and (labels or name != "labels")
    }
    return {**kept, "use_cache": False} if "use_cache" in accepted else kept


def bfloat16_is_faster(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware; elsewhere autocast to it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Older releases of torch cannot tell, and then float32 is the safe answer.
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
