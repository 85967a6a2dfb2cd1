"""`geodistill predict`: what a finished run's student answers to rows without labels, in their order."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from geodistill.data.streams import STANDARD_INPUT
from geodistill.errors import GeodistillError
from geodistill.files import json_text
from geodistill.runs.open_run import open_run, refuse_others
from geodistill.runs.predictors.images import ImagePredictor
from geodistill.runs.predictors.instructions import InstructionPredictor
from geodistill.runs.predictors.predictor import Line, Predictor
from geodistill.runs.predictors.texts import TextPredictor
from geodistill.runs.predictors.vectors import EmbeddingPredictor, LatentPredictor

CHUNK = 1024  # rows in memory at a time
PREDICTORS: dict[str, type[Predictor | LatentPredictor]] = {
    "classification": TextPredictor,
    "images": ImagePredictor,
    "instructions": InstructionPredictor,
    "embeddings": EmbeddingPredictor,
    "neural": LatentPredictor,
}
"""What answers for a student, by its task."""


@dataclass
class Predictions:
    """The lines of `predict`, one for each row, made when they are asked for.

    notes: what was read and which rows were not answered, one sentence each; complete when the last line was read
    """

    lines: Iterator[Line]
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Line]:
        return self.lines


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
    predictor = PREDICTORS[run.recipe.task]
    every = "every row is answered"
    argument = "the file is the argument after the run"
    refuse_others(run, predictor.keys, {"data.source": argument, "data.limit": every, "generation.limit": every})
    notes: list[str] = []
    return Predictions(_counted(predictor.lines(run, source, chunk, notes), notes, progress), notes)


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
