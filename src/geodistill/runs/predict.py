"""`geodistill predict`: what a finished run's student answers to rows without labels, in their order."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import DatasetDict
from tqdm.auto import tqdm

from geodistill.data.columns import Columns, InstructionColumns, find_image
from geodistill.data.decoding import Unreadable, decode, encoded
from geodistill.data.examples import MAX_LENGTH, Examples, split_dataset
from geodistill.data.instruction_rows import Instruction, prompts_of
from geodistill.data.instructions import MAX_LENGTH as INSTRUCTIONS_MAX_LENGTH
from geodistill.data.scoring import own_columns, prompt_columns, text_columns
from geodistill.data.streams import LINE, STANDARD_INPUT, Stream, open_images, open_stream
from geodistill.data.tables import Table
from geodistill.data.texts import Rows, as_text
from geodistill.distillation.devices import telling_of_memory
from geodistill.errors import GeodistillError
from geodistill.files import json_text
from geodistill.runs.arguments import run_device, send
from geodistill.runs.open_run import open_run, refuse_others
from geodistill.runs.predict_vectors import NOT_FINITE, EmbeddingPredictor, Line, latent_lines
from geodistill.tasks.classification import Classification
from geodistill.tasks.classification import predict as logits_of
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.generation import generate
from geodistill.tasks.image_reader import image_reader
from geodistill.tasks.images import named_image
from geodistill.tasks.instruction_reader import encode_prompts
from geodistill.tasks.instructions import load_language_model
from geodistill.tasks.loading import load_student, load_tokenizer
from geodistill.tasks.predictions import ANSWER, answer
from geodistill.tasks.text_reader import position_limit

CHUNK = 1024  # rows in memory at a time
IMAGES = 128  # of images, which take more
PART = "rows"
EMPTY = "the text is empty"
EMPTY_PAIR = "one text of the pair is empty"
EMPTY_INSTRUCTION = "there is no instruction"
NO_IMAGE = "there is no image"
USEFUL = {
    "classification": ["data.text", "data.text_pair", "data.max_length"],
    "images": ["data.image"],
    "embeddings": ["data.columns.student", "data.max_length"],
    "neural": ["data.sessions.lfp", "data.sessions.adaptation_steps"],
}


@dataclass
class Predictions:
    """The lines of `predict`, one for each row, made when they are asked for.

    notes: what was read and which rows were not answered, one sentence each; complete when the last line was read
    """

    lines: Iterator[Line]
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Line]:
        return self.lines


class Predictor(Protocol):
    """One kind of answer: it reads columns that it finds in the first chunk, and answers to each row of a chunk."""

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        """Find the columns. Raises GeodistillError for those that are missing."""

    def answer(self, table: Table, start: int) -> list[Line]:
        """Return a line for each row; `start` rows came before."""


def predict(
    folder: Path, source: str, overrides: Sequence[str] = (), *, chunk: int = CHUNK, progress: bool = False
) -> Predictions:
    """Let the student of a finished run answer to every row of a file, or of standard input.

    There is one line for each row, in the order of the rows. It holds `row` (from 0), what was read, and

    - classification: `prediction` (a label), its `probability`, and the `probabilities` of all labels by name
    - multi-label: `prediction` (a list of labels, of probability 0.5 or more), and the `probabilities` of all by name
    - regression: `prediction` (a number, or a list of numbers if the student gives several)
    - images: as for a classification
    - instructions: `response` (a text), drawn as the run's `generation` says, from the first of its seeds
    - embeddings: `embedding` (a list of numbers) of what the student reads, and what a classification has if the
      student learned labels
    - neural: `session`, and `latent` (a list of numbers) of the bin `row` of the session

    An empty text, an instruction whose prompt is over `data.max_prompt_length`, and a file that is no image or is
    damaged get the answer null, and `note` says why. Texts are cut, prompts are written and images are read as in the
    run. Columns are the columns that the run's recipe names, if the rows have them; otherwise usual names are looked
    for.

    Args:
        folder: the folder of a run.
        source: a file of rows, or `-` for standard input. For a student of images also a folder, whose every file is a
            row, or one image; a plain line is then the path of an image. Of recordings an .npz or .nwb file, or a
            folder of such files.
        overrides: dotted keys of the recipe, such as ["data.text=body"].
        chunk: so many rows are read at a time, so memory does not grow with their number.
        progress: show a progress bar.

    Returns:
        An iterator over the lines, as dictionaries.

    Raises:
        GeodistillError: the folder is no finished run, rows cannot be read, or an override has no effect. While the
            lines are read: columns are missing, or a row is damaged.

    Example:
        for line in predict(Path("runs/mine"), "new.csv"):
            print(line["prediction"])
    """
    if chunk < 1:
        raise GeodistillError(f"A chunk of {chunk} rows is none.", "Give at least 1.")
    run = open_run(folder, overrides)
    task = run.recipe.task
    _check_overrides(run, task)
    found = Predictions(iter(()))
    if task == "neural":
        found.lines = _counted(latent_lines(run, source, found.notes), found.notes, progress)
        return found
    most = {"instructions": 8 * run.recipe.generation.batch_size, "images": IMAGES}.get(task, chunk)
    stream = (open_images if task in ("images", "embeddings") else open_stream)(source, min(chunk, most))
    found.lines = _counted(_lines(run, stream, found.notes), found.notes, progress)
    return found


def _check_overrides(run: FinishedRun, task: str) -> None:
    useful = USEFUL.get(task, [])
    if task == "instructions":
        data = ("instruction", "input", "messages", "prompt", "max_length", "max_prompt_length")
        generation = [key for key in type(run.recipe.generation).model_fields if key != "limit"]
        useful = [*(f"data.{key}" for key in data), *(f"generation.{key}" for key in generation)]
    every = "every row is answered"
    source = "the file is the argument after the run"
    refuse_others(run, useful, {"data.source": source, "data.limit": every, "generation.limit": every})


def _lines(run: FinishedRun, stream: Stream, notes: list[str]) -> Iterator[Line]:
    """Answer chunk by chunk."""
    predictor: Predictor | None = None
    count = 0
    for table in stream.chunks:
        if predictor is None:
            predictor = PREDICTORS[run.recipe.task](run)
            predictor.find(stream, table, notes)
        with telling_of_memory():
            lines = predictor.answer(table, count)
        yield from lines
        count += len(lines)


def _counted(lines: Iterator[Line], notes: list[str], progress: bool) -> Iterator[Line]:
    """Show how many lines there are; at the end note how many rows were not answered, and why."""
    missed: Counter[str] = Counter()
    count = 0
    with tqdm(desc="predict", unit=" rows", disable=None if progress else True, file=sys.stderr, leave=False) as bar:
        for line in lines:
            if "note" in line:
                missed[line["note"]] += 1
            yield line
            count += 1
            bar.update()
    for why, number in missed.items():
        notes.append(f"{number:,} of the {count:,} rows {'is' if number == 1 else 'are'} answered by null: {why}.")


def write_predictions(predictions: Predictions, output: Path | None, source: str) -> list[str]:
    """Write the lines as JSON to a file, or to standard output if there is none, and return the notes.

    A file is there when it is complete, and not before. A reader of standard output that stops early, such as `head`,
    ends the work without an error.

    Raises GeodistillError for an output that is a folder, or the file that is read.
    """
    if output is None:
        _to_standard_output(predictions)
        return predictions.notes
    if output.is_dir():
        raise GeodistillError(f"'{output}' is a folder, not a file.", "Give --output the name of a file.")
    read = Path(source).expanduser()
    if source != STANDARD_INPUT and output.exists() and read.exists() and output.samefile(read):
        raise GeodistillError(f"--output is '{source}', the file that is read.", "Choose another --output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.writelines(map(_encoded, predictions))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return predictions.notes


def _to_standard_output(predictions: Predictions) -> None:
    try:
        for line in predictions:
            sys.stdout.buffer.write(_encoded(line))
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _encoded(line: Line) -> bytes:
    return f"{json_text(line)}\n".encode("utf-8", errors="replace")


class TextPredictor:
    """Labels with their probabilities, or numbers, for texts or pairs of texts."""

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        self.problem, self.names = run.head
        self.columns: Columns | None = None
        self.reader = Classification.load_reader(run.student)
        model = self._task(Rows([], [], None, None)).load_model(run.student, new_head=False)
        self.model = send(model, run_device())

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        pairs = self.run.reads_pairs
        if stream.plain:
            if pairs:
                raise GeodistillError(
                    f"The student reads pairs of texts, and a line of {stream.name} is one text.",
                    "Give a file with both columns, or a JSON object with both in each line.",
                )
            self.columns = Columns(LINE, None, None)
            return
        data, named = self.run.recipe.data, self.run.named
        self.columns = text_columns(table.columns, data, named=named, pairs=pairs, labels=False, notes=notes)

    def answer(self, table: Table, start: int) -> list[Line]:
        assert self.columns is not None
        texts = _texts(table, self.columns.text, start)
        pairs = _texts(table, self.columns.text_pair, start) if self.columns.text_pair else None
        rows = Rows(list(range(start, start + len(texts))), texts, pairs, None)
        kept = [place for place, text in enumerate(texts) if text.strip() and (pairs is None or pairs[place].strip())]
        outputs: dict[int, np.ndarray] = {}
        if kept:
            task = self._task(rows.take(kept))
            encoded = task.encode(self.model, self.reader, positions=self.run.positions)[PART]
            outputs = dict(zip(kept, logits_of(self.model, encoded, self.reader), strict=True))
        lines = []
        for place, text in enumerate(texts):
            line: Line = {"row": rows.ids[place], "text": text}
            if pairs is not None:
                line["text_pair"] = pairs[place]
            lines.append({**line, **self._prediction(outputs.get(place), EMPTY if pairs is None else EMPTY_PAIR)})
        return lines

    def _task(self, rows: Rows) -> Classification:
        """The rows as examples without labels, so that they are encoded as the rows of the run."""
        length = self.run.recipe.data.max_length or MAX_LENGTH
        splits = DatasetDict({PART: split_dataset(rows, "unlabelled")})
        return Classification(Examples(splits, "unlabelled", [], [], length, "", []))

    def _prediction(self, logits: np.ndarray | None, empty: str) -> Line:
        if logits is None or not np.isfinite(logits).all():
            return {**dict.fromkeys(ANSWER[self.problem]), "note": empty if logits is None else NOT_FINITE}
        return answer(logits, self.problem, self.names)


class ImagePredictor:
    """Labels with their probabilities for images, which are read as the student reads them."""

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        _, self.names = run.head
        self.model = send(load_student(run.student.name, trust=run.student.trust_remote_code), run_device())
        self.reader = image_reader(run.student, run.student.config)
        self.column = LINE

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        if not stream.plain:
            own = own_columns(self.run.recipe.data, self.run.named, table.columns, notes)
            self.column = find_image(table.columns, own)

    def answer(self, table: Table, start: int) -> list[Line]:
        empty = [None] * len(next(iter(table.columns.values())))
        values = table.raw(self.column) if self.column in table.columns else empty
        lines: list[Line] = []
        examples: list[dict[str, Any]] = []
        read: list[int] = []
        for place, value in enumerate(values):
            line: Line = {"row": start + place}
            try:
                image = encoded(value, table.folder)
                if image is None:
                    line["note"] = NO_IMAGE
                else:
                    line |= named_image(image)
                    examples.append({**self.reader.read(decode(image)), "example_id": len(read)})
                    read.append(place)
            except Unreadable as error:
                line["note"] = f"the image {error}"
            lines.append(line)
        logits = logits_of(self.model, examples, self.reader) if examples else ()
        for place, outputs in zip(read, logits, strict=True):
            finite = np.isfinite(outputs).all()
            lines[place] |= answer(outputs, "classification", self.names) if finite else {"note": NOT_FINITE}
        nothing = dict.fromkeys(ANSWER["classification"])
        return [{**line, **nothing, "note": line["note"]} if "note" in line else line for line in lines]


class InstructionPredictor:
    """A response to each instruction or conversation."""

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        self.tokenizer = load_tokenizer(run.student)
        self.model = send(load_language_model(run.student), run_device())
        self.columns: InstructionColumns | None = None
        self.name = ""
        data = run.recipe.data
        length = min(data.max_length or INSTRUCTIONS_MAX_LENGTH, run.positions or position_limit(self.model))
        self.longest = min(data.max_prompt_length, length - 1)

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        self.name = stream.name
        if stream.plain:
            self.columns = InstructionColumns(instruction=LINE)
            return
        self.columns = prompt_columns(table.columns, self.run.recipe.data, self.run.named, notes)

    def answer(self, table: Table, start: int) -> list[Line]:
        assert self.columns is not None
        generation = self.run.recipe.generation
        rows = prompts_of(table, self.columns, self.name)
        asked = [place for place, row in enumerate(rows) if row.instruction]
        prompts = encode_prompts(
            [rows[place]._asdict() for place in asked], self.tokenizer, self.run.recipe.data.prompt
        )
        fitting = {place: ids for place, ids in zip(asked, prompts, strict=True) if len(ids) <= self.longest}
        responses: dict[int, str] = {}
        if fitting:
            # Each chunk has another seed; otherwise all of them would begin with the same draws.
            seed = generation.seeds[0] + start
            drawn = generate(self.model, self.tokenizer, list(fitting.values()), generation, seed=seed, progress=False)
            responses = dict(zip(fitting, drawn.texts, strict=True))
        return [self._line(row, start + place, responses.get(place)) for place, row in enumerate(rows)]

    def _line(self, row: Instruction, number: int, response: str | None) -> Line:
        line: Line = {"row": number, "instruction": row.instruction}
        if row.input:
            line["input"] = row.input
        line["response"] = response
        if response is None:
            long = f"the prompt is over {self.longest} tokens"
            line["note"] = long if row.instruction else EMPTY_INSTRUCTION
        return line


PREDICTORS: dict[str, Callable[[FinishedRun], Predictor]] = {
    "classification": TextPredictor,
    "images": ImagePredictor,
    "instructions": InstructionPredictor,
    "embeddings": EmbeddingPredictor,
}
"""What answers for a student, by its task."""


def _texts(table: Table, name: str, start: int) -> list[str]:
    """A column of texts. A chunk whose JSON objects all lack the key has none, so its texts are empty.

    Raises GeodistillError for a value that is a list or an object.
    """
    values = table.columns.get(name)
    if values is None:
        return [""] * len(next(iter(table.columns.values())))
    for place, value in enumerate(values):
        if isinstance(value, list | dict):
            raise GeodistillError(
                f"Row {start + place} has a {type(value).__name__} in the column '{name}'.", "Give one text a row."
            )
    return [as_text(value) for value in values]
