"""The command line: thin, each command one call into the package.

What a command needs is imported inside it, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from geodistill.errors import GeodistillError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil a large transformer into a small one that keeps the shape of the teacher's feature space.",
)

INTERRUPTED = 130
RecipePath = Annotated[Path, typer.Argument(help="A YAML recipe; see docs/recipe.md.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="path=value over the recipe, such as training.epochs=3.", show_default=False),
]
Output = Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/NAME OF THE RECIPE]")]
Onnx = Annotated[
    bool,
    typer.Option("--onnx", help="Write student/model.onnx as well, checked; with integers if it is quantised."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, deleting what a run left in the folder.")]


class DemoTask(str, Enum):
    trec = "trec"
    reviews = "reviews"
    instructions = "instructions"
    images = "images"
    quantize = "quantize"
    languages = "languages"
    neural = "neural"
    ephys = "ephys"


@app.command()
def demo(
    overrides: Overrides = None,
    task: Annotated[
        DemoTask,
        typer.Option(
            help="Questions, reviews, instructions, images, questions in few bits, two languages, simulated spikes, "
            "or a real recording."
        ),
    ] = DemoTask.trec,
    output: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/demo-TASK]")] = None,
    fresh: Fresh = False,
) -> None:
    """Fine-tune a bundled teacher, distil it under several objectives with 3 seeds, and compare them."""
    from geodistill.recipes import recipe_path

    folder = output or Path("runs") / f"demo-{task.value}"
    with recipe_path(f"demo-{task.value}") as path:
        _compare(path, overrides or [], folder, fresh, onnx=task == DemoTask.quantize)


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Output = None,
    fresh: Fresh = False,
    onnx: Onnx = False,
) -> None:
    """Train one student as the recipe says, and write it with its measurements to a folder."""
    from geodistill.api import train as run
    from geodistill.display import show
    from geodistill.runs.arguments import part_processes

    results = run(recipe, output, overrides=overrides or [], fresh=fresh, onnx=onnx)
    part_processes()
    if results is not None:  # only the main process of several has any
        show(results)


@app.command()
def compare(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Output = None,
    fresh: Fresh = False,
    onnx: Onnx = False,
) -> None:
    """Train variants × seeds against one teacher, and say with a paired test which objective helped.

    An override with commas is a sweep: objective.features.0.weight=0.1,1,10.
    """
    _compare(recipe, overrides or [], output, fresh, onnx)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="data.source=FILE for other data; its columns: data.text=COLUMN, …", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, validation, test or all. [default: test; a file has no splits]"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File of the predictions. [default: RUN/predictions.jsonl]")
    ] = None,
) -> None:
    """Score a run's student on the run's test split, or on every row of a file (data.source=FILE)."""
    from geodistill.runs.evaluate import evaluate as score
    from geodistill.runs.run_results import describe_evaluation

    typer.echo(describe_evaluation(score(run, overrides or [], split=split, output=output)))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="CSV, TSV, JSONL, JSON, parquet, .npz or .txt lines; - for standard input; of images also a folder; "
            "of recordings an .npz or .nwb file or a folder.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Columns of the file, such as data.text=COLUMN or data.columns.student=COLUMN.", show_default=False
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File of the predictions. [default: standard output]")] = None,
) -> None:
    """Let a run's student answer to rows without labels: a JSON object a line, in the order of the rows."""
    from geodistill.runs.predict import predict as answer
    from geodistill.runs.predict import write_predictions

    predictions = answer(run, source, overrides or [], progress=True)
    for note in write_predictions(predictions, output, source):
        typer.echo(f"note: {note}", err=True)


@app.command()
def inspect(
    student: Annotated[
        str,
        typer.Argument(help="A folder, a hub name, bundled:NAME or a run; or .npy / .safetensors.", show_default=False),
    ],
    teacher: Annotated[
        str | None, typer.Argument(help="The same. [default: the student beside itself]", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys of the data, such as data.text=COLUMN or data.limit=500.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="bundled:NAME, a hub name, glue/TASK, a file or a folder.", show_default=False)
    ] = None,
    task: Annotated[str, typer.Option(help="How the data is read: a task of a recipe.")] = "classification",
    split: Annotated[str, typer.Option(help="train, validation, test or all.")] = "all",
    rows: Annotated[str | None, typer.Option(help="A kind of rows. [default: by the task]", show_default=False)] = None,
    neighbours: Annotated[int, typer.Option(help="Neighbours of each example, for their overlap.")] = 10,
    output: Annotated[
        Path | None, typer.Option(help="Folder for inspect.html and inspect.json. [default: runs/inspect]")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run the code that comes with the models.")] = False,
) -> None:
    """Compare every layer of two models, or one with itself: distances, CKA, ranks, neighbours, and a layer map."""
    from geodistill.display import show
    from geodistill.studies.inspect.inspect_layers import inspect as compare_layers

    given = list(overrides or [])
    if teacher is not None and "=" in teacher:
        given.insert(0, teacher)  # an override, and no teacher
        teacher = None
    _return_large_blocks()
    found = compare_layers(
        student,
        teacher,
        data,
        overrides=given,
        task=task,
        split=split,
        rows=rows,
        neighbours=neighbours,
        folder=output or Path("runs") / "inspect",
        trust_remote_code=trust_remote_code,
    )
    show(found)


@app.command()
def theory(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes and one seed: seconds.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for theory.html and theory.json. [default: nothing is written]")
    ] = None,
) -> None:
    """Check the paper's theory on synthetic vectors: each claim held or not, with its numbers. Under three minutes."""
    from geodistill.display import show
    from geodistill.studies.theory.check import theory as check

    show(check(output, quick=quick))


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs and comparisons.", metavar="RUN…", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="File of the page. [default: report.html of the run; of several runs/report.html]"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The row that others are tested against. [default: of the first comparison]")
    ] = None,
) -> None:
    """Write the page of a run or comparison anew, or join several into one page. Nothing is trained or scored again."""
    from geodistill.studies.report.join import report as write

    typer.echo(f"Report: {write(*runs, output=output, baseline=baseline)}")


def _compare(recipe: Path, overrides: list[str], folder: Path | None, fresh: bool, onnx: bool) -> None:
    from geodistill.api import compare as run
    from geodistill.display import show

    show(run(recipe, folder, overrides=overrides, fresh=fresh, onnx=onnx))


def _return_large_blocks() -> None:
    """Make glibc give blocks of 1 MiB or more back to the system when they are freed.

    By default it comes to keep blocks of up to 32 MiB. Batches of ever new lengths do not fit into what is kept, and
    memory would grow with the data. Another C library is left alone.
    """
    threshold = -3  # M_MMAP_THRESHOLD in malloc.h
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(threshold, 2**20)


def main() -> None:
    """Run the command line. A user's mistake ends in two sentences and exit code 2, never in a traceback."""
    # Worker processes inherit these: thread pools of a tokenizer beside ours only fight over the cores, and the
    # advice that libraries print is for programmers, not for people who run a command.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # A thread of OpenMP that waits for another one spins for up to 15 ms by default. If another process has the core of
    # that other thread, both wait, and a training with two threads becomes up to ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            app()
    except GeodistillError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer turns Ctrl-C into an exit
            typer.echo("Interrupted. Run the same command again to go on.", err=True)
        raise


if __name__ == "__main__":
    main()
