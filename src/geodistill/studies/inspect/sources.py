"""Where the layers of an inspection come from: two models on data, or arrays that somebody saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from geodistill.distillation.layer_geometry import all_layers, run_layers
from geodistill.distillation.sides import Side, two_sides
from geodistill.errors import GeodistillError
from geodistill.features import KINDS
from geodistill.recipe import Recipe
from geodistill.runs.arguments import run_device, send
from geodistill.runs.recipe_file import check_recipe
from geodistill.tasks.choose import task_of
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.reading import read, student_reader
from geodistill.tasks.task import batch_places
from geodistill.tasks.text_reader import shared_position_limit

ARRAYS = (".npy", ".safetensors")
CHUNK = 4096  # rows of an array that are looked at together
BATCH = 32
POOLED = {True: "pooled", False: "mean"}  # one row for each example, of maps and of tokens


class Part(NamedTuple):
    """Some of the rows, layer by layer; one row for each example, layer by layer; a class number for each example."""

    student: list[Tensor]
    teacher: list[Tensor]
    own_examples: list[Tensor]
    other_examples: list[Tensor]
    labels: list[int] | None


@dataclass(frozen=True)
class LayerSource:
    """Layers of two sides, in parts.

    numbers: of the layers of both, if they have any
    examples: how many there are
    classes: the names of the labels; empty if there are none
    """

    names: tuple[str, str]
    layers: tuple[list[str], list[str]]
    numbers: tuple[list[int], list[int]] | None
    row_kind: str
    examples: int
    classes: list[str]
    parts: Any

    @property
    def alone(self) -> bool:
        """Whether both sides are one model."""
        return self.names[0] == self.names[1]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts())


def is_array(name: str) -> bool:
    """Whether a name is of a file of arrays."""
    return Path(name).suffix.lower() in ARRAYS


def array_source(student: str, teacher: str) -> LayerSource:
    """Open two files of features, .npy (n, d) or .safetensors with a tensor (n, d) for each layer.

    Rows are read in chunks, so that memory does not grow with them.
    Raises GeodistillError for a file that is no such array, and for different numbers of rows.
    """
    sides = [_open_array(student), _open_array(teacher)]
    counts = {len(array) for side in sides for array in side.values()}
    if len(counts) > 1:
        raise GeodistillError(
            f"The arrays have different numbers of rows: {', '.join(f'{n:,}' for n in sorted(counts))}.",
            "Save the same inputs, in the same order, for both models and for every layer.",
        )
    (rows,) = counts

    def parts() -> Iterator[Part]:
        for start in range(0, rows, CHUNK):
            own, others = (
                [torch.from_numpy(np.array(array[start : start + CHUNK], dtype=np.float64)) for array in side.values()]
                for side in sides
            )
            yield Part(own, others, own, others, None)

    names = _names(student, teacher)
    layers = list(sides[0]), list(sides[1])
    return LayerSource(names, layers, None, "rows", rows, [], parts)


class _Slices:
    """A tensor of a safetensors file, of which a slice is read when it is asked for."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with safe_open(path, "pt") as file:
            self.shape = tuple(file.get_slice(name).get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Any:
        with safe_open(self.path, "pt") as file:
            return file.get_slice(self.name)[part].double().numpy()


def _open_array(name: str) -> dict[str, Any]:
    path = Path(name).expanduser()
    if not path.is_file():
        raise GeodistillError(f"There is no file '{name}'.", "Give the path of a saved array: .npy or .safetensors.")
    try:
        if path.suffix.lower() == ".npy":
            arrays: dict[str, Any] = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
            if arrays[path.stem].dtype.kind not in "fiu":
                raise ValueError(f"its entries are {arrays[path.stem].dtype}")
        else:
            with safe_open(path, "pt") as file:
                found = list(file.keys())
            arrays = {key: _Slices(path, key) for key in sorted(found, key=_natural)}
    except Exception as error:  # numpy and safetensors raise errors of many kinds
        raise GeodistillError(
            f"'{name}' is no array that can be read: {str(error).splitlines()[0].rstrip('.')}.",
            "Save it by numpy.save or safetensors.torch.save_file, as numbers (rows, width).",
        ) from error
    for key, array in arrays.items():
        if len(array.shape) != 2 or not array.shape[0] or not array.shape[1]:
            raise GeodistillError(
                f"'{key}' of '{name}' has the shape {tuple(array.shape)}.",
                "Give matrices of features: (rows, width), a row for each input.",
            )
    if not arrays:
        raise GeodistillError(f"'{name}' holds no tensors.", "Save a tensor (rows, width) for each layer.")
    return arrays


def _natural(name: str) -> list[Any]:
    """A key that sorts layer_2 before layer_10."""
    words = "".join(c if c.isdigit() else f" {c} " for c in name).split()
    return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in words]


