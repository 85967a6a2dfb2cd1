"""Spikes and field potentials: a teacher reads the one, a student the other, and behaviour is decoded from latents."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from geodistill.data.neural import NeuralExamples, Segments, load_sessions, sessions_to_score
from geodistill.data.overlap import HeldOut
from geodistill.data.record import Record
from geodistill.data.sessions import Session, channels_of
from geodistill.distillation.sides import Reader, Side
from geodistill.errors import GeodistillError, suggest
from geodistill.features import evaluation_mode
from geodistill.files import fingerprint_of
from geodistill.models.neural import NEURAL_NAMES, NeuralConfig, NeuralModel, new_neural_model, with_sessions
from geodistill.recipe import NEW_MODEL, DataRecipe, Recipe
from geodistill.tasks.decoding import decode
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.metrics import chosen_metrics
from geodistill.tasks.neural_reader import NeuralReader, ReadSegments
from geodistill.tasks.retrieval import Alignment, ranks
from geodistill.tasks.task import Encoded, Scores, TaskDefaults, parts_of

METRICS = ("r2", "r2_unseen", "retrieval@1", "retrieval@10")
BATCH_SIZE = 64
ADAPTATION_RATE = 1e-2
ADAPTATION_SEGMENTS = 16  # a step
MOST_SHOWN = 200  # bins of the stretch that a report draws: a few kB


class Neural(TaskDefaults):
    """Latents of time bins, of spikes or of field potentials; see `Task` for the members.

    What the examples teach by themselves is their own reconstruction, so a teacher is fine-tuned on spikes by
    `teacher.training`, and the label term of a student is its own reconstruction.

    A model is scored by R² of behaviour, decoded from its latents (`decode`), on average over dimensions and sessions:
    `r2` of sessions that it was trained on; `r2_unseen` of others, for which patch embeddings alone are fitted to their
    train blocks (`adapt`). A student is asked as well which bin its teacher's latent is of (`retrieval@k`), among the
    middle bins of the session's segments, less the session's mean, after the rotation that fits train blocks best.

    Other data than a run's is scored and read with `fitted`: of which split the segments are that patch embeddings of
    sessions new to a model are fitted to when it is loaded.
    """

    rows = compares = "tokens"
    kinds: tuple[str, ...] = ("tokens", "mean")
    measured = 512
    labelled = True
    asks_teacher = True
    loads_students = True
    own_keys: tuple[str, ...] = ("data.metrics",)
    other_keys: tuple[str, ...] = (
        *own_keys,
        "data.sessions.lfp",
        "data.sessions.behaviour",
        "data.sessions.adaptation_steps",
    )
    cuts_other_data = True

    def __init__(
        self,
        examples: NeuralExamples,
        metrics: Sequence[str] | None = None,
        *,
        adaptation_steps: int = 100,
        fitted: str | None = None,
    ) -> None:
        self.examples, self.adaptation_steps, self.fitted = examples, adaptation_steps, fitted
        wanted = chosen_metrics(metrics, METRICS, "neural latents")
        self.metrics = [name for name in wanted if name != "r2_unseen" or examples.unseen]
        self.fingerprint = examples.fingerprint
        self.held_out = HeldOut()
        self.scoring = fingerprint_of(examples.fingerprint, self.metrics, adaptation_steps)
        self.notes = list(examples.notes)
        self._asked: dict[str, np.ndarray] = {}

    @classmethod
    def load(cls, data: DataRecipe, recipe: Recipe, held_out: HeldOut | None = None) -> Neural:
        return cls(load_sessions(data), data.metrics, adaptation_steps=data.sessions.adaptation_steps)

    @classmethod
    def of_other_data(cls, run: FinishedRun, split: str | None, own: Callable[[], Any]) -> Neural:
        """Return the task on recordings, which are cut into blocks of time like the run's own."""
        data, settings = run.recipe.data, run.recipe.data.sessions
        all_read = data.model_copy(update={"sessions": settings.model_copy(update={"unseen": []})})
        sessions = sessions_to_score(all_read, run.sessions)
        return cls(sessions, data.metrics, adaptation_steps=settings.adaptation_steps, fitted="train")

    @property
    def record(self) -> Record:
        return replace(self.examples.record, notes=list(self.notes))

    def load_model(self, source: ModelSource, *, new_head: bool) -> PreTrainedModel:
        """Load a model, or draw the weights of a new one, `new:NAME`, from torch's generator; one that was trained on
        other sessions gets patch embeddings for these."""
        if source.name.startswith(NEW_MODEL):
            config = self._config(source)
            return new_neural_model(source.name.removeprefix(NEW_MODEL), dict(config.sessions or {})).eval()
        model = source.load(AutoModel.from_pretrained)
        self._check(source, model.config)
        channels = channels_of(self.examples.sessions, model.config.modality)
        if self.fitted is None:
            return with_sessions(model, channels).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of a transformer that is a new session's alone
            wider = with_sessions(model, channels).eval()
        new = [each for each in channels if each in self.examples.unseen or each not in model.config.sessions]
        return self._fit(wider, new, self.examples.splits[self.fitted])

    def _fit(self, model: NeuralModel, names: Sequence[str], split: Segments) -> NeuralModel:
        """Fit what is these sessions' alone to a split; see `adapt`."""
        if not names:
            return model
        self.notes += [
            note
            for name in names
            if (note := f"The session '{name}' is new to a model: {self._fitting(model)}.") not in self.notes
        ]
        segments = [each for each in split.segments if split.sessions[each.session].name in names]
        if not segments:
            raise GeodistillError(
                "The new sessions have no bin that patch embeddings could be fitted to.",
                "Give longer recordings, or recordings with fewer missing values.",
            )
        reader = NeuralReader(model.config.modality, model.config.sessions or {})
        return adapt(model, reader, Segments(split.sessions, segments), steps=self.adaptation_steps)

    def _fitting(self, model: NeuralModel) -> str:
        own = "its patch embeddings and its transformer" if model.config.separate else "its patch embeddings alone"
        which = "its train blocks" if self.fitted == "train" else "the whole recording"
        return f"{own} were fitted to {which} in {self.adaptation_steps:,} steps"

    def load_reader(self, source: ModelSource, *, like: Reader | None = None) -> NeuralReader:
        config = self._config(source)
        self._check(source, config)
        return NeuralReader(config.modality, self._known(config))

    def encode(
        self, model: PreTrainedModel, reader: Any, *, words: bool = False, positions: int | None = None
    ) -> Encoded:
        return {name: reader.encode(split) for name, split in self.examples.splits.items()}

    def ask(self, teacher: Side, encoded: Encoded) -> None:
        self._asked = {name: middles(teacher.model, split) for name, split in encoded.items()}  # type: ignore[arg-type]

    def validate(self, model: PreTrainedModel, reader: Reader, encoded: Encoded) -> Scores:
        return self._score(model, reader, encoded, "validation", unseen=False)

    def score(
        self, model: PreTrainedModel, reader: Reader, encoded: Encoded, split: str, *, progress: bool = False
    ) -> Scores:
        """Score a model; a line holds the split, the session, the dimension of behaviour, and its R².

        Lines of the first session that was trained on also hold a `stretch`: one block of time with what the behaviour
        was and what was decoded.
        """
        return self._score(model, reader, encoded, split, unseen=True)

    def _score(self, model: Any, reader: Any, encoded: Encoded, split: str, *, unseen: bool) -> Scores:
        values: dict[str, float] = {}
        lines: list[dict[str, Any]] = []
        for part in parts_of(encoded, split):
            lines += self._decoded(model, reader, self.examples.splits[part], part)
        if unseen and "r2_unseen" in self.metrics and self.examples.unseen_splits:
            adapted = adapt(model, reader, self.examples.unseen_splits["train"], steps=self.adaptation_steps)
            for part in parts_of(encoded, split):
                lines += self._decoded(adapted, reader, self.examples.unseen_splits[part], part)
        for name, kind in (("r2", "seen"), ("r2_unseen", "unseen")):
            found = [line["r2"] for line in lines if line["session_was"] == kind]
            if found:
                values[name] = float(np.mean(found))
        if self._asked and reader.modality != "spikes":
            values |= self._retrieved(model, encoded, parts_of(encoded, split))
        return Scores({name: values[name] for name in self.metrics if name in values}, lines=lines)

    def _decoded(self, model: Any, reader: Any, split: Segments, part: str) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for number, session in enumerate(split.sessions):
            own = split.of(number)
            if not len(own):
                continue
            latents = latents_of(model, reader.encode(own))
            places = [np.arange(each.start, each.stop)[own.there(each)] for each in own.segments]
            blocks = np.concatenate([np.full(len(p), s.block) for p, s in zip(places, own.segments, strict=True)])
            kind = "unseen" if session.name in self.examples.unseen else "seen"
            bins = np.concatenate(places)
            found = decode(np.concatenate(latents), session.behaviour[bins], blocks)
            shown: list[dict[str, Any]] = [{}] * len(found.r2)
            if kind == "seen" and not lines:
                shown = stretches(session, bins, blocks, found.predicted)
            lines += [
                {"split": part, "session": session.name, "session_was": kind, "behaviour": name, "r2": float(value)}
                | stretch
                for name, value, stretch in zip(session.behaviour_names, found.r2, shown, strict=True)
            ]
        return lines

    def _retrieved(self, model: Any, encoded: Any, parts: list[str]) -> dict[str, float]:
        alignment = Alignment.fit(middles(model, encoded["train"]), self._asked["train"])
        found: list[np.ndarray] = []
        for part in parts:
            sides = alignment.apply(middles(model, encoded[part]), self._asked[part])
            of = np.array([segment.session for segment in self.examples.splits[part].segments])
            found += [ranks(*(side[of == session] for side in sides)) for session in np.unique(of)]
        every = np.concatenate(found)
        return {"retrieval@1": float((every <= 1).mean()), "retrieval@10": float((every <= 10).mean())}

    def _config(self, source: ModelSource) -> NeuralConfig:
        if not source.name.startswith(NEW_MODEL):
            return source.config
        settings = NEURAL_NAMES.get(source.name.removeprefix(NEW_MODEL))
        if settings is None:
            known = [NEW_MODEL + name for name in NEURAL_NAMES]
            raise GeodistillError(f"No neural model is named '{source.name}'.", suggest(source.name, known))
        modality = str(settings["modality"])
        return NeuralConfig(sessions=dict(channels_of(self.examples.sessions, modality)), **settings)

    def _known(self, config: NeuralConfig) -> dict[str, int]:
        """All sessions of a model: first the sessions that it knows, then the new sessions of the data."""
        return {**(config.sessions or {}), **channels_of(self.examples.sessions, config.modality)}

    @staticmethod
    def _check(source: ModelSource, config: Any) -> None:
        if not isinstance(config, NeuralConfig):
            raise GeodistillError(
                f"The {source.whose} '{source.name}' is no neural transformer.",
                f"Give one that was trained here, or a new one: new:{', new:'.join(NEURAL_NAMES)}.",
            )


