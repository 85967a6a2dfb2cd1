"""Which student layer goes with which teacher layer: the cheapest map that keeps their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def monotone_map(costs: ArrayLike) -> list[int]:
    """For each row of a matrix of costs (r, c) a column, such that columns never go back and the sum of costs is least.

    If there are enough columns (r ≤ c), each is taken once at most, so the map is one to one. Of equal sums the
    earlier columns win. Found by dynamic programming in O(r c):

        best[i, j] = min(best[i, j − 1], best[i − 1, j − step] + costs[i, j]),    step = 1 if r ≤ c else 0

    Args:
        costs: finite numbers, such as distances of each student layer from each teacher layer.

    Returns the column of each row.

    Example: `monotone_map([[0.1, 0.9, 0.8], [0.7, 0.6, 0.2]])` is `[0, 2]`.

    Reference: Needleman and Wunsch (1970) align sequences so.
    """
    matrix = np.asarray(costs, dtype=float)
    rows, columns = matrix.shape
    step = 1 if rows <= columns else 0
    best = np.full((rows + 1, columns + 1), np.inf)  # best[i, j]: the first i rows within the first j columns
    best[0] = 0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            best[i, j] = min(best[i, j - 1], best[i - 1, j - step] + matrix[i - 1, j - 1])
    chosen: list[int] = []
    j = columns
    for i in range(rows, 0, -1):
        while best[i, j - 1] == best[i, j]:
            j -= 1
        chosen.append(j - 1)
        j -= step
    return chosen[::-1]


def left_to_go(value: float, floor: float, chance: float) -> float:
    """The share of the way from chance to the floor that a distance still has to go: 0 at the floor, 1 at chance.

    Layers differ in how near chance and floor are, so distances alone favour teacher layers of few directions.
    """
    span = chance - floor
    return (value - floor) / span if span > 0 else 1.0


def describe_pairs(names: tuple[Sequence[str], Sequence[str]], left: ArrayLike, chosen: Sequence[int]) -> list[str]:
    """Give the reason of each pair of a map, one sentence each.

    Args:
        names: of the rows and of the columns.
        left: `left_to_go` of each row and column.
        chosen: the column of each row.
    """
    matrix = np.asarray(left, dtype=float)
    reasons = []
    for row, column in enumerate(chosen):
        here, nearest = matrix[row, column], int(matrix[row].argmin())
        if nearest == column:
            reason = f"the nearest of all teacher layers: {1 - here:.0%} of the way from chance to the floor"
        else:
            reason = (
                f"{1 - here:.0%} of the way from chance to the floor; layer {names[1][nearest]} is nearer "
                f"({1 - matrix[row, nearest]:.0%}), and would cost other layers more in this order"
            )
        if here > 0.9:
            reason += "; hardly better than chance, so this pair says little"
        reasons.append(f"student {names[0][row]} ↔ teacher {names[1][column]}: {reason}.")
    return reasons
