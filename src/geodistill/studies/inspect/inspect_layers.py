"""`geodistill inspect`: every layer of one model beside every layer of another, over any data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from geodistill.distillation.layer_choice import advise_layers
from geodistill.errors import GeodistillError
from geodistill.files import write_json
from geodistill.geometry.chance import chance_of_spectra
from geodistill.geometry.layer_map import left_to_go
from geodistill.geometry.layer_moments import LayerMoments
from geodistill.geometry.reference import floor_of_spectrum, rank_of_spectrum
from geodistill.runs.folder import make_folder
from geodistill.runs.recipe_file import split_override
from geodistill.studies.inspect.inspection import Array, Centroids, Inspection
from geodistill.studies.inspect.sources import LayerSource, array_source, is_array, model_source
from geodistill.studies.report.study_page import write_inspection

SAMPLED = 1000  # examples whose neighbours are looked up
PAGE, NUMBERS = "inspect.html", "inspect.json"
GEOMETRY = ("procrustes", "gram", "cka")


def inspect(
    student: str | Path,
    teacher: str | Path | None = None,
    data: str | Mapping[str, Any] | None = None,
    *,
    overrides: Sequence[str] = (),
    task: str = "classification",
    split: str = "all",
    rows: str | None = None,
    neighbours: int = 10,
    folder: str | Path | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Inspection:
    """Compare every layer of a student with every layer of a teacher, on the same data, in one pass.

    The same as `geodistill inspect`. Second moments are summed from batch to batch, so memory does not grow with the
    data: it holds the moments and a sample of 1,000 examples.

    Args:
        student: a folder, a hub name, bundled:NAME or the folder of a run; or a file of saved features, .npy (n, d) or
            .safetensors with a tensor (n, d) for each layer.
        teacher: the same. None: a model is compared with itself.
        data: `data.source` of a recipe, or a mapping with the keys of its data section. Not with arrays.
        overrides: keys of the data section, such as `["data.text=COLUMN", "data.limit=500"]`.
        task: how the data is read: a task of a recipe.
        split: train, validation, test, or all of them.
        rows: a kind of rows; by default tokens, words with two tokenizers, and the pooled map of an image.
        neighbours: k, of the neighbourhoods.
        folder: where inspect.html and inspect.json are written; None: nothing is written.
        trust_remote_code: run the code that comes with the models.
        progress: show a progress bar.

    Returns:
        Arrays, tables and figures; it prints as tables and shows as HTML in a notebook.

    Raises:
        GeodistillError: something cannot be loaded, read or compared; the error says what to do about it.

    Example:
        found = geodistill.inspect("bundled:minilm-l3", "bundled:minilm-l6", "bundled:trec")
        found.matrices["procrustes"].shape
        print(found.recipe)
    """
    if neighbours < 1:
        raise GeodistillError(f"{neighbours} neighbours are none.", "Give 1 or more.")
    own, other = str(student), str(student if teacher is None else teacher)
    if is_array(own) != is_array(other):
        raise GeodistillError(
            f"'{own}' and '{other}' are a model and a file of features.", "Give two models, or two files of features."
        )
    place = None if folder is None else make_folder(Path(folder))
    if is_array(own):
        if data is not None or overrides:
            raise GeodistillError("Saved features are not read from data.", "Leave --data and its keys out.")
        source = array_source(own, other)
    else:
        if data is None:
            raise GeodistillError(
                "There is no data that the models could read.", "Give --data, such as --data bundled:trec or a file."
            )
        section = {"source": data} if isinstance(data, str) else dict(data)
        section |= data_keys(overrides)
        source = model_source(own, other, section, task=task, split=split, rows=rows, trust=trust_remote_code)
    found = inspect_source(source, neighbours, progress=progress)
    if place is None:
        return found
    write_json(place / NUMBERS, found.to_dict())
    write_inspection(place / PAGE, found)
    return replace(found, places={"Report": place / PAGE, "Numbers": place / NUMBERS})


def data_keys(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what overrides say of the data section. Raises GeodistillError for a key of another section."""
    keys = {}
    for override in overrides:
        dotted, value = split_override(override)
        section, _, key = dotted.partition(".")
        if section != "data" or not key:
            raise GeodistillError(
                f"'{dotted}' has no effect here.", "Only keys of the data are read: data.text=COLUMN."
            )
        keys[key] = value
    return keys


