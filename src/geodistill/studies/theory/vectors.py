"""Student vectors under each loss: how many stay orthogonal, what the other measures do, and which loss is fastest."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, pstdev, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from geodistill.display import Table, decimal
from geodistill.geometry import Geometry, floor
from geodistill.studies.theory.descent import OBJECTIVES, PRINCIPAL, RACERS, Descent, MakeLoss, descend, random_start
from geodistill.studies.theory.findings import Chart, Claim, Finding, Line
from geodistill.studies.theory.sizes import Sizes

MEASURES = {"procrustes": "D_P²", "gram": "D_FG²", "cka": "CKA", "residual": "projection residual"}
ROUNDING = 1e-9
NEAR = 0.1  # of the way from the start to the floor that may be left, where speed is compared


def partly_orthogonal(rows: int, share: float, seed: int) -> Tensor:
    """A teacher of unit vectors (n, d_t): a share of them has a direction each, the others lie in two antipodal points.

    All are turned by a random rotation and moved by 2 % noise, so that no coordinate is special.
    """
    orthogonal = round(share * rows)
    vectors = torch.zeros(rows, orthogonal + 1, dtype=torch.float64)
    vectors[:orthogonal, 1:] = torch.eye(orthogonal, dtype=torch.float64)
    vectors[orthogonal:, 0] = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(rows)[: rows - orthogonal]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(orthogonal + 1, orthogonal + 1, generator=generator, dtype=torch.float64)).Q
    return (vectors + 0.02 * noise / vectors.shape[1] ** 0.5) @ turn


def count_orthogonal(vectors: Tensor, epsilon: float) -> int:
    """The number of vectors that are ε-orthogonal to each other, |cos| ≤ ε, found greedily in the order of the rows.

    The largest such set may be larger; to find it is as hard as to find a largest clique. Zero vectors do not count.
    """
    lengths = vectors.norm(dim=1)
    unit = vectors[lengths > 1e-12 * lengths.max()]
    unit = unit / unit.norm(dim=1, keepdim=True)
    close = (unit @ unit.mT).abs() > epsilon
    free = torch.ones(len(unit), dtype=torch.bool)
    count = 0
    for place in range(len(unit)):
        if free[place]:
            count += 1
            free &= ~close[place]
    return count


class Run(NamedTuple):
    loss: str
    share: float
    width: int
    seed: int
    kept: int
    teacher_kept: int
    floor: Geometry
    descent: Descent


def optimise_all(sizes: Sizes) -> list[Run]:
    """Optimise vectors for each loss, share, width and seed, from the same start."""
    runs = []
    for share in sizes.shares:
        for seed in sizes.seeds:
            teacher = partly_orthogonal(sizes.rows, share, seed)
            known = count_orthogonal(teacher, sizes.epsilon)
            for width in sizes.widths:
                start, best = random_start(sizes.rows, width, seed), floor(teacher, width)
                for name, make_loss in OBJECTIVES.items():
                    found = descend(make_loss, teacher, start, steps=sizes.steps)
                    count = count_orthogonal(found.student, sizes.epsilon)
                    runs.append(Run(name, share, width, seed, count, known, best, found))
    return runs


def orthogonal_vectors(sizes: Sizes) -> Finding:
    """Count ε-orthogonal student vectors under each loss, and hold every measure against its floor."""
    runs = optimise_all(sizes)
    settings = sorted({(run.share, run.width) for run in runs})
    totals = {loss: mean(run.kept for run in runs if run.loss == loss) for loss in OBJECTIVES}
    shown = ", ".join(f"{loss} {total:.1f}" for loss, total in totals.items())
    least = {
        "procrustes": min(each.procrustes - run.floor.procrustes for run in runs for each in run.descent.track),
        "gram": min(each.gram - run.floor.gram for run in runs for each in run.descent.track),
        "cka": min(run.floor.cka - each.cka for run in runs for each in run.descent.track),
    }
    by_own = {
        loss: max(getattr(run.descent.track[-1], loss) - getattr(run.floor, loss) for run in runs if run.loss == loss)
        for loss in ("procrustes", "gram")
    }
    projected = [run.descent.track[-1] for run in runs if run.loss == "projection"]
    others = [run.descent.track[-1] for run in runs if run.loss == "procrustes"]
    least_error = all(p.residual <= o.residual + 0.02 for p, o in zip(projected, others, strict=True))
    further = all(p.procrustes > o.procrustes for p, o in zip(projected, others, strict=True))
    claims = [
        _more_kept(runs, ("procrustes", "gram"), "projection", f"means: {shown}"),
        _more_kept(runs, ("procrustes", "gram"), "cka"),
        _more_kept(runs, ("gram",), "procrustes"),
        Claim(
            "No student of width d_s comes nearer than the floor of that width, under any loss.",
            min(least.values()) > -ROUNDING,
            ", ".join(f"smallest gap in {MEASURES[name]} {value:.1e}" for name, value in least.items()),
        ),
        Claim(
            "A student that is optimised under D_P² or D_FG² ends within 0.01 of its floor.",
            max(by_own.values()) < 0.01,
            ", ".join(f"largest gap in {MEASURES[name]} {value:.4f}" for name, value in by_own.items()),
        ),
        Claim(
            "A small projected loss does not bring the geometry along: the residual of the best map is at most 0.02 "
            "above that under Procrustes, and D_P² is larger in every run.",
            least_error and further,
            f"mean residual {mean(p.residual for p in projected):.3f} against "
            f"{mean(o.residual for o in others):.3f}; mean D_P² {mean(p.procrustes for p in projected):.3f} against "
            f"{mean(o.procrustes for o in others):.3f}",
        ),
    ]
    return Finding(
        "Student vectors that are optimised directly",
        claims,
        _counts_table(runs, settings),
        _tracks(runs, sizes),
        f"A count is of vectors with |cos| ≤ {sizes.epsilon:g}, found greedily, so it bounds the largest set from "
        "below. Which loss keeps most depends on ε, on the teacher and on how long one optimises.",
    )


def _more_kept(runs: Sequence[Run], first: Sequence[str], second: str, more: str = "") -> Claim:
    """Whether the first losses keep more ε-orthogonal vectors than the second, run by run from the same start: the mean
    difference has to exceed twice its standard error."""
    kept = {(run.loss, run.share, run.width, run.seed): run.kept for run in runs}
    setups = sorted({key[1:] for key in kept})
    gains = [mean(kept[(loss, *setup)] for loss in first) - kept[(second, *setup)] for setup in setups]
    error = stdev(gains) / len(gains) ** 0.5
    names = " and ".join(first).capitalize()
    return Claim(
        f"{names} {'keep' if len(first) > 1 else 'keeps'} more ε-orthogonal student vectors than {second}.",
        mean(gains) > 2 * error,
        f"mean difference {mean(gains):+.2f} ± {error:.2f} over {len(gains)} starts" + (f"; {more}" if more else ""),
    )


def _counts_table(runs: Sequence[Run], settings: Sequence[tuple[float, int]]) -> Table:
    rows = []
    for share, width in settings:
        here = [run for run in runs if (run.share, run.width) == (share, width)]
        cells = [_spread([run.kept for run in here if run.loss == loss]) for loss in OBJECTIVES]
        rows.append([f"{share:.0%} orthogonal, d_s = {width}", _spread([run.teacher_kept for run in here]), *cells])
    return Table(["teacher and width", "teacher", *OBJECTIVES], rows, "ε-orthogonal vectors at the end")


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {pstdev(values):.1f}" if len(values) > 1 else f"{mean(values):.0f}"


def _tracks(runs: Sequence[Run], sizes: Sizes) -> list[Chart]:
    """One chart for each measure and width, at the middle share: a line for each loss, the floor dotted."""
    share = sizes.shares[len(sizes.shares) // 2]
    charts = []
    for width in sizes.widths:
        here = [run for run in runs if (run.share, run.width) == (share, width)]
        for measure, name in MEASURES.items():
            lines = []
            for loss in OBJECTIVES:
                tracks = [[getattr(each, measure) for each in run.descent.track] for run in here if run.loss == loss]
                steps = [float(step) for step in here[0].descent.steps]
                lines.append(Line(loss, steps, [mean(values) for values in zip(*tracks, strict=True)]))
            if measure != "residual":
                best = mean(getattr(run.floor, measure) for run in here)
                lines.append(Line("floor", [steps[0], steps[-1]], [best, best], dotted=True))
            charts.append(Chart(f"{name}, d_s = {width}, {share:.0%} orthogonal", "step", name, lines))
    return charts


def convergence(sizes: Sizes) -> Finding:
    """Count the steps of each loss to near the floor, from the same start, each with the best of several rates."""
    share, width = sizes.shares[len(sizes.shares) // 2], sizes.widths[-1]
    found: dict[tuple[str, str], list[int | None]] = {}
    lines = []
    for name, make_loss in RACERS.items():
        by_rate = [_race(make_loss, share, width, rate, sizes) for rate in sizes.rates]
        for measure in ("procrustes", "gram"):
            found[name, measure] = min((each.steps[measure] for each in by_rate), key=_slowness)
        best = min(by_rate, key=lambda race: _slowness(race.steps["procrustes"])).track
        lines.append(Line(name, [float(step) for step in range(0, 2 * len(best), 2)], best))
    steps = {key: _slowness(values) for key, values in found.items()}
    lead = {
        measure: all(steps["procrustes", measure] <= steps[name, measure] for name in RACERS)
        for measure in ("procrustes", "gram")
    }
    shown = {
        measure: ", ".join(f"{name} {_steps(found[name, measure], sizes)}" for name in RACERS)
        for measure in ("procrustes", "gram")
    }
    claims = [
        Claim(
            "No loss reaches D_P² near its floor in fewer steps than Procrustes.",
            lead["procrustes"],
            shown["procrustes"],
        ),
        Claim("No loss reaches D_FG² near its floor in fewer steps than Procrustes.", lead["gram"], shown["gram"]),
        Claim(
            "A free rotation saves steps: Procrustes is at least as fast as the error to fixed principal components.",
            steps["procrustes", "procrustes"] <= steps[PRINCIPAL, "procrustes"],
            f"{_steps(found['procrustes', 'procrustes'], sizes)} against "
            f"{_steps(found[PRINCIPAL, 'procrustes'], sizes)}",
        ),
    ]
    rows = [[name, *(_steps(found[name, measure], sizes) for measure in ("procrustes", "gram"))] for name in RACERS]
    return Finding(
        "Steps to come near the floor",
        claims,
        Table(["loss", "steps for D_P²", "steps for D_FG²"], rows, "Steps from the same start"),
        [Chart(f"D_P², d_s = {width}, each loss at its best rate", "step", "D_P²", lines)],
        f"Near: at most {NEAR:.0%} of the distance between start and floor is left. Mean steps over seeds, Adam, each "
        f"loss with the best of the rates {', '.join(map(str, sizes.rates))}. Vectors are optimised directly; a "
        "network that makes them may behave otherwise.",
    )


class Race(NamedTuple):
    """By measure the steps of each seed to near its floor, and the mean D_P² every second step."""

    steps: dict[str, list[int | None]]
    track: list[float]


def _race(make_loss: MakeLoss, share: float, width: int, rate: float, sizes: Sizes) -> Race:
    steps: dict[str, list[int | None]] = {"procrustes": [], "gram": []}
    tracks = []
    for seed in sizes.seeds:
        teacher, start = partly_orthogonal(sizes.rows, share, seed), random_start(sizes.rows, width, seed)
        run = descend(make_loss, teacher, start, steps=sizes.steps, rate=rate, every=2)
        best = floor(teacher, width)
        for measure, values in steps.items():
            low = getattr(best, measure)
            goal = low + NEAR * (getattr(run.track[0], measure) - low)
            values.append(run.steps_to(measure, goal))
        tracks.append([each.procrustes for each in run.track])
    return Race(steps, [mean(values) for values in zip(*tracks, strict=True)])


def _slowness(steps: Sequence[int | None]) -> float:
    known = [step for step in steps if step is not None]
    return mean(known) if len(known) == len(steps) else float("inf")


def _steps(steps: Sequence[int | None], sizes: Sizes) -> str:
    slowness = _slowness(steps)
    return f"> {sizes.steps}" if slowness == float("inf") else decimal(slowness, 0)
