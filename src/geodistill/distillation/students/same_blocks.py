"""Whether a cut student computes what the teacher's own blocks do, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.signals import model_inputs

# Longer than half of the shortest window of local attention that is common (ModernBERT's 128).
PROBE_LENGTH = 80
PROBE_BATCH = 2
# The largest difference between two hidden states, relative to the largest entry.
TOLERANCE = 1e-3
TOLERANCE_OF_LOW_PRECISION = 0.1
Call = tuple[tuple[Any, ...], dict[str, Any], Tensor]
Simple = bool | int | float | str | None | list | tuple


def difference(
    student: PreTrainedModel, teacher: PreTrainedModel, path: str, kept: Sequence[int], lists: Sequence[str] = ()
) -> str:
    """Say in a few words how the student differs from the teacher's blocks `kept`; nothing if it does not. `lists`
    name the settings that hold an entry for each block.

    Block j of the student is compared with the teacher's block kept[j] in two ways: by its settings and buffers, since
    a window longer than a short text shows nowhere else, and by its output on a random text. There the reference is
    the teacher's own block, called as the teacher calls it, on what the block before it made.
    """
    ours, theirs = student.get_submodule(path), teacher.get_submodule(path)
    training = student.training, teacher.training
    try:
        student.eval()
        teacher.eval()
        wrong = _first_wrong_block(student, teacher, path, kept)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        return f"its blocks cannot be compared: {str(error).splitlines()[0].rstrip('.')}"
    finally:
        student.train(training[0])
        teacher.train(training[1])
    if wrong is not None:
        return f"layer {kept[wrong] + 1} computes something else as layer {wrong + 1}"
    # Now that both have read the same text: some models note in their modules what they read last.
    for new, old in enumerate(kept):
        if found := _other_settings(ours[new], theirs[old], new, old, lists):  # type: ignore[index]  # a list of blocks
            return f"layer {old + 1} differs in {found} as layer {new + 1}"
    return ""


def _other_settings(ours: nn.Module, theirs: nn.Module, new: int, old: int, lists: Sequence[str]) -> str | None:
    """Name a setting or buffer that differs; a number that is the block's own place may, and so may a list of an entry
    for each block."""
    modules = dict(theirs.named_modules())
    if modules.keys() != dict(ours.named_modules()).keys():
        return "its modules"
    for path, module in ours.named_modules():
        other = modules[path]
        if type(module) is not type(other):
            return path or "its class"
        for name, value in vars(module).items():
            if name.startswith("_") or name in ("training", *lists) or not isinstance(value, Simple):
                continue
            said = getattr(other, name, None)
            if value != said and (value, said) != (new, old):
                return f"'{name}'"
    buffers = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        if not torch.equal(buffer.cpu(), buffers[name].cpu()):
            return f"'{name}'"
    return None


@torch.no_grad()
def _first_wrong_block(
    student: PreTrainedModel, teacher: PreTrainedModel, path: str, kept: Sequence[int]
) -> int | None:
    config = teacher.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    # Behind a padding index a table holds a few tokens less than the config says.
    length = min(PROBE_LENGTH, limit - 8) if isinstance(limit, int) and limit > 16 else 8
    ids = torch.randint(config.vocab_size, (PROBE_BATCH, length), generator=torch.Generator().manual_seed(0))
    with _calls(teacher, path) as theirs:
        teacher(**model_inputs(teacher, {"input_ids": ids.to(teacher.device), "attention_mask": _ones(ids, teacher)}))
    with _calls(student, path) as ours:
        student(**model_inputs(student, {"input_ids": ids.to(student.device), "attention_mask": _ones(ids, student)}))
    if set(theirs) != set(range(len(teacher.get_submodule(path)))) or set(ours) != set(range(len(kept))):  # type: ignore[arg-type]
        raise ValueError("not every block runs")
    tolerance = TOLERANCE if teacher.dtype in (torch.float32, torch.float64) else TOLERANCE_OF_LOW_PRECISION
    hidden = _hidden(theirs[0])
    for new, old in enumerate(kept):
        if list(kept[: new + 1]) == list(range(new + 1)):  # so far the teacher itself, with what it does between blocks
            hidden = theirs[old][2]
        else:
            hidden = _call(teacher.get_submodule(f"{path}.{old}"), theirs[old], hidden)
        reference, output = hidden.float().cpu(), ours[new][2].float().cpu()
        if output.shape != reference.shape:
            return new
        if (output - reference).abs().max() > tolerance * reference.abs().max():
            return new
    return None


def _ones(ids: Tensor, model: PreTrainedModel) -> Tensor:
    return torch.ones_like(ids, device=model.device)


@contextmanager
def _calls(model: PreTrainedModel, path: str) -> Iterator[dict[int, Call]]:
    """Note with what each block is called within, and what it returns."""
    found: dict[int, Call] = {}

    def note(number: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            found[number] = args, kwargs, _first(output).clone()

        return hook

    handles = [
        block.register_forward_hook(note(number), with_kwargs=True)
        for number, block in enumerate(model.get_submodule(path).children())
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _hidden(call: Call) -> Tensor:
    args, kwargs, _ = call
    return args[0] if args else kwargs["hidden_states"]


def _call(block: nn.Module, call: Call, hidden: Tensor) -> Tensor:
    args, kwargs, _ = call
    return _first(block(hidden, *args[1:], **kwargs) if args else block(**{**kwargs, "hidden_states": hidden}))


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else _first(output[0])
