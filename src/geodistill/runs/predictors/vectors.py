"""What `geodistill predict` writes for students that answer with vectors: embeddings of inputs, latents of bins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from geodistill.data.cells import IN_WORDS, Kind, load_array
from geodistill.data.decoding import Unreadable, decode, encoded
from geodistill.data.examples import MAX_LENGTH
from geodistill.data.neural import sessions_to_read
from geodistill.data.parts import ALL
from geodistill.data.session_files import ARRAYS
from geodistill.data.streams import LINE, STANDARD_INPUT, Stream, open_images
from geodistill.data.tables import Table
from geodistill.data.texts import as_text, is_missing
from geodistill.errors import GeodistillError, suggest
from geodistill.runs.arguments import run_device, send
from geodistill.runs.folder import read_json
from geodistill.runs.predictors.predictor import NOT_FINITE, Line, Predictor
from geodistill.tasks.array_reader import READER_FILE, ArrayReader
from geodistill.tasks.classification import predict as logits_of
from geodistill.tasks.embeddings import INPUTS, embed, main_input
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.image_reader import image_reader
from geodistill.tasks.images import named_image
from geodistill.tasks.loading import load_student, load_tokenizer
from geodistill.tasks.neural import Neural, latents_of
from geodistill.tasks.predictions import answer
from geodistill.tasks.text_reader import TextReader, position_limit

DIGITS = 7  # of a number, which is what float32 holds


class EmbeddingPredictor(Predictor):
    """The student's embedding of its own input, a text, an image or an array; and its label, if it has learned some."""

    keys = ("data.columns.student", "data.max_length")
    open = staticmethod(open_images)

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        config = run.student.config
        self.model = send(load_student(run.student.name, trust=run.student.trust_remote_code), run_device())
        columns = run.recipe.data.columns
        assert columns is not None, "a run of pairs has columns"
        self.column = columns.student
        self.kind: Kind = "array"
        if not (Path(run.student.name) / READER_FILE).is_file():
            self.kind = INPUTS[str(main_input(config))]
        self.reader = self._reader(config)
        labelled = run.recipe.data.label is not None and self.kind != "array"
        self.head = run.head if labelled else None

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        if stream.plain:
            self.reader.column = self.column = LINE
        elif self.column not in table.columns:
            raise GeodistillError(
                f"{stream.name} has no column '{self.column}', which the student reads.",
                f"Name the column of {IN_WORDS[self.kind]} with data.columns.student=COLUMN. "
                f"{suggest(self.column, table.columns)}",
            )

    def answer(self, table: Table, start: int) -> list[Line]:
        count = len(next(iter(table.columns.values())))
        values = table.raw(self.column) if self.column in table.columns else [None] * count
        read: Callable[[Any, Path | None], tuple[Any, Line]] = {
            "text": self._text,
            "image": self._image,
            "array": self._array,
        }[self.kind]
        lines: list[Line] = []
        inputs: dict[int, Any] = {}
        for place, value in enumerate(values):
            lines.append({"row": start + place})
            try:
                inputs[place], told = read(value, table.folder)
                lines[-1] |= told
            except Unreadable as error:
                lines[-1] |= {"embedding": None, "note": str(error)}
        if inputs:
            examples = self._examples(list(inputs.values()))
            for place, vector in zip(inputs, embed(self.model, self.reader, examples), strict=True):
                lines[place] |= vector_or_note("embedding", vector)
            if self.head is not None:
                for place, logits in zip(inputs, logits_of(self.model, examples, self.reader), strict=True):
                    lines[place] |= answer(logits, *self.head) if "note" not in lines[place] else {}
        return lines

    def _reader(self, config: Any) -> Any:
        run = self.run
        if self.kind == "array":
            return ArrayReader(**read_json(Path(run.student.name) / READER_FILE), column=self.column)
        if self.kind == "image":
            return image_reader(run.student, config, column=self.column)
        tokenizer = load_tokenizer(run.student)
        length = min(run.recipe.data.max_length or MAX_LENGTH, run.positions or position_limit(self.model))
        return TextReader(tokenizer, length, column=self.column, pair=None)

    def _examples(self, inputs: list[Any]) -> Any:
        if self.kind == "image":
            return [{**self.reader.read(picture), "example_id": place} for place, picture in enumerate(inputs)]
        split = Dataset.from_dict({self.column: inputs}) if self.kind == "text" else {self.column: inputs}
        return self.reader.encode(split)

    def _text(self, value: Any, folder: Path | None) -> tuple[str, Line]:
        if isinstance(value, list | dict | bytes):
            raise Unreadable("there is no text")
        text = as_text(value)
        if not text.strip():
            raise Unreadable("the text is empty")
        return text, {"text": text}

    def _image(self, value: Any, folder: Path | None) -> tuple[Any, Line]:
        try:
            image = encoded(value, folder)
            if image is not None:
                return decode(image), named_image(image)
        except Unreadable as error:
            raise Unreadable(f"the image {error}") from error
        raise Unreadable("there is no image")

    def _array(self, value: Any, folder: Path | None) -> tuple[Any, Line]:
        told: Line = {}
        if isinstance(value, str) and value.strip():
            told = {"array": value.strip()}
            path = Path(value.strip()).expanduser()
            try:
                value = load_array(path if folder is None else folder / path)
            except GeodistillError as error:
                raise Unreadable("the file of the array is missing or damaged") from error
        elif not isinstance(value, list | np.ndarray) and is_missing(value):
            raise Unreadable("there is no array")
        try:
            array = np.asarray(value, dtype=self.reader.dtype)
        except (ValueError, TypeError) as error:
            raise Unreadable("the array holds something else than numbers, or rows of different lengths") from error
        series, width = self.reader.series, self.reader.width
        if array.ndim != 1 + series or array.shape[-1] != width or not array.size:
            wanted = f"(time, {width})" if series else f"({width},)"
            raise Unreadable(f"the array has not the shape {wanted} that the student reads")
        if not np.isfinite(array).all():
            raise Unreadable("the array has numbers that are NaN or infinite")
        return array, told


