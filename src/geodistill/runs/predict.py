"""`geodistill predict`: what a finished run's student answers to rows without labels, in their order."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tqdm.auto import tqdm

from geodistill.data.streams import STANDARD_INPUT, Stream, open_images, open_stream
from geodistill.data.tables import Table
from geodistill.distillation.devices import telling_of_memory
from geodistill.errors import GeodistillError
from geodistill.files import json_text
from geodistill.runs.open_run import open_run, refuse_others
from geodistill.runs.predictors.images import ImagePredictor
from geodistill.runs.predictors.instructions import InstructionPredictor
from geodistill.runs.predictors.texts import TextPredictor
from geodistill.runs.predictors.vectors import EmbeddingPredictor, Line, latent_lines
from geodistill.tasks.finished_run import FinishedRun

CHUNK = 1024  # rows in memory at a time
IMAGES = 128  # of images, which take more
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


PREDICTORS: dict[str, Callable[[FinishedRun], Predictor]] = {
    "classification": TextPredictor,
    "images": ImagePredictor,
    "instructions": InstructionPredictor,
    "embeddings": EmbeddingPredictor,
}
"""What answers for a student, by its task."""
