"""What is made before a student is trained, and shared by the runs of a comparison: the data as both sides read it, and
the teacher's signals on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from geodistill.distillation.cache.format import CacheDtype, TopK
from geodistill.distillation.cache.plan import Key
from geodistill.distillation.cache.teacher_cache import TeacherCache, open_cache, prepare_cache
from geodistill.distillation.feature_terms import feature_requests
from geodistill.distillation.layer_choice import ChosenLayers
from geodistill.distillation.sides import Reader, Side, numbered, two_sides
from geodistill.distillation.signals import FeatureRequest, NoTeacher, SignalSource, Teacher, teacher_view
from geodistill.features import map_layers, points
from geodistill.files import fingerprint_of
from geodistill.losses import LOSSES
from geodistill.recipe import TASK_STAGE, LogitTerm, Recipe, StageRecipe, StudentRecipe, TeacherRecipe
from geodistill.runs.arguments import processes, run_device, send
from geodistill.runs.identity import student_side
from geodistill.runs.quantize import check_patterns
from geodistill.runs.teacher import PreparedTeacher
from geodistill.tasks.reading import Reading, read
from geodistill.tasks.task import EncodedExamples, Task, by_length, measured_split, spread
from geodistill.tasks.text_reader import shared_position_limit


@dataclass(frozen=True)
class CacheAddress:
    """Where a teacher cache is, and the fingerprint that it must have."""

    folder: Path
    fingerprint: str

    def open(
        self, requests: Sequence[FeatureRequest], model: PreTrainedModel | None = None, vocabulary: int | None = None
    ) -> TeacherCache:
        """Open the cache for some of the requests that it holds; see `open_cache`."""
        return open_cache(
            self.folder, fingerprint=self.fingerprint, requests=requests, model=model, vocabulary=vocabulary
        )


@dataclass(frozen=True)
class PreparedStage:
    """One stage of a run, ready to be trained.

    learned: the examples of the train split as the student learns them
    vocabulary: how many logits of a language model stand for a token; None for other models, and if each side has a
        tokenizer of its own
    requests: the teacher rows that the objective of the stage compares
    cache: the signals on disk; None if the teacher runs beside the student, and if it says nothing
    """

    reading: Reading
    learnt: EncodedExamples
    vocabulary: int | None
    requests: list[FeatureRequest]
    cache: CacheAddress | None

    def source(self, stage: StageRecipe, teacher: PreparedTeacher) -> SignalSource:
        """Return where the teacher's signals come from."""
        if not wanted_of(self.requests, stage) and stage.teacher_objective is None:
            return NoTeacher()
        if self.cache is not None:
            return self.cache.open(self.requests, teacher.outline, self.vocabulary)
        return Teacher(
            teacher.model,
            self.requests,
            precision=teacher.precision,
            logits=asks_for_logits(stage),
            vocabulary=self.vocabulary,
        )

    def answered(
        self, stage: StageRecipe, teacher: PreparedTeacher, settings: TeacherRecipe, folder: Path, *, progress: bool
    ) -> PreparedStage:
        """Return the stage with the signals of a teacher, as it is now, in a cache in a folder of its own."""
        wanted = wanted_of(self.requests, stage)
        if not settings.cache or not wanted:
            return self
        top_k = kept_logits(stage, settings.cache_top_k)
        writer = CacheWriter(settings, progress)
        return replace(self, cache=writer.signals(folder, self, send(teacher.model, run_device()), wanted, top_k))


@dataclass(frozen=True)
class PreparedRun:
    """All that one run needs beside its recipe and its student.

    positions: how many tokens both models have positions for
    held_out: the teacher's rows of the examples that the geometry is measured on; None if the teacher is asked then
    start: what the student is built from; None if it is built already
    layers: the pairs that were chosen for feature terms with `layers: auto`, which the recipe now has
    """

    teacher: PreparedTeacher
    reader: Reader
    stages: Mapping[str, PreparedStage]
    positions: int
    held_out: CacheAddress | None = None
    start: StudentRecipe | None = None
    layers: Sequence[ChosenLayers] = ()

    @property
    def reading(self) -> Reading:
        """How the data of the task itself is read."""
        return self.stages[TASK_STAGE].reading

    @property
    def tasks(self) -> dict[str, Task]:
        return {name: stage.reading.task for name, stage in self.stages.items()}


def stages_of(recipe: Recipe) -> list[StageRecipe]:
    """Return the recipe's stages in order, the task itself last."""
    task = StageRecipe(
        name=TASK_STAGE,
        objective=recipe.objective,
        teacher_objective=recipe.teacher_objective,
        quantization=recipe.quantization,
        training=recipe.training,
    )
    return [each.model_copy(update={"data": each.data or recipe.data}) for each in [*recipe.stages, task]]


