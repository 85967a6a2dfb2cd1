from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from geodistill.errors import GeodistillError
from geodistill.losses.divergences import DIVERGENCES, choose_divergence, jensen_shannon

Row = np.ndarray
BETA, SKEW = 0.3, 0.1


def kl(p: Row, q: Row) -> float:
    return float(scipy.stats.entropy(p, q))


ORACLES: dict[str, Callable[[Row, Row], float]] = {  # of the teacher's p and the student's q
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: (
        BETA * kl(p, BETA * p + (1 - BETA) * q) + (1 - BETA) * kl(q, BETA * p + (1 - BETA) * q)
    ),
    "skewed_forward_kl": lambda p, q: kl(p, SKEW * p + (1 - SKEW) * q),
    "skewed_reverse_kl": lambda p, q: kl(q, (1 - SKEW) * p + SKEW * q),
    "total_variation": lambda p, q: float(np.abs(p - q).sum() / 2),
}
BOUNDS = {
    "forward_kl": math.inf,
    "reverse_kl": math.inf,
    "jensen_shannon": -BETA * math.log(BETA) - (1 - BETA) * math.log(1 - BETA),
    "skewed_forward_kl": -math.log(SKEW),
    "skewed_reverse_kl": -math.log(SKEW),
    "total_variation": 1.0,
}
CURVATURE = {
    "forward_kl": 1.0,
    "reverse_kl": 1.0,
    "jensen_shannon": BETA * (1 - BETA),
    "skewed_forward_kl": (1 - SKEW) ** 2,
    "skewed_reverse_kl": (1 - SKEW) ** 2,
}


def value(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    formula = choose_divergence(name, beta=BETA, skew=SKEW)
    return formula(student.log_softmax(-1), teacher.log_softmax(-1))[0]


def draw(seed: int, scale: float = 4.0, rows: int = 6, width: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, width, generator=generator, dtype=torch.float64) * scale
    return student, teacher


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_each_against_scipy(name: str, scale: float) -> None:
    student, teacher = draw(0, scale)
    p, q = (scipy.special.softmax(side.numpy(), axis=-1) for side in (teacher, student))
    expected = [ORACLES[name](*rows) for rows in zip(p, q, strict=True)]
    assert value(name, student, teacher).numpy() == pytest.approx(expected, rel=1e-10, abs=1e-13)
    single = value(name, student.float(), teacher.float())
    assert single.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_even_jensen_shannon_is_the_square_of_scipys_distance() -> None:
    student, teacher = draw(1)
    p, q = (scipy.special.softmax(side.numpy(), axis=-1) for side in (teacher, student))
    found = jensen_shannon(student.log_softmax(-1), teacher.log_softmax(-1))[0]
    assert found.numpy() == pytest.approx(scipy.spatial.distance.jensenshannon(p, q, axis=-1) ** 2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_slope_is_the_derivative_by_each_log_probability(name: str) -> None:
    """Also off the simplex, where the slopes are used: no constant is left out."""
    formula = choose_divergence(name, beta=BETA, skew=SKEW)
    student, teacher = draw(2)
    student_log, teacher_log = student.log_softmax(-1), teacher.log_softmax(-1)
    step = 1e-6
    slope = formula(student_log, teacher_log)[1]
    for column in range(student.shape[-1]):
        moved = torch.zeros_like(student_log)
        moved[:, column] = step
        up, down = (formula(student_log + sign * moved, teacher_log)[0] for sign in (1, -1))
        torch.testing.assert_close((up - down) / (2 * step), slope[:, column], rtol=1e-6, atol=1e-9)


@given(st.sampled_from(list(DIVERGENCES)), st.integers(0, 10**6), st.floats(0.01, 50))
def test_never_negative_zero_at_equality_and_within_bounds(name: str, seed: int, scale: float) -> None:
    student, teacher = draw(seed, scale)
    found = value(name, student, teacher)
    assert (found >= -1e-13).all() and (found <= BOUNDS[name] + 1e-12).all()
    assert (value(name, teacher, teacher).abs() < 1e-14).all()
    assert (value(name, teacher + 7, teacher).abs() < 1e-12).all()


@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_jensen_shannon_changes_sides_with_its_beta(seed: int, beta: float) -> None:
    student, teacher = (side.log_softmax(-1) for side in draw(seed))
    swapped = jensen_shannon(teacher, student, 1 - beta)[0]
    torch.testing.assert_close(jensen_shannon(student, teacher, beta)[0], swapped)


def test_jensen_shannon_tends_to_either_kl() -> None:
    student, teacher = draw(3, 1.0)
    logs = student.log_softmax(-1), teacher.log_softmax(-1)
    small = 1e-7
    torch.testing.assert_close(
        jensen_shannon(*logs, small)[0] / small, value("forward_kl", student, teacher), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        jensen_shannon(*logs, 1 - small)[0] / small, value("reverse_kl", student, teacher), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", CURVATURE)
def test_near_agreement_they_differ_by_a_factor_alone(name: str) -> None:
    student, teacher = draw(4, 1.0)
    student = teacher + 1e-4 * student
    p, q = teacher.softmax(-1), student.softmax(-1)
    half = ((p - q) ** 2 / p).sum(-1) / 2
    torch.testing.assert_close(value(name, student, teacher), CURVATURE[name] * half, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_skew_of_zero_is_no_skew(name: str) -> None:
    logs = [side.log_softmax(-1) for side in draw(5)]
    skewed = choose_divergence(name, skew=0.0)(*logs)
    torch.testing.assert_close(skewed, choose_divergence(name.removeprefix("skewed_"), skew=0.4)(*logs))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("reverse", {}, r"Unknown divergence 'reverse'\. Did you mean 'reverse_kl'"),
        ("forward_kl", {"beta": 0.0}, "between 0 and 1"),
        ("jensen_shannon", {"beta": 1.0}, "between 0 and 1"),
        ("jensen_shannon", {"beta": math.nan}, "between 0 and 1"),
        ("skewed_forward_kl", {"skew": 1.0}, "from 0 to below 1"),
        ("skewed_forward_kl", {"skew": -0.1}, "from 0 to below 1"),
    ],
)
def test_wrong_choices(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        choose_divergence(name, **options)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_table_of_the_documentation_has_it(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {DIVERGENCES[name].formula} |" in text
