"""How large the experiments of the theory are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes and seeds.

    seeds: of the random clouds
    rows: vectors of a synthetic teacher
    shares: which share of these vectors has a separate direction
    widths: d_s of the students
    steps: of the optimiser
    rates: learning rates, of which each loss takes its best one where speed is compared
    pairs: of random clouds, for the identities
    theorem_1: (n, m) of its construction
    noise_rows: numbers of rows at which the level of chance is measured
    epsilon: two vectors are ε-orthogonal if |cos| ≤ ε
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    rows: int = 64
    shares: tuple[float, ...] = (0.25, 0.5, 1.0)
    widths: tuple[int, ...] = (8, 16, 32)
    steps: int = 200
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    pairs: int = 200
    theorem_1: tuple[tuple[int, int], ...] = (
        *((n, 32) for n in (64, 128, 256, 512, 1024, 2048, 4096)),
        *((n, n // 8) for n in (256, 1024, 4096)),
    )
    noise_rows: tuple[int, ...] = (16, 32, 64, 256, 1024, 4096)
    epsilon: float = 0.3


FULL = Sizes()
QUICK = Sizes(
    seeds=(0,),
    rows=24,
    shares=(0.5,),
    widths=(6, 12),
    steps=60,
    rates=(0.03,),
    pairs=40,
    theorem_1=((64, 8), (512, 8)),
    noise_rows=(16, 64, 512),
)
