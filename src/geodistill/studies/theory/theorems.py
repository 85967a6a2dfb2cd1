"""What the paper proves, on its constructions: Theorems 1 and 2, the identities, and what few rows do."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from geodistill.display import Table, decimal
from geodistill.geometry import Geometry, Moments, cka, measure
from geodistill.geometry.projection import projection_residual
from geodistill.losses import ProjectionLoss
from geodistill.studies.theory.findings import Chart, Claim, Finding, Line
from geodistill.studies.theory.sizes import Sizes

EXACT = 1e-9
NOISE_WIDTHS = 128, 384
FEW_DRAWS = 10


def antipodal_clouds(n: int, m: int) -> tuple[Tensor, Tensor]:
    """Theorem 1: n student vectors (n, 1) in two antipodal points, and the teacher (n, m + 1), of which m vectors have
    moved to m new directions, orthogonal to each other and to the line."""
    student = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).repeat(-(-n // 2), 1)[:n]
    teacher = torch.zeros(n, m + 1, dtype=torch.float64)
    teacher[:, :1] = student
    moved = torch.arange(m)
    teacher[moved, 0] = 0
    teacher[moved, 1 + moved] = 1
    return student, teacher


def theorem_1(sizes: Sizes) -> Finding:
    """Measure Theorem 1's construction: the student lost m orthogonal directions of n vectors."""
    found = {(n, m): measure(*antipodal_clouds(n, m)) for n, m in sizes.theorem_1}
    fixed = sizes.theorem_1[0][1]  # the m that several n share
    series = [(n, each) for (n, m), each in found.items() if m == fixed]
    slack = {(n, m): each.cka - (1 - m / n) for (n, m), each in found.items()}
    (n, m), last = max(found.items(), key=lambda item: item[0][0] / item[0][1])
    largest = max(each.procrustes / (2 * m / n) for (n, m), each in found.items())
    claims = [
        Claim(
            "CKA of a student that lost m of n directions is at least 1 − m/n − o(1).",
            all(value > -1.5 * m / n**2 - EXACT for (n, m), value in slack.items()),
            f"CKA − (1 − m/n) between {min(slack.values()):.1e} and {max(slack.values()):.1e}",
        ),
        Claim(
            f"CKA → 1 as n grows, though m = {fixed} directions are lost.",
            all(a.cka < b.cka for (_, a), (_, b) in pairwise(series)),
            ", ".join(f"n = {n}: {each.cka:.4f}" for n, each in series),
        ),
        Claim(
            "D_P² and D_FG² stay large when CKA is near one.",
            last.procrustes > 0.5 and last.gram > 0.5,
            f"n = {n}, m = {m}: CKA {last.cka:.4f}, D_P² {last.procrustes:.4f}, D_FG² {last.gram:.4f}",
        ),
        Claim(
            "Under unit Frobenius norm D_P² and D_FG² shrink as well, at most like 2m/n.",
            largest < 1 + EXACT and all(each.gram < 2 * m / n for (n, m), each in found.items()),
            f"D_P² / (2m/n) at most {largest:.3f}",
        ),
    ]
    rows = [
        [f"n = {n}, m = {m}", *map(_four, (each.cka, 1 - m / n, each.procrustes, each.gram, 2 * m / n))]
        for (n, m), each in found.items()
    ]
    x = [float(n) for n, _ in series]
    chart = Chart(
        f"Theorem 1 with m = {fixed}",
        "n",
        "value",
        [
            Line("1 − CKA", x, [1 - each.cka for _, each in series]),
            Line("D_P²", x, [each.procrustes for _, each in series]),
            Line("D_FG²", x, [each.gram for _, each in series]),
            Line("2m/n", x, [2 * fixed / n for n in x], dotted=True),
        ],
        log_x=True,
    )
    return Finding(
        "Theorem 1: CKA forgets orthogonal directions",
        claims,
        Table(["", "CKA", "1 − m/n", "D_P²", "D_FG²", "2m/n"], rows, "Theorem 1"),
        [chart],
        "The theorem is about CKA alone. All three measures are taken of clouds of unit Frobenius norm, where m "
        "vectors have the share m/n of the whole, so none of them stays large as n grows.",
    )