def stretches(session: Session, bins: np.ndarray, blocks: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """Return for each dimension of behaviour the entry of a line that shows a block of time: the `seconds` from the
    start of the session of each bin, what the behaviour was (`true`), and what was decoded; null if it is unknown.

    Args:
        session: what the bins are of.
        bins: (n,) places in the session.
        blocks: (n,) the block of each bin. The longest is shown, of equal ones the first, up to `MOST_SHOWN` bins.
        predicted: (n, k).
    """
    numbers, counts = np.unique(blocks, return_counts=True)
    own = np.flatnonzero(blocks == numbers[counts.argmax()])[:MOST_SHOWN]
    seconds = (bins[own] * session.bin_ms / 1000).round(4).tolist()
    sides = {"true": session.behaviour[bins[own]].astype(np.float64), "decoded": predicted[own]}
    return [
        {"stretch": {"seconds": seconds, **{name: _rounded(values[:, place]) for name, values in sides.items()}}}
        for place in range(predicted.shape[1])
    ]


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


@torch.no_grad()
def latents_of(model: PreTrainedModel, examples: ReadSegments) -> list[np.ndarray]:
    """Return the latents (t, d) of each segment, of the bins that are attended."""
    found = []
    with evaluation_mode(model):
        for start in range(0, len(examples), BATCH_SIZE):
            batch = {
                name: each.to(model.device)
                for name, each in collated(examples, range(start, start + BATCH_SIZE)).items()
            }
            latents = model(**batch, return_dict=True).last_hidden_state.double().cpu()
            found += [
                one[there != 0].numpy() for one, there in zip(latents, batch["attention_mask"].cpu(), strict=True)
            ]
    return found


def middles(model: PreTrainedModel, examples: ReadSegments) -> np.ndarray:
    """Return the latent of the middle bin of each segment, (segments, d), less the mean over its session."""
    found = np.stack([each[len(each) // 2] for each in latents_of(model, examples)])
    of = np.array([segment.session for segment in examples.split.segments])
    for session in np.unique(of):
        found[of == session] -= found[of == session].mean(axis=0)
    return found


def adapt(model: NeuralModel, reader: NeuralReader, segments: Segments, *, steps: int) -> NeuralModel:
    """Return a copy of a model that is fitted to sessions that it was not trained on: by the reconstruction of their
    values, and in what is theirs alone.

    That is their patch embeddings; everything else stays unchanged. Of a model with a transformer for each session
    (`NeuralConfig.separate`) it is their transformers too, with the same number of steps.

    Args:
        model: knows these sessions (`with_sessions`).
        reader: of the model.
        segments: of the train blocks of the sessions.
        steps: of AdamW, on a few segments each, drawn with a separate seed.
    """
    adapted = copy.deepcopy(model).train()
    examples = reader.encode(segments)
    names = {segments.sessions[each.session].name for each in segments.segments}
    rows = torch.zeros_like(adapted.patch_embedding.weight)
    own = []
    for name in sorted(names):
        rows[list(adapted.rows_of(name))] = 1
        backbone = adapted.backbone_of(name)
        own += [] if backbone is None else list(backbone.parameters())
    adapted.requires_grad_(False)
    table = adapted.patch_embedding.weight.requires_grad_(True)
    for parameter in own:
        parameter.requires_grad_(True)
    groups = [{"params": [table], "lr": ADAPTATION_RATE}, {"params": own, "lr": ADAPTATION_RATE / 3}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the tokens that are hidden
        for _ in range(steps):
            drawn = torch.randint(len(examples), (ADAPTATION_SEGMENTS,), generator=generator).tolist()
            batch = {name: each.to(model.device) for name, each in collated(examples, drawn).items()}
            optimizer.zero_grad()
            adapted(**batch, labels=batch["values"], return_dict=True).loss.backward()
            table.grad = table.grad * rows if table.grad is not None else None
            optimizer.step()
            schedule.step()
    return adapted.requires_grad_(True).train(model.training)


def collated(examples: ReadSegments, places: Sequence[int] | range) -> Mapping[str, torch.Tensor]:
    """Return a batch of some examples, with what a model reads to give latents."""
    batch = examples.reader.collate([examples[place] for place in places if place < len(examples)])
    return {name: batch[name] for name in ("values", "value_mask", "attention_mask", "session")}
