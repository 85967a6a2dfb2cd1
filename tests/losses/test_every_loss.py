"""What every row of `LOSSES` has to pass: a new loss is tested here without another line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import geodistill
from geodistill import losses
from geodistill.errors import GeodistillError
from geodistill.losses import LOSSES
from geodistill.losses.terms import loss_options, make_loss, resolve_term
from geodistill.recipe import FeatureTerm

DOCS = Path(__file__).parents[2] / "docs"
WIDTHS = (6, 10)
LOGITS = 7

pytestmark = pytest.mark.parametrize("name", LOSSES)


def batch(name: str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """What the loss is called with: rows of the kind that it takes and, if it reads them, logits."""
    kind, generator = LOSSES[name], torch.Generator().manual_seed(0)
    place = {"map": (8, 8), "tokens": ()}.get(kind.rows, ())
    rows = [torch.randn(12, width, *place, generator=generator, dtype=torch.float64) for width in WIDTHS]
    logits = [torch.randn(12, LOGITS, generator=generator, dtype=torch.float64) for _ in WIDTHS]
    return tuple(each.to(dtype) for each in (*rows, *(logits if kind.reads_logits else ())))


def made(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    small = {"patch": 4} if "patch" in loss_options(LOSSES[name].loss) else {}
    return make_loss(FeatureTerm(loss=name, **{**small, **options}), *WIDTHS)


def test_the_docstring_says_what_a_user_has_to_know(name: str) -> None:
    doc = " ".join((LOSSES[name].loss.__doc__ or "").split())
    assert LOSSES[name].formula in doc
    for section in ("Args", "Shapes: ", "Returns", "Reference: ", "Example: "):
        assert section in doc, section


def test_the_class_is_a_public_name(name: str) -> None:
    public = LOSSES[name].loss.__name__
    assert getattr(geodistill, public) is LOSSES[name].loss
    assert public in geodistill.__all__ and public in losses.__all__


def test_the_table_of_the_documentation_has_it(name: str) -> None:
    kind = LOSSES[name]
    cells = f"| `{name}` | `{kind.loss.__name__}` | {kind.formula} | `{kind.rows}` |"
    assert cells in (DOCS / "losses.md").read_text(encoding="utf-8")


def test_each_option_has_a_default_and_its_line_in_the_documentation(name: str) -> None:
    text = (DOCS / "recipe.md").read_text(encoding="utf-8")
    for option, (_, default) in loss_options(LOSSES[name].loss).items():
        assert default is not ..., option
        assert option not in FeatureTerm.model_fields, option
        assert re.search(rf"^ *-? *{option}: ", text, re.MULTILINE), option


def test_it_is_of_the_whole_batch_when_an_objective_says_so(name: str) -> None:
    loss = made(name)
    assert loss.global_batch is False
    loss.global_batch = True  # as an objective sets it: no part of the loss may keep a copy
    assert all(getattr(part, "global_batch", False) is False for part in loss.modules() if part is not loss)
    assert "global_batch=True" in repr(loss)


def test_a_term_survives_being_written_and_read(name: str) -> None:
    term = resolve_term(FeatureTerm(loss=name))
    assert term.options == {option: default for option, (_, default) in loss_options(LOSSES[name].loss).items()}
    assert term.rows == LOSSES[name].rows
    assert FeatureTerm.model_validate_json(term.model_dump_json()) == term == resolve_term(term)


def test_a_scalar_with_a_gradient_for_the_student_alone(name: str) -> None:
    tensors = [each.requires_grad_() for each in batch(name)]
    loss = made(name)
    value = loss(*tensors)
    value.backward()
    assert value.shape == () and value.dtype == torch.float32 and 0 < value < 4
    assert [each.grad is not None for each in tensors] == [True, False] * (len(tensors) // 2)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in [*tensors[::2], *loss.parameters()])


def test_a_float64_twin(name: str) -> None:
    single, double = (made(name).to(dtype)(*batch(name, dtype)) for dtype in (torch.float32, torch.float64))
    assert double.dtype == torch.float64
    assert single.item() == pytest.approx(double.item(), rel=1e-5)


def test_low_precision_and_autocast_change_nothing_but_the_inputs(name: str) -> None:
    loss, low = made(name), batch(name, torch.bfloat16)
    expected = loss(*(each.float() for each in low))
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(*low).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_huge_and_tiny_features_give_finite_values_and_gradients(name: str, scale: float) -> None:
    tensors = [(each * scale).requires_grad_() for each in batch(name)]
    value = made(name)(*tensors)
    value.backward()
    assert value.isfinite() and all(each.grad is not None and each.grad.isfinite().all() for each in tensors[::2])


def test_features_without_spread_give_finite_values_and_gradients(name: str) -> None:
    tensors = [torch.zeros_like(each).requires_grad_() for each in batch(name)]
    value = made(name)(*tensors)
    value.backward()
    assert value.isfinite() and all(each.grad is not None and each.grad.isfinite().all() for each in tensors[::2])


def test_two_steps_of_training_lower_it(name: str) -> None:
    student, *others = batch(name)
    loss, student = made(name), student.requires_grad_()
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(3):
        optimizer.zero_grad()
        value = loss(student, *others)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > values[1] > values[2]


def test_whether_ranks_share_a_batch_is_said_by_the_training_alone(name: str) -> None:
    assert "global_batch=False" in repr(made(name))
    with pytest.raises(GeodistillError, match="global_batch"):
        made(name, global_batch=False)
    assert "global_batch=False" in repr(made(name, global_batch=True)), "the default of older recipes says nothing"
    assert "global_batch=True" in repr(
        LOSSES[name].loss(*(WIDTHS if LOSSES[name].reads_widths else ()), global_batch=True)
    )
