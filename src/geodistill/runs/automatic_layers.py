"""`layers: auto` in a recipe: the pairs of layers are chosen when the student is built, kept with the run, and told."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from geodistill.distillation.layer_choice import ChosenLayers, LayerMap, choose_pairs
from geodistill.distillation.sides import Reader, two_sides
from geodistill.features.layers import AUTO
from geodistill.files import fingerprint_of, write_json
from geodistill.recipe import TASK_STAGE, FeatureTerm, Recipe, StageRecipe
from geodistill.runs.arguments import placed, run_device, send
from geodistill.runs.folder import LAYERS, read_json, write_recipe
from geodistill.runs.prepare import stages_of
from geodistill.runs.recipe_file import load_recipe
from geodistill.runs.teacher import PreparedTeacher
from geodistill.tasks.reading import read
from geodistill.tasks.task import Task
from geodistill.tasks.text_reader import shared_position_limit

EXAMPLES = 512  # of the train split
BATCH = 32


class LayerChooser:
    """Chooses layers for the runs of one student, as it stands before it is trained.

    Terms that compare the same rows of the same data are measured once. The examples are drawn at random from the train
    split, the same ones for every seed of a training.
    """

    def __init__(self, student: PreTrainedModel, own_reader: Reader | None, teacher: PreparedTeacher) -> None:
        self.student, self.teacher = student, teacher
        self.reader = teacher.reader if own_reader is None else own_reader
        self._maps: dict[str, LayerMap] = {}

    def choose(self, recipe: Recipe, tasks: Mapping[str, Task]) -> list[ChosenLayers]:
        """Choose the pairs of each term of a recipe that says `layers: auto`; `tasks` are of its stages, by name."""
        found = []
        for path, stage, term, swapped in automatic_terms(recipe):
            task = tasks[stage.name]
            key = fingerprint_of(task.fingerprint, term.rows, term.special_tokens, swapped)
            if key not in self._maps:
                self._maps[key] = self._measure(task, term, swapped)
            pairs, reasons = self._maps[key]
            found.append(ChosenLayers(path, [list(pair) for pair in pairs], list(reasons)))
        if found:  # torch cannot send an empty list
            broadcast_object_list(found)  # of the main process: another device may round otherwise
        return found

    def _measure(self, task: Task, term: FeatureTerm, swapped: bool) -> LayerMap:
        teacher, device = self.teacher, run_device()
        model = send(teacher.model, device)
        sides = two_sides(self.student, self.reader, model, teacher.reader)
        positions = shared_position_limit(self.student, model)
        known = teacher.encoded_within(positions) if task is teacher.task else None
        reading = read(task, *sides, positions=positions, kinds=[str(term.rows)], encoded=known)
        examples = reading.examples["train"]
        places = random.Random(0).sample(range(len(examples)), min(EXAMPLES, len(examples)))
        batches = (
            reading.collate([examples[place] for place in places[start : start + BATCH]])
            for start in range(0, len(places), BATCH)
        )
        probes = self.reader.probe(), teacher.reader.probe()
        with placed(self.student, device):
            return choose_pairs(term, self.student, model, batches, probes=probes, swapped=swapped)


def automatic_terms(recipe: Recipe) -> Iterator[tuple[str, StageRecipe, FeatureTerm, bool]]:
    """Yield each term whose layers are chosen: its path, its stage, itself, and whether it trains the teacher."""
    for place, stage in enumerate(stages_of(recipe)):
        section = "" if stage.name == TASK_STAGE else f"stages.{place}."
        for key, objective in (("objective", stage.objective), ("teacher_objective", stage.teacher_objective)):
            for number, term in enumerate(objective.features if objective else []):
                if term.layers == AUTO:
                    yield f"{section}{key}.features.{number}", stage, term, key == "teacher_objective"


def with_layers(recipe: Recipe, chosen: Sequence[ChosenLayers]) -> Recipe:
    """Return a recipe with the chosen pairs in place of `auto`."""
    return load_recipe(recipe, {f"{each.term}.layers": each.pairs for each in chosen})


def known_layers(folder: Path, fingerprint: str) -> list[ChosenLayers] | None:
    """Return what was chosen for this run when it began, so that it goes on with the same; None if it did not."""
    found = read_json(folder / LAYERS) if (folder / LAYERS).is_file() else {}
    return [ChosenLayers(**each) for each in found["layers"]] if found.get("fingerprint") == fingerprint else None


def keep_layers(folder: Path, fingerprint: str, recipe: Recipe, chosen: Sequence[ChosenLayers]) -> None:
    """Write what was chosen, and the recipe that has it, into the folder of a run."""
    write_json(folder / LAYERS, {"fingerprint": fingerprint, "layers": [asdict(each) for each in chosen]})
    write_recipe(folder, recipe.model_dump(mode="json", exclude={"compare"}))