def model_source(
    student: str,
    teacher: str,
    data: Mapping[str, Any],
    *,
    task: str,
    split: str,
    rows: str | None,
    trust: bool,
) -> LayerSource:
    """Load two models and the data that both read.

    Raises GeodistillError for unknown models, data or rows, and for models that cannot read the data.
    """
    recipe = _recipe(_student_of(student), _student_of(teacher), data, task, rows, trust)
    loaded = task_of(recipe)
    names = _names(student, teacher)
    teachers, students = ModelSource.of_teacher(recipe.teacher), ModelSource(str(recipe.student.model), None, trust)
    others = loaded.load_reader(teachers)
    own_reader = student_reader(recipe, loaded) if student != teacher else None
    own = others if own_reader is None else own_reader
    big = _load(loaded, replace(teachers, whose="student"))
    small = big if student == teacher else _load(loaded, students)
    for model, reader in ((small, own), (big, others)):
        reader.configure(model)
    sides: tuple[Side, Side] = two_sides(small, own, big, others)
    reading = read(loaded, *sides, positions=shared_position_limit(small, big), kinds=[rows] if rows else [])
    of_maps = KINDS[reading.rows].of_maps
    kind = rows or (POOLED[True] if of_maps else reading.rows)
    splits = [name for name in reading.examples if split in ("all", name)]
    if not splits:
        raise GeodistillError(f"There is no split '{split}'.", f"Valid: all, {', '.join(reading.examples)}.")
    layers = all_layers(small, big, (own.probe(), others.probe()))
    classes = _classes(loaded)

    def parts() -> Iterator[Part]:
        for name in splits:
            examples = reading.examples[name]
            places = batch_places(examples, reading.reader, BATCH)
            kept: list[Any] = []

            def collated(
                places: Any = places, examples: Any = examples, kept: list[Any] = kept
            ) -> Iterator[dict[str, Any]]:
                for each in places:
                    batch = [examples[place] for place in each]
                    kept[:] = [each.get("labels") for each in batch]
                    yield reading.collate(batch)

            for batch in run_layers(small, big, collated(), layers):
                pooled = batch.rows(POOLED[of_maps])
                labels = [int(each) for each in kept] if classes else None
                yield Part(*batch.rows(kind), *pooled, labels)

    count = sum(len(reading.examples[name]) for name in splits)
    shown = list(map(str, layers[0])), list(map(str, layers[1]))
    return LayerSource(names, shown, layers, kind, count, classes, parts)


def _recipe(student: str, teacher: str, data: Mapping[str, Any], task: str, rows: str | None, trust: bool) -> Recipe:
    # Without a kind of rows, `model_source` chooses one; rows of whole examples are valid for any two readers.
    term = {"loss": "procrustes", "rows": rows or POOLED[task == "images"]}
    return check_recipe(
        {
            "task": task,
            "data": dict(data),
            # Training it is what makes a recipe take a new teacher; nothing is trained here.
            "teacher": {"model": teacher, "trust_remote_code": trust, "training": {}},
            "student": {"model": student, "trust_remote_code": trust},
            "objective": {"features": [term]},
        },
        "what is inspected",
    )


def _load(task: Any, source: ModelSource) -> Any:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)  # of the weights of a new model
        # A head of another task is replaced: what is inspected is below it.
        model = task.load_model(source, new_head=True)
    return send(model, run_device()).eval()


def _student_of(name: str) -> str:
    """The student within the folder of a run; any other name unchanged."""
    folder = Path(name).expanduser()
    inner = folder / "student"
    return str(inner) if inner.is_dir() and not (folder / "config.json").exists() else name


def _names(student: str, teacher: str) -> tuple[str, str]:
    """Short names of both sides, which differ if the sides do."""
    own, other = _short(student), _short(teacher)
    return (student, teacher) if own == other and student != teacher else (own, other)


def _short(name: str) -> str:
    path = Path(name.removeprefix("bundled:"))
    return path.parent.name if path.name == "student" and path.parent.name else path.name


def _classes(task: Any) -> list[str]:
    """The names of the classes, if each example has one label."""
    examples = getattr(task, "examples", None)
    known: Sequence[str] = getattr(examples, "label_names", None) or []
    if not known or getattr(examples, "problem", "classification") != "classification":
        return []
    return list(known)  # a new head has them in this order