def stages_before_learning(recipe: Recipe) -> list[StageRecipe]:
    """Return the stages that the teacher serves as it was given: those before the first in which it learns."""
    return list(takewhile(lambda stage: stage.teacher_objective is None, stages_of(recipe)))


class CacheWriter:
    """Lets a teacher answer examples once, into caches on disk."""

    def __init__(self, settings: TeacherRecipe, progress: bool) -> None:
        self.settings, self.progress = settings, progress

    def signals(
        self, folder: Path, stage: PreparedStage, model: PreTrainedModel, wanted: Collection[Key], top_k: TopK | None
    ) -> CacheAddress:
        """Keep the signals of a stage's examples: rows and, for None, logits."""
        teacher = Teacher(
            model,
            sorted((key for key in wanted if key is not None), key=str),
            precision=self.settings.precision,
            logits=None in wanted,
            vocabulary=stage.vocabulary,
        )
        return self.write(
            folder,
            teacher,
            stage.learnt,
            stage.reading,
            dtype=self.settings.cache_dtype,
            variance=self.settings.cache_variance,
            top_k=top_k,
        )

    def write(
        self,
        folder: Path,
        teacher: Teacher,
        examples: Sequence[Mapping[str, Any]],
        reading: Reading,
        *,
        dtype: CacheDtype,
        variance: float | None = None,
        top_k: TopK | None = None,
    ) -> CacheAddress:
        """Write what the teacher says of the examples, unless a cache of the same is there."""
        with processes().main_process_first():
            cache = prepare_cache(
                folder,
                teacher.to(run_device()),
                Seen(examples),
                reading.teacher_reader.collate,
                dtype=dtype,
                variance=variance,
                top_k=top_k,
                limit_bytes=int(self.settings.cache_limit_gb * 1e9),
                progress=self.progress,
            )
        return CacheAddress(folder, cache.fingerprint)


class Preparation:
    """Makes what runs need, and makes what several runs share once.

    Args:
        teacher: of all the runs.
        settings: the teacher section of their recipes.
        folder: where the caches are kept.
        requests: by data section, all that the runs want of its cache: rows, and None for logits; by default what each
            run wants for itself.
    """

    def __init__(
        self,
        teacher: PreparedTeacher,
        settings: TeacherRecipe,
        folder: Path,
        *,
        requests: Mapping[str, Collection[Key]] | None = None,
        progress: bool,
    ) -> None:
        self.teacher, self.settings, self.folder = teacher, settings, folder
        self.writer = CacheWriter(settings, progress)
        self.requests, self.progress = requests or {}, progress
        self._stages: dict[str, PreparedStage] = {}
        self._held_out: dict[str, CacheAddress] = {}

    def run(
        self,
        recipe: Recipe,
        tasks: Mapping[str, Task],
        student: PreTrainedModel,
        own_reader: Reader | None,
        *,
        held_out: Iterable[int] | None = None,
        layers: Sequence[ChosenLayers] = (),
    ) -> PreparedRun:
        """Prepare one run.

        Args:
            tasks: of the recipe and each of its stages, by name.
            student: the student or its outline: only its config and its layers are looked at.
            own_reader: the student's, None if it reads as the teacher does.
            held_out: teacher layers whose rows of the held-out examples are kept on disk; None for none of them.
            layers: what was chosen for the terms with `layers: auto`; the recipe has it already.
        """
        if recipe.student.lora is None:
            check_patterns(stages_of(recipe), student, self.teacher.outline)
        reader = self.teacher.reader if own_reader is None else own_reader
        sides = two_sides(student, reader, self.teacher.outline, self.teacher.reader)
        positions = shared_position_limit(student, self.teacher.outline)
        own = None if own_reader is None else student_side(recipe.student)
        asked = [stage.name for stage in stages_before_learning(recipe)]
        stages = {
            stage.name: self._stage(
                stage, tasks[stage.name], *sides, positions, own, cached=self.settings.cache and stage.name in asked
            )
            for stage in stages_of(recipe)
        }
        run = PreparedRun(self.teacher, reader, stages, positions, layers=layers)
        if not held_out or not self.settings.cache or recipe.learning_stages:
            return run  # a teacher that learns is asked at the end
        return replace(run, held_out=self._rows_held_out(run.reading, held_out, positions, own))

    def _stage(
        self,
        stage: StageRecipe,
        task: Task,
        student: Side,
        teacher: Side,
        positions: int,
        own: str | None,
        *,
        cached: bool,
    ) -> PreparedStage:
        data = data_key(stage)
        probes = student.reader.probe(), teacher.reader.probe()
        requests = feature_requests(stage.objective, student.model, teacher.model, *probes)
        swapped = (
            feature_requests(stage.teacher_objective, teacher.model, student.model, *reversed(probes))
            if stage.teacher_objective is not None
            else []
        )
        wanted = {*wanted_of(requests, stage), *self.requests.get(data, ())} if cached else set()
        words = any(key is not None and key.rows == "words" for key in [*requests, *swapped, *wanted])
        top_k = kept_logits(stage, self.settings.cache_top_k)
        key = fingerprint_of(data, task.fingerprint, own, positions, top_k, words, sorted(map(str, wanted)))
        if key not in self._stages:
            self._stages[key] = self._make_stage(task, student, teacher, positions, own, wanted, top_k, words=words)
        return replace(self._stages[key], requests=requests)

    def _make_stage(
        self,
        task: Task,
        student: Side,
        teacher: Side,
        positions: int,
        own: str | None,
        wanted: Collection[Key],
        top_k: TopK | None,
        *,
        words: bool,
    ) -> PreparedStage:
        known = self.teacher.encoded_within(positions) if task is self.teacher.task else None
        kinds = {key.rows for key in wanted if key is not None} | ({"words"} if words else set())
        reading = read(task, student, teacher, positions=positions, kinds=kinds, encoded=known)
        vocabulary = task.vocabulary(student.model, teacher) if reading.shared else None
        model = send(self.teacher.model, run_device())
        with processes().main_process_first():
            learnt = task.learnt(
                reading.examples["train"],
                Side(model, self.teacher.reader),
                positions=positions,
                teacher_side=self.teacher.fingerprint,
                folder=self.folder,
                progress=self.progress,
            )
        stage = PreparedStage(reading, learnt, vocabulary, [], None)
        if not wanted:
            return stage
        folder = self.folder / cache_name(task, top_k, None if reading.shared else own)
        return replace(stage, cache=self.writer.signals(folder, stage, model, wanted, top_k))

    def _rows_held_out(self, reading: Reading, layers: Iterable[int], positions: int, own: str | None) -> CacheAddress:
        """Keep the teacher's rows of the held-out examples, exactly, for every run that is measured against them."""
        key = fingerprint_of(own, positions, reading.rows)
        if key not in self._held_out:
            requests = [FeatureRequest(layer, reading.rows) for layer in sorted(set(layers))]
            source = Teacher(self.teacher.model, requests, precision="float32", logits=False)
            folder = self.folder / f"held-out-{key[:12]}"
            self._held_out[key] = self.writer.write(
                folder, source, held_out_examples(reading), reading, dtype="float32"
            )
        return self._held_out[key]