@torch.no_grad()
def inspect_source(source: LayerSource, neighbours: int, *, progress: bool = False) -> Inspection:
    """Read all parts of a source once, and return what they say."""
    moments, sample, sums = LayerMoments(), Sample(source.examples), ClassSums(source.classes)
    with tqdm(total=source.examples, unit="example", disable=not progress) as bar:
        for part in source:
            moments.add(part.student, part.teacher)
            sample.add(part.own_examples, part.other_examples)
            if part.labels is not None:
                sums.add(part.own_examples, part.other_examples, part.labels)
            bar.update(len(part.own_examples[0]))
    if moments.rows < 2:
        raise GeodistillError(f"There are {moments.rows} rows, and geometry needs two.", "Give more data.")
    spectra, widths = moments.spectra(), moments.widths
    shape = len(widths[0]), len(widths[1])
    pairs = [[moments.compare(i, j) for j in range(shape[1])] for i in range(shape[0])]
    chances = [[chance_of_spectra(own, other, moments.rows) for other in spectra[1]] for own in spectra[0]]
    floors = [[floor_of_spectrum(other, width) for other in spectra[1]] for width in widths[0]]
    matrices = {name: _table(pairs, name) for name in pairs[0][0]._fields}
    chance = {name: _table(chances, name) for name in GEOMETRY}
    k = min(neighbours, sample.count - 1)
    if k >= 1:
        matrices["neighbours"] = sample.overlap(k)
        chance["neighbours"] = np.full(shape, k / (sample.count - 1))
    left = [
        [left_to_go(pairs[i][j].procrustes, floors[i][j].procrustes, chances[i][j].procrustes) for j in range(shape[1])]
        for i in range(shape[0])
    ]
    # A model beside itself maps each layer to itself.
    advice = None if source.numbers is None or source.alone else advise_layers(left, source.numbers)
    return Inspection(
        names=source.names,
        layers=source.layers,
        rows=moments.rows,
        row_kind=source.row_kind,
        examples=sample.count,
        k=k,
        matrices=matrices,
        floors={name: _table(floors, name) for name in GEOMETRY},
        chances=chance,
        ranks=([rank_of_spectrum(each) for each in spectra[0]], [rank_of_spectrum(each) for each in spectra[1]]),
        spectra=([each.numpy() for each in spectra[0]], [each.numpy() for each in spectra[1]]),
        layer_map=[] if advice is None else advice.pairs,
        reasons=[] if advice is None else advice.reasons,
        centroids=sums.centroids(),
    )


class Sample:
    """At most `SAMPLED` of so many examples, evenly spread, with their row in each layer of both sides."""

    def __init__(self, examples: int) -> None:
        count = min(SAMPLED, examples)
        self.places = {number * examples // count for number in range(count)}
        self.sides: tuple[list[list[Tensor]], list[list[Tensor]]] = ([], [])
        self._seen = 0

    def add(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        size = len(student[0])
        kept = [place for place in range(size) if self._seen + place in self.places]
        for side, layers in zip(self.sides, (student, teacher), strict=True):
            side.append([rows[kept].float().cpu() for rows in layers])
        self._seen += size

    @property
    def count(self) -> int:
        return sum(len(part[0]) for part in self.sides[0])

    def overlap(self, k: int) -> Array:
        """The share of the k nearest neighbours of an example that are the same in both layers, on average."""
        own, others = ([nearest(torch.cat(parts), k) for parts in zip(*side, strict=True)] for side in self.sides)
        return np.array(
            [[(a.unsqueeze(2) == b.unsqueeze(1)).any(2).double().mean().item() for b in others] for a in own]
        )


def nearest(rows: Tensor, k: int) -> Tensor:
    """The places (n, k) of the k nearest other rows of each row (n, d), by Euclidean distance."""
    distances = torch.cdist(rows.double(), rows.double())
    distances.fill_diagonal_(torch.inf)
    return distances.topk(k, largest=False).indices


class ClassSums:
    """The sums of the rows of each class in each layer, from which the centroids come."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.counts = torch.zeros(len(names), dtype=torch.float64)

    def add(self, student: Sequence[Tensor], teacher: Sequence[Tensor], labels: Sequence[int]) -> None:
        places = torch.tensor(labels)
        self.counts.index_add_(0, places, torch.ones(len(labels), dtype=torch.float64))
        for side, layers in zip(self.sides, (student, teacher), strict=True):
            side.extend(
                torch.zeros(len(self.names), rows.shape[1], dtype=torch.float64) for rows in layers[len(side) :]
            )
            for total, rows in zip(side, layers, strict=True):
                total.index_add_(0, places, rows.double().cpu())

    def centroids(self) -> Centroids | None:
        present = self.counts > 0
        if not present.any():
            return None
        names = [name for name, there in zip(self.names, present.tolist(), strict=True) if there]
        own, others = (
            [(total[present] / self.counts[present].unsqueeze(1)).numpy() for total in side] for side in self.sides
        )
        return Centroids(names, own, others)


def _table(rows: Sequence[Sequence[Any]], name: str) -> Array:
    return np.array([[getattr(each, name) for each in row] for row in rows])
