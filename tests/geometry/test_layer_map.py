from __future__ import annotations

from itertools import combinations, combinations_with_replacement, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.geometry.layer_map import describe_pairs, left_to_go, monotone_map


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_no_monotone_map_is_cheaper(rows: int, columns: int, seed: int) -> None:
    costs = np.random.default_rng(seed).random((rows, columns))
    choose = combinations if rows <= columns else combinations_with_replacement
    least = min(sum(costs[i, j] for i, j in enumerate(each)) for each in choose(range(columns), rows))
    chosen = monotone_map(costs)
    assert sum(costs[i, j] for i, j in enumerate(chosen)) == least or np.isclose(
        sum(costs[i, j] for i, j in enumerate(chosen)), least
    )
    assert all(a < b if rows <= columns else a <= b for a, b in pairwise(chosen))


def test_the_reason_names_a_nearer_layer_that_the_order_forbids() -> None:
    left = [[0.5, 0.1], [0.2, 0.95]]
    chosen = monotone_map(left)
    assert chosen == [0, 1]
    reasons = describe_pairs((["1", "2"], ["3", "6"]), left, chosen)
    assert "student 1 ↔ teacher 3: 50%" in reasons[0] and "layer 6 is nearer (90%)" in reasons[0]
    assert "hardly better than chance" in reasons[1]


def test_the_way_that_is_left_is_one_at_chance_and_zero_at_the_floor() -> None:
    assert left_to_go(0.3, 0.1, 0.9) == (0.3 - 0.1) / 0.8
    assert left_to_go(0.1, 0.1, 0.9) == 0 and left_to_go(0.9, 0.1, 0.9) == 1 and left_to_go(0.5, 0.5, 0.5) == 1