class LatentPredictor:
    """The student's latent of each time bin of each session of a file, or of a folder of files."""

    keys = ("data.sessions.lfp", "data.sessions.adaptation_steps")

    @staticmethod
    def lines(run: FinishedRun, source: str, chunk: int, notes: list[str]) -> Iterator[Line]:
        """See `latent_lines`; a recording is read as a whole, so there are no chunks."""
        return latent_lines(run, source, notes)


def latent_lines(run: FinishedRun, source: str, notes: list[str]) -> Iterator[Line]:
    """Yield a line for each time bin of each session of a file, or of a folder of files: the student's latent.

    Patch embeddings of sessions that the student was not trained on are fitted to the recording itself first.
    Raises GeodistillError for what is no session, and if bins have another length than the run's.
    """
    if source == STANDARD_INPUT:
        raise GeodistillError("Recordings are not read from standard input.", "Give an .npz or .nwb file, or a folder.")
    needs = ("lfp",) if run.student.config.modality == "lfp" else ("spikes", "lfp")
    settings = run.recipe.data.sessions.model_copy(update={"unseen": [], "behaviour": None})
    data = run.recipe.data.model_copy(update={"source": source, "sessions": settings})
    examples = sessions_to_read(data, run.sessions, needs)
    task = Neural(examples, adaptation_steps=settings.adaptation_steps, fitted=ALL)
    model = send(task.load_model(run.student, new_head=False), run_device())
    reader = task.load_reader(run.student)
    notes += task.notes
    missing = f"the bin has no {' or no '.join(name for name in ARRAYS if name in needs)}"
    for number, session in enumerate(examples.sessions):
        own = examples.splits[ALL].of(number)
        found: dict[int, np.ndarray] = {}
        for segment, latents in zip(own.segments, latents_of(model, reader.encode(own)), strict=True):
            places = np.arange(segment.start, segment.stop)[own.there(segment)]
            found |= dict(zip(places.tolist(), latents, strict=True))
        for place in range(len(session)):
            line: Line = {"session": session.name, "row": place}
            latent = found.get(place)
            said = {"latent": None, "note": missing} if latent is None else vector_or_note("latent", latent)
            yield {**line, **said}


def vector_or_note(name: str, vector: np.ndarray) -> Line:
    """Return the entries of a line that hold a vector, or that say why there is none."""
    if not np.isfinite(vector).all():
        return {name: None, "note": NOT_FINITE}
    return {name: [float(f"{value:.{DIGITS}g}") for value in vector]}