class Seen(Sequence[Any]):
    """Examples as the teacher sees them, numbered in their order."""

    def __init__(self, examples: Sequence[Mapping[str, Any]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        return {**teacher_view(self.examples[index]), "example_id": index}


def geometry_pairs(student: PreTrainedModel, prepared: PreparedTeacher, reader: Reader) -> list[tuple[int, int]]:
    """Return the pairs of layers that the held-out geometry is measured on: those of the uniform map; none if
    the layers of a model have no numbers."""
    sides = (student, reader), (prepared.outline, prepared.reader)
    numbers = [[point for point in points(model, each.probe()) if isinstance(point, int)] for model, each in sides]
    return map_layers("uniform", numbers[0][-1], numbers[1][-1]) if all(numbers) else []


def held_out_examples(reading: Reading) -> EncodedExamples:
    """Return the examples that the held-out geometry is measured on, the longest first, numbered anew."""
    examples = spread(reading.examples[measured_split(reading.task)], reading.task.measured)
    order = by_length(examples, reading.reader)
    return [numbered(examples[place], number) for number, place in enumerate(order)]


def data_key(stage: StageRecipe) -> str:
    """Return the data section of a stage, in a form that is the same for the same section."""
    return stage.model_dump_json(include={"data"})


def wanted_of(requests: Collection[FeatureRequest], stage: StageRecipe) -> set[Key]:
    """Return all that a stage asks of its teacher: rows, and None for logits."""
    return {*requests, *([None] if asks_for_logits(stage) else [])}


def asks_for_logits(stage: StageRecipe) -> bool:
    """Whether the objective of a stage reads the teacher's logits."""
    compared = any(LOSSES[term.loss].reads_logits for term in stage.objective.features)
    return stage.objective.logits is not None or compared


def kept_logits(stage: StageRecipe, k: int | None) -> TopK | None:
    """How the stage's cached logits are cut; one without a logit term shares the cache of the default temperature."""
    return None if k is None else TopK(k, (stage.objective.logits or LogitTerm()).temperature)


def cache_name(task: Task, top_k: TopK | None, own: str | None = None) -> str:
    """The folder of a task's cache; those of other cuts, and of words paired with those of a student's own reader,
    which is known by the fingerprint `own`, lie beside it, so that variants do not overwrite each other."""
    name = task.fingerprint[:12]
    if own is not None:
        name += f"-{own[:6]}"
    return name if top_k is None else f"{name}-top-{top_k.k}-at-{top_k.temperature:g}"
