"""What `geodistill predict` answers to images."""

from __future__ import annotations

from typing import Any

import numpy as np

from geodistill.data.columns import find_image
from geodistill.data.decoding import Unreadable, decode, encoded
from geodistill.data.scoring import own_columns
from geodistill.data.streams import LINE, Stream, open_images
from geodistill.data.tables import Table
from geodistill.runs.arguments import run_device, send
from geodistill.runs.predictors.predictor import NOT_FINITE, Line, Predictor
from geodistill.tasks.classification import predict as logits_of
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.image_reader import image_reader
from geodistill.tasks.images import named_image
from geodistill.tasks.loading import load_student
from geodistill.tasks.predictions import ANSWER, answer

MOST = 128  # images in memory at a time, which take more than texts
NO_IMAGE = "there is no image"


class ImagePredictor(Predictor):
    """Labels with their probabilities for images, which are read as the student reads them."""

    keys = ("data.image",)
    open = staticmethod(open_images)

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        _, self.names = run.head
        self.model = send(load_student(run.student.name, trust=run.student.trust_remote_code), run_device())
        self.reader = image_reader(run.student, run.student.config)
        self.column = LINE

    @staticmethod
    def most(run: FinishedRun, chunk: int) -> int:
        return min(chunk, MOST)

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