class Stretched(NamedTuple):
    """Distances of a student S = TA⁻¹ whose axes are stretched by up to `condition`."""

    condition: float
    residual: float
    orthogonal: float
    geometry: Geometry


def stretched_student(teacher: Tensor, condition: float) -> Tensor:
    """S = TA⁻¹ for a diagonal A with entries between 1 and `condition`: SA = T, so the projected loss is zero."""
    scales = torch.logspace(0, 1, teacher.shape[1], base=condition, dtype=torch.float64)
    return teacher / scales


def theorem_2(sizes: Sizes) -> Finding:
    """Measure Theorem 2's counter-example, and what an orthogonal projection makes of it."""
    teacher = gaussian(sizes.rows, 8, seed=0)
    found = []
    for condition in (1.0, 2.0, 5.0, 20.0, 100.0):
        student = stretched_student(teacher, condition)
        residual = float(projection_residual(Moments.from_rows(student, teacher)))
        found.append(Stretched(condition, residual, best_orthogonal(student, teacher), measure(student, teacher)))
    start = stretched_student(teacher, 20.0)
    free, bound = (train_through(start, teacher, orthogonal) for orthogonal in (False, True))
    gap = max(abs(each.orthogonal - each.geometry.procrustes) for each in found)
    worst = found[-1]
    claims = [
        Claim(
            "A student may have no projected loss and another geometry.",
            all(each.residual < EXACT and each.geometry.gram > 0.01 for each in found[1:]),
            f"stretched {worst.condition:g} times: residual {worst.residual:.1e}, D_FG² {worst.geometry.gram:.4f}, "
            f"D_P² {worst.geometry.procrustes:.4f}",
        ),
        Claim(
            "Without a stretch there is no counter-example.",
            found[0].residual < EXACT and found[0].geometry.gram < EXACT,
            f"D_FG² {found[0].geometry.gram:.1e}",
        ),
        Claim(
            "The loss of the best orthogonal projection is D_P², so zero loss then means equal Gram matrices.",
            gap < 1e-6,
            f"largest difference {gap:.1e}",
        ),
        Claim(
            "Trained from the stretched student, a free projection leaves the geometry, an orthogonal one repairs it.",
            free[0] < 1e-3 < free[1].gram and bound[0] < 1e-3 and bound[1].gram < 1e-3,
            f"free: loss {free[0]:.1e}, D_FG² {free[1].gram:.1e}; "
            f"orthogonal: loss {bound[0]:.1e}, D_FG² {bound[1].gram:.1e}",
        ),
    ]
    rows = [
        [
            f"stretched {each.condition:g} times",
            *map(_four, (each.residual, each.orthogonal, each.geometry.procrustes, each.geometry.gram)),
        ]
        for each in found
    ]
    return Finding(
        "Theorem 2: zero projected loss is not equal geometry",
        claims,
        Table(["student", "free projection", "orthogonal projection", "D_P²", "D_FG²"], rows, "Theorem 2"),
    )


def best_orthogonal(student: Tensor, teacher: Tensor) -> float:
    """min ‖SQ/‖S‖_F − T/‖T‖_F‖_F² over orthogonal Q, with the Q of scipy."""
    from scipy.linalg import orthogonal_procrustes

    s, t = (each - each.mean(0) for each in (student, teacher))
    s, t = s / s.norm(), t / t.norm()
    rotation, _ = orthogonal_procrustes(s.numpy(), t.numpy())
    return float((s @ torch.from_numpy(rotation) - t).square().sum())


def train_through(start: Tensor, teacher: Tensor, orthogonal: bool, steps: int = 400) -> tuple[float, Geometry]:
    """Train vectors and a projection that starts as the identity; the loss and the geometry at the end.

    The free projection begins at the inverse of the stretch, where its loss is zero already.
    """
    width = start.shape[1]
    loss = ProjectionLoss(width, width, orthogonal=orthogonal).double()
    first = torch.eye(width, dtype=torch.float64) if orthogonal else torch.linalg.lstsq(start, teacher).solution
    loss.weight.data.copy_(first)
    student = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
        schedule.step()
    return loss(student, teacher).item(), measure(student, teacher)


