"""What an inspection found: arrays for each layer and each pair of layers, shown as tables and as figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from geodistill.display import Drawn, Table, bullets, decimal, notebook, plain, whole_line
from geodistill.studies.report.plots import Figure, heat_map, line_chart

Array = NDArray[np.float64]
MATRICES = {
    "procrustes": "D_P²",
    "gram": "D_FG²",
    "cka": "CKA",
    "cka_debiased": "CKA, debiased",
    "residual": "projection residual",
    "neighbours": "neighbour overlap",
}
SHOWN = 16  # columns of a matrix that a terminal has room for
NEARER_IS_LOWER = ("procrustes", "gram", "residual")


@dataclass(frozen=True)
class Centroids:
    """The mean row of each class, of every layer: (classes, width) arrays, and the names of the classes."""

    names: list[str]
    student: list[Array]
    teacher: list[Array]

    def cosines(self, side: str, layer: int) -> Array:
        """Cosines (classes, classes) between the centroids of a layer, by its place, less the mean of them all."""
        points = getattr(self, side)[layer]
        points = points - points.mean(0)
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.where(lengths == 0, 1, lengths)
        return points @ points.T


@dataclass(frozen=True)
class Inspection:
    """What `geodistill.inspect` returns; L_s student layers and L_t teacher layers.

    Attributes:
        names: of student and teacher.
        layers: the name of each layer of both, such as the number of a hidden state.
        rows, row_kind: how many rows were compared, and of which kind.
        examples: how many examples the neighbours are of, each one row.
        k: how many neighbours.
        matrices: by name an array (L_s, L_t): D_P² `procrustes`, D_FG² `gram`, `cka`, `cka_debiased`, the `residual` of
            the best linear map, and `neighbours`, the share of the k nearest rows that both layers have in common.
        floors, chances: the same for `procrustes`, `gram` and `cka`: the best for the width of the student layer, and
            what unpaired rows give; `neighbours` has a chance level.
        ranks: the effective rank of each layer, of student and teacher.
        spectra: the shares of the variance along the principal directions of each layer.
        layer_map: [student, teacher] pairs in order, with a reason each; empty if layers have no numbers.
        centroids: of classes, if the data has one label for each example.
        places: the files that were written, by name.
    """

    names: tuple[str, str]
    layers: tuple[list[str], list[str]]
    rows: int
    row_kind: str
    examples: int
    k: int
    matrices: dict[str, Array]
    floors: dict[str, Array]
    chances: dict[str, Array]
    ranks: tuple[list[float], list[float]]
    spectra: tuple[list[Array], list[Array]]
    layer_map: list[tuple[int, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    centroids: Centroids | None = None
    places: dict[str, Path] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether a model was compared with itself."""
        return self.names[0] == self.names[1]

    @property
    def recipe(self) -> str:
        """The layer map as a part of a recipe; empty if there is none."""
        if not self.layer_map:
            return ""
        term = {"loss": "procrustes", "rows": self.row_kind, "layers": [list(pair) for pair in self.layer_map]}
        return str(yaml.safe_dump({"objective": {"features": [term]}}, sort_keys=False, default_flow_style=None))

    @property
    def lead(self) -> str:
        """The outcome in one sentence."""
        if self.alone:
            return (
                f"{self.names[0]}: {len(self.layers[0])} layers over {self.rows:,} rows, with effective ranks "
                f"{min(self.ranks[0]):.0f} to {max(self.ranks[0]):.0f}."
            )
        value, floor, chance = (table["procrustes"][-1, -1] for table in (self.matrices, self.floors, self.chances))
        return (
            f"The last layers of {self.names[0]} and {self.names[1]} have D_P² {value:.3f} over {self.rows:,} rows; "
            f"the floor is {floor:.3f}, chance {chance:.3f}."
        )

    @property
    def tables(self) -> list[Table]:
        """One table of the layers of each side, then one of each measure."""
        sides = [("student", 0), ("teacher", 1)] if not self.alone else [("model", 0)]
        found = [self._layer_table(name, side) for name, side in sides]
        for name, title in MATRICES.items():
            if name in self.matrices:
                found.append(self._matrix_table(name, title))
        return found

    def _layer_table(self, title: str, side: int) -> Table:
        rows = []
        for place, layer in enumerate(self.layers[side]):
            spectrum = self.spectra[side][place]
            cells = [str(len(spectrum)), decimal(self.ranks[side][place], 1), f"{spectrum[0]:.1%}"]
            cells += [f"{spectrum[:16].sum():.1%}"]
            if side == 1 and not self.alone:
                cells += [decimal(self.floors["procrustes"][-1, place], 4)]
            rows.append([f"layer {layer}", *cells])
        heads = [title, "width", "effective rank", "in 1 direction", "in 16"]
        heads += ["floor of D_P²"] if side == 1 and not self.alone else []
        return Table(heads, rows, f"Layers of the {title}")

    def _matrix_table(self, name: str, title: str) -> Table:
        rows = [
            [layer, *(decimal(value) for value in self.matrices[name][place])]
            for place, layer in enumerate(self.layers[0])
        ]
        chance = self.chances.get(name)
        if chance is not None:
            rows.append(["chance, mean", *(decimal(value) for value in chance.mean(0))])
        return Table([title, *self.layers[1]], rows, f"{title} of each student layer and teacher layer")

    def figures(self) -> dict[str, Figure]:
        """Plotly figures, dictionaries of `data` and `layout`.

        A heat map of each matrix with floor and chance on hover, the spectra, the effective ranks and, if there are
        classes, the cosines of their centroids.
        """
        figures = {}
        for name, title in MATRICES.items():
            if name in self.matrices:
                beside = {
                    word: table[name]
                    for word, table in (("floor", self.floors), ("chance", self.chances))
                    if name in table
                }
                figures[title] = heat_map(
                    self.matrices[name],
                    *self.layers,
                    f"{self.names[0]}, layer",
                    f"{self.names[1]}, layer",
                    beside,
                    dark_is_low=name in NEARER_IS_LOWER,
                )
        sides = ((0, "student"), (1, "teacher")) if not self.alone else ((0, "model"),)
        ranks = {name: (list(map(float, range(len(self.ranks[side])))), self.ranks[side]) for side, name in sides}
        figures["effective rank of each layer"] = line_chart(ranks, "place of the layer", "effective rank")
        for side, name in sides:
            lines = {
                f"layer {layer}": (list(map(float, range(1, 1 + len(shares)))), [float(each) for each in shares])
                for layer, shares in zip(self.layers[side], self.spectra[side], strict=True)
            }
            figures[f"spectrum of the {name}"] = line_chart(lines, "direction", "share of the variance", log=True)
        if self.centroids is not None and len(self.centroids.names) > 1:
            for side, name in sides:
                which = "student" if side == 0 else "teacher"
                labels = self.centroids.names
                figures[f"cosines of class centroids, last layer of the {name}"] = heat_map(
                    self.centroids.cosines(which, -1), labels, labels, "class", "class", {}, dark_is_low=False
                )
        return figures

    def to_dict(self) -> dict[str, Any]:
        """Return what inspect.json holds."""
        listed = {
            name: {key: table.tolist() for key, table in getattr(self, name).items()}
            for name in ("matrices", "floors", "chances")
        }
        return {
            "names": list(self.names),
            "layers": [list(side) for side in self.layers],
            "rows": self.rows,
            "row_kind": self.row_kind,
            "examples": self.examples,
            "k": self.k,
            **listed,
            "effective_ranks": [list(side) for side in self.ranks],
            "spectra": [[each.tolist() for each in side] for side in self.spectra],
            "layer_map": [list(pair) for pair in self.layer_map],
            "reasons": self.reasons,
            "centroids": None
            if self.centroids is None
            else {
                "names": self.centroids.names,
                "student": [each.tolist() for each in self.centroids.student],
                "teacher": [each.tolist() for each in self.centroids.teacher],
            },
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.lead)
        for table in self.tables:
            if len(table.heads) <= SHOWN + 1:
                yield ""
                yield Drawn(table)
        if len(self.layers[1]) > SHOWN:
            yield ""
            yield Text(
                f"The matrices of {len(self.layers[0])} × {len(self.layers[1])} layers are in the report and in "
                "`matrices`: they are too wide for a terminal."
            )
        if self.layer_map:
            yield ""
            yield Text("Layer map, in order:")
            yield bullets(self.reasons)
            yield Text(self.recipe.rstrip())
        for name, place in self.places.items():
            yield whole_line(f"{name}: {place}")

    def __str__(self) -> str:
        return plain(self)

    def _repr_html_(self) -> str:
        return notebook(self.lead, self.tables, self.reasons, self.places)
