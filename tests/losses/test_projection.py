"""The projection loss: its three formulas, and what an orthogonal map forbids."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from geodistill.losses import ProjectionLoss
from geodistill.losses.projection import orthonormal


def features(n=40, student_width=5, teacher_width=9):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(n, student_width, generator=generator, dtype=torch.float64) + 1
    return student, torch.randn(n, teacher_width, generator=generator, dtype=torch.float64) - 2


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_formulas(orthogonal, center, masked):
    student, teacher = features()
    mask = torch.arange(40) % 3 != 0 if masked else None
    s, t = (student[mask], teacher[mask]) if masked else (student, teacher)

    def loss(normalize):
        torch.manual_seed(0)
        made = ProjectionLoss(5, 9, orthogonal=orthogonal, center=center, normalize=normalize).double()
        if made.bias is not None:
            torch.nn.init.normal_(made.bias)
        return made

    def mapped(made, x):
        x = x @ made.projection() + (0 if made.bias is None else made.bias)
        return x - x.mean(0) if center else x

    raw, unit, rows = loss(False), loss(True), loss("rows")
    target = t - t.mean(0) if center else t
    assert torch.allclose(raw(student, teacher, mask), torch.nn.functional.mse_loss(mapped(raw, s), target))
    p = mapped(unit, s)
    assert torch.allclose(unit(student, teacher, mask), (p / p.norm() - target / target.norm()).square().sum())
    lengths = [x / x.norm(dim=1, keepdim=True) for x in (s, t)]
    target = lengths[1] - lengths[1].mean(0) if center else lengths[1]
    expected = (mapped(rows, lengths[0]) - target).square().sum(1).mean()
    assert torch.allclose(rows(student, teacher, mask), expected)


@pytest.mark.parametrize("widths", [(5, 9), (9, 5), (6, 6)])
def test_an_orthogonal_map_is_orthonormal_and_stays_so(widths):
    torch.manual_seed(0)
    student, teacher = features(40, *widths)
    loss = ProjectionLoss(*widths, orthogonal=True)
    before = loss(student, teacher).item()
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(student.float(), teacher.float())
        value.backward()
        optimizer.step()
    weight = loss.projection()
    product = weight @ weight.T if widths[0] <= widths[1] else weight.T @ weight
    assert torch.allclose(product, torch.eye(min(widths)), atol=1e-5)
    assert loss(student, teacher) < before


def test_a_linear_map_hides_what_an_orthogonal_one_shows():
    """Zero projected loss does not mean equal Gram matrices, unless the map is orthogonal."""
    student, _ = features()
    teacher = student @ torch.diag(torch.tensor([10.0, 1, 1, 0.1, 0.1], dtype=torch.float64))
    solved = torch.linalg.lstsq(student - student.mean(0), teacher - teacher.mean(0)).solution
    plain, orthogonal = ProjectionLoss(5, 5).double(), ProjectionLoss(5, 5, orthogonal=True).double()
    plain.weight.data = solved
    assert plain(student, teacher) < 1e-12
    for seed in range(20):
        torch.manual_seed(seed)
        torch.nn.init.normal_(orthogonal.weight)
        assert orthogonal(student, teacher) > 0.1


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("center", [False, True])
def test_weights_survive_state_dict_safetensors_and_copies(orthogonal, center, tmp_path):
    student, teacher = features()
    loss = ProjectionLoss(5, 9, orthogonal=orthogonal, center=center).double()
    expected = loss(student, teacher)
    save_file(loss.state_dict(), tmp_path / "loss.safetensors")
    again = ProjectionLoss(5, 9, orthogonal=orthogonal, center=center).double()
    assert again(student, teacher) != expected
    again.load_state_dict(load_file(tmp_path / "loss.safetensors"))
    assert again(student, teacher) == expected == copy.deepcopy(loss)(student, teacher)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_low_precision_parameters(orthogonal):
    student, teacher = features()
    loss = ProjectionLoss(5, 9, orthogonal=orthogonal).bfloat16()
    value = loss(student.bfloat16(), teacher.bfloat16())
    value.backward()
    assert value.dtype == torch.float32 and loss.weight.grad.dtype == torch.bfloat16


def test_orthonormal_factor_is_differentiable():
    for shape in ((5, 3), (3, 5), (4, 4)):
        matrix = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.autograd.gradcheck(orthonormal, matrix.requires_grad_())
        assert torch.allclose(orthonormal(3 * matrix), orthonormal(matrix))


def test_the_bias_is_there_only_when_it_matters():
    assert ProjectionLoss(5, 9).bias is None
    assert ProjectionLoss(5, 9, center=False).bias.shape == (9,)