def identities(sizes: Sizes) -> Finding:
    """Check on random pairs what ties the three measures together."""
    pairs = [random_pair(seed) for seed in range(sizes.pairs)]
    turned = [(rotated(teacher, seed), teacher) for seed, (_, teacher) in enumerate(pairs[: sizes.pairs // 4])]
    moved = [(s + 1e-3 * gaussian(*s.shape, seed=seed), t) for seed, (s, t) in enumerate(turned)]
    everything = [*pairs, *turned, *moved]
    found = [measure(*pair) for pair in everything]
    same, not_same = found[len(pairs) : len(pairs) + len(turned)], [*found[: len(pairs)], *found[-len(moved) :]]
    identity = upper = lower = 0.0
    for (student, teacher), each in zip(everything, found, strict=True):
        s, t = unit(student), unit(teacher)
        k_s, k_t = s @ s.mT, t @ t.mT
        a, b = k_t.norm(), k_s.norm()
        identity = max(identity, abs(float((a - b) ** 2 + 2 * a * b * (1 - each.cka)) - each.gram))
        if each.procrustes > EXACT:
            rank = min(len(s), s.shape[1] + t.shape[1])
            reach = float(torch.linalg.matrix_norm(s, 2) + torch.linalg.matrix_norm(t, 2))
            upper = max(upper, (each.gram / (reach**2 * each.procrustes)) ** 0.5)
            lower = max(lower, each.procrustes / (rank * each.gram) ** 0.5)
    claims = [
        Claim(
            "D_P = 0 exactly when D_FG = 0.",
            all(max(each.procrustes, each.gram) < EXACT for each in same)
            and all(min(each.procrustes, each.gram) > EXACT for each in not_same),
            f"{len(same)} rotated copies: at most {max(max(e.procrustes, e.gram) for e in same):.1e}; "
            f"{len(not_same)} others: at least {min(min(e.procrustes, e.gram) for e in not_same):.1e}",
        ),
        Claim(
            "D_FG² = (‖K_T‖ − ‖K_S‖)² + 2‖K_T‖‖K_S‖(1 − CKA).",
            identity < EXACT,
            f"{len(found)} pairs, largest error {identity:.1e}",
        ),
        Claim(
            "D_FG ≤ (σ₁(S) + σ₁(T)) D_P, so a small D_P makes D_FG small.",
            upper < 1 + EXACT,
            f"largest ratio {upper:.3f}",
        ),
        Claim(
            "D_P² ≤ √r D_FG with r the rank of K_T − K_S, so a small D_FG makes D_P small, by a looser bound.",
            lower < 1 + EXACT,
            f"largest ratio {lower:.3f}",
        ),
    ]
    sample = sorted(not_same, key=lambda each: each.procrustes)
    chart = Chart(
        "D_FG² against D_P² over random pairs",
        "D_P²",
        "D_FG²",
        [Line("pairs", [each.procrustes for each in sample], [each.gram for each in sample])],
    )
    rows = [
        ["rotated copies", str(len(same)), *_ranges(same)],
        ["random pairs and copies with noise", str(len(not_same)), *_ranges(not_same)],
    ]
    return Finding(
        "How the three measures hang together",
        claims,
        Table(["pairs", "number", "D_P²", "D_FG²", "CKA"], rows, "Ranges over pairs"),
        [chart],
        "The bounds are derived here: the first from TTᵀ − SSᵀ = ETᵀ + SQEᵀ with E = T − SQ, the second from "
        "Powers and Størmer (1970). σ₁ is the largest singular value of a cloud of unit Frobenius norm.",
    )


def few_rows(sizes: Sizes) -> Finding:
    """Measure independent Gaussian noise, whose true similarity is zero, with few rows and with many."""
    found = []
    for n in sizes.noise_rows:
        draws = range(FEW_DRAWS if n <= 64 else len(sizes.seeds))  # with few rows a single draw says little
        clouds = [
            (gaussian(n, NOISE_WIDTHS[0], seed=seed).float(), gaussian(n, NOISE_WIDTHS[1], seed=seed + 500).float())
            for seed in draws
        ]
        each = [
            (1 - measure(s, t).procrustes / 2, float(cka(s, t)), float(cka(s, t, debiased=True))) for s, t in clouds
        ]
        found.append((n, *(sum(values) / len(values) for values in zip(*each, strict=True))))
    debiased = max(abs(row[3]) for row in found)
    first, last = found[0], found[-1]
    claims = [
        Claim(
            f"With {first[0]} rows independent noise looks alike: Procrustes cosine and CKA above 0.9.",
            first[1] > 0.9 and first[2] > 0.9,
            f"Procrustes cosine {first[1]:.2f}, CKA {first[2]:.2f}",
        ),
        Claim(
            "The bias shrinks as rows are added.",
            all(a[1] > b[1] and a[2] > b[2] for a, b in pairwise(found)),
            f"n = {last[0]}: Procrustes cosine {last[1]:.2f}, CKA {last[2]:.2f}",
        ),
        Claim(
            "Debiased CKA is near zero for any number of rows, on average.", debiased < 0.05, f"at most {debiased:.3f}"
        ),
    ]
    x = [float(row[0]) for row in found]
    names = ("Procrustes cosine", "CKA", "debiased CKA")
    lines = [Line(name, x, [row[place] for row in found]) for place, name in enumerate(names, start=1)]
    rows = [[f"n = {row[0]}", *map(_four, row[1:])] for row in found]
    width = f"d_s = {NOISE_WIDTHS[0]}, d_t = {NOISE_WIDTHS[1]}"
    return Finding(
        "Few rows make any two clouds look alike",
        claims,
        Table([width, *names], rows, "Independent noise"),
        [Chart(f"Similarity of independent noise, {width}", "rows", "similarity", lines, log_x=True)],
        "So a distance is shown beside its level of chance here, which is taken with the same number of rows.",
    )


def gaussian(n: int, d: int, *, seed: int) -> Tensor:
    """Standard normal vectors (n, d), float64."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(cloud: Tensor) -> Tensor:
    """A cloud, centred, of unit Frobenius norm."""
    centred = cloud - cloud.mean(0)
    return centred / centred.norm()


def random_pair(seed: int) -> tuple[Tensor, Tensor]:
    """Two clouds of random sizes and spectra, which share a part that is random too."""
    draw = torch.Generator().manual_seed(seed)
    n, d_s, d_t = (int(torch.randint(low, high, (), generator=draw)) for low, high in ((4, 40), (1, 12), (1, 12)))
    decay = torch.rand(2, generator=draw, dtype=torch.float64) * 3
    mixed = torch.rand((), generator=draw, dtype=torch.float64)
    teacher = gaussian(n, d_t, seed=seed + 10**4) * torch.arange(1, d_t + 1) ** -decay[0]
    own = gaussian(n, d_s, seed=seed + 2 * 10**4) * torch.arange(1, d_s + 1) ** -decay[1]
    shared = teacher @ gaussian(d_t, d_s, seed=seed + 3 * 10**4)
    return mixed * own + (1 - mixed) * shared, teacher


def rotated(cloud: Tensor, seed: int) -> Tensor:
    """A cloud after a random rotation, at another scale and another place."""
    d = cloud.shape[1]
    return 3 * cloud @ torch.linalg.qr(gaussian(d, d, seed=seed)).Q + 1


def _ranges(found: list[Geometry]) -> list[str]:
    columns = ([getattr(each, name) for each in found] for name in ("procrustes", "gram", "cka"))
    return [f"{min(values):.4f} to {max(values):.4f}" for values in columns]


def _four(value: float) -> str:
    return decimal(value, 4)
