"""Classification of images: any model of transformers, a new one, or one that a function makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Image
from transformers import PreTrainedModel

from geodistill.data.decoding import EncodedImage
from geodistill.data.images import ImageExamples, load_images
from geodistill.data.overlap import HeldOut
from geodistill.data.record import Record
from geodistill.data.scoring import images_to_score
from geodistill.distillation.sides import ExamplePairs, Reader
from geodistill.distillation.students.head_labels import output_names
from geodistill.files import fingerprint_of
from geodistill.models import ImageClassifiers, made, made_config
from geodistill.recipe import MADE, Augmentation, DataRecipe, Recipe
from geodistill.tasks.classification import LabelledTask, load_classifier, predict
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.heads import head_settings
from geodistill.tasks.image_reader import AugmentedImages, ImageReader, ReadImages, image_reader
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.metrics import Constant, check_metrics, compute_metrics, constant_predictor
from geodistill.tasks.predictions import decide, never_predicted, prediction
from geodistill.tasks.task import MOST_EXAMPLES, OF_IMAGES, Encoded, EncodedExamples, Scores, parts_of

DEFAULT_SIZE = 32  # pixels; of a new model if the images are not all square and of one size


class Images(LabelledTask):
    """Classification of images; see `Task` for the members.

    With `teacher.cache` training images are not augmented in any variant, because what the cache holds is of unchanged
    images. Fine-tuning, of a teacher or of a student before it is distilled, is augmented in any case.
    """

    rows = "pooled"
    compares = "positions"
    measured = MOST_EXAMPLES
    kinds = OF_IMAGES
    labelled = True
    own_keys: tuple[str, ...] = ("data.metrics",)
    other_keys: tuple[str, ...] = (*own_keys, "data.configuration", "data.image", "data.label")

    def __init__(self, examples: ImageExamples, augmentation: Augmentation = "none", *, cached: bool = True) -> None:
        check_metrics(examples.metrics, "classification")
        super().__init__(examples, examples.notes)
        self.examples, self.augmentation, self.metrics = examples, augmentation, examples.metrics
        self.scoring, self.held_out = examples.fingerprint, examples.held_out
        self.fingerprint = examples.fingerprint
        if augmentation != "none":
            self.fingerprint = fingerprint_of(examples.fingerprint, augmentation)
            if cached:
                self.notes.append(
                    "The student's training images are not augmented, because the teacher's signals are cached "
                    "(teacher.cache=false augments them)."
                )

    @classmethod
    def load(cls, data: DataRecipe, recipe: Recipe, held_out: HeldOut | None = None) -> Images:
        return cls(load_images(data, held_out), data.augmentation, cached=recipe.teacher.cache)

    @classmethod
    def of_other_data(cls, run: FinishedRun, split: str | None, own: Callable[[], Any]) -> Images:
        _, names = run.head
        metrics = list(run.results["metrics"])
        data, named = run.recipe.data, run.named
        return cls(images_to_score(data, label_names=names, split=split, named=named, metrics=metrics))

    @property
    def record(self) -> Record:
        return replace(self.examples.record, notes=list(self.notes), outputs=self.outputs, by_place=self.by_place)

    def load_model(self, source: ModelSource, *, new_head: bool) -> PreTrainedModel:
        """Load a model, or make a new one, `new:NAME` or `python:…`, whose weights are drawn from torch's generator."""
        if source.name.startswith(MADE):
            return made(source.name, **self._shape, **head_settings(self.examples)).eval()
        model = load_classifier(source, self.examples, ImageClassifiers, new_head=new_head)
        return model if new_head else self._adopted(model, source.name)

    def load_reader(self, source: ModelSource, *, like: Reader | None = None) -> ImageReader:
        """Load the reader of a model; see `image_reader`."""
        theirs = like if isinstance(like, ImageReader) else None
        if source.name.startswith(MADE):
            shape = self._shape
            if theirs is not None:
                shape = {"image_size": min(theirs.size), "num_channels": theirs.channels}
            config = made_config(source.name, num_labels=len(self.examples.label_names), **shape)
            reader = image_reader(None, config, self.examples, like=theirs)
        else:
            reader = image_reader(source, source.config, self.examples, like=theirs)
        self._tell(reader.notes)
        return reader

    def encode(
        self, model: PreTrainedModel, reader: Any, *, words: bool = False, positions: int | None = None
    ) -> Encoded:
        match = self._matched(model)
        return {
            str(name): reader.encode(split, [match.numbers[label] for label in split["label"]])
            for name, split in self.examples.splits.items()
        }

    def varied(self, encoded: Any, seed: int) -> Any:
        """Return training examples in views that change from epoch to epoch; the same view of an image to both
        sides."""
        if self.augmentation == "none":
            return encoded
        if isinstance(encoded, ExamplePairs):
            return ExamplePairs(self.varied(encoded.student, seed), self.varied(encoded.teacher, seed))
        assert isinstance(encoded, ReadImages)
        return AugmentedImages(encoded, self.augmentation, seed)

    def validate(self, model: PreTrainedModel, reader: Reader, encoded: Encoded) -> Scores:
        return self.score(model, reader, encoded, "validation")

    def score(
        self, model: PreTrainedModel, reader: Reader, encoded: Encoded, split: str, *, progress: bool = False
    ) -> Scores:
        """Score the model; a line holds the split, the row (the example's place in it, from 0), the file of the image
        if it has one, what the model predicts with its probability, and the reference."""
        names, lines = output_names(model.config), []
        logits, references = [], []
        for part in parts_of(encoded, split):
            found, labels = predict(model, encoded[part], reader), labels_of(encoded[part])
            logits.append(found)
            references.append(labels)
            split_rows = self.examples.splits[part].cast_column("image", Image(decode=False)).to_list()
            for row, label, outputs in zip(split_rows, labels, found, strict=True):
                said = prediction({}, label, outputs, "classification", names)
                lines.append({"split": part, "row": row["example_id"], **named_image(row["image"]), **said})
        metrics = self._metrics(np.concatenate(logits), np.concatenate(references))
        return Scores(metrics, lines=lines, notes=never_predicted(lines))

    def constant(self, split: str) -> Constant | None:
        train, references = (list(self.examples.splits[name]["label"]) for name in ("train", split))
        return constant_predictor(
            self.metrics, train, references, problem="classification", label_names=self.examples.label_names
        )

    def compute_metrics(self, encoded: EncodedExamples) -> Callable[[Any], dict[str, float]]:
        references = np.asarray(labels_of(encoded))
        return lambda result: self._metrics(result.predictions, references)

    @property
    def _shape(self) -> dict[str, int]:
        """The size of images that a new model reads: the images' size if they are square and of one size."""
        size = self.examples.size
        side = size[0] if size is not None and size[0] == size[1] else DEFAULT_SIZE
        return {"image_size": side, "num_channels": self.examples.channels}

    def _metrics(self, logits: Any, references: Any) -> dict[str, float]:
        decided = decide(logits, "classification")
        return compute_metrics(self.metrics, decided, references, problem="classification")


def named_image(image: EncodedImage | None) -> dict[str, str]:
    """Return the entry of a line that names the file of an image; none if only the bytes of the image are given."""
    return {"image": image["path"]} if image is not None and image["path"] else {}


def labels_of(encoded: Any) -> list[int]:
    """Return the labels of a split as its model numbers them, without decoding an image."""
    images: Any = encoded.student if isinstance(encoded, ExamplePairs) else encoded
    return list(images.labels)
