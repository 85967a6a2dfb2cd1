"""How an image becomes `pixel_values`: the one place that knows.

An image processor of transformers does it, in two steps that are kept apart here. First it resizes and crops, which
leaves bytes: this is done once an image, and what comes out stays in memory. Then it rescales and normalises, which is
a table of 256 values a channel: the table is read off the processor, so that the values are the processor's own.
Augmentation stands between the two steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset, Image
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor
from transformers import AutoImageProcessor, PretrainedConfig, ViTImageProcessorPil
from transformers.utils import cached_file

from geodistill.data.bundled.models import resolve_model
from geodistill.data.decoding import Unreadable, as_array, decode
from geodistill.distillation.sides import LazyExamples, WithoutTokens
from geodistill.errors import GeodistillError
from geodistill.files import fingerprint_of
from geodistill.recipe import Augmentation
from geodistill.tasks.augmentation import apply_view, draw_view
from geodistill.tasks.loading import ModelSource

PROCESSOR_FILE = "preprocessor_config.json"
PROBE_SIZES = ((61, 83), (97, 71))  # of no use but to differ: what they both become is the size of every image
LARGEST_CACHE = 2**31  # bytes of a split; images of a larger one are decoded again in each epoch

Example = dict[str, Any]
Pixels = NDArray[np.uint8]


class KnownImages(Protocol):
    """What a reader has to know of the images of a data set: `ImageExamples`, or the `ImageStatistics` of a column."""

    @property
    def channels(self) -> int: ...
    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


class ImageReader(WithoutTokens):
    """Reads images for one model, by an image processor of transformers with its pillow backend.

    Args:
        processor: the image processor.
        channels: 3 for RGB, 1 for grey; images are converted.
        size: height and width of the images, if all have one; needed if the processor does not fix the size.
        notes: what the owner of the data should know of the conversion.
        column: that is read of a split.

    Attributes:
        fingerprint: of all that decides what an image becomes.
        names: the columns of a batch that the model reads.
        size: height and width of what the model reads.

    Raises GeodistillError if images would become arrays of different sizes, and if the processor has another
    number of channels.
    """

    names: tuple[str, ...] = ("pixel_values",)

    def __init__(
        self,
        processor: Any,
        *,
        channels: int = 3,
        size: tuple[int, int] | None = None,
        notes: Sequence[str] = (),
        column: str = "image",
    ) -> None:
        if channels not in (1, 3):
            raise GeodistillError(
                f"The model reads {channels} channels.", "Use a model of 3 channels, or of 1 for grey."
            )
        self.processor = processor
        self.channels = channels
        self.notes, self.column = list(notes), column
        self._levels = self._read_levels()
        self.size = self._find_size(size)
        self.fingerprint = fingerprint_of(type(processor).__name__, processor.to_dict(), channels, self.size)

    def encode(self, split: Any, labels: Sequence[int] | None = None) -> ReadImages:
        """Return the examples of a split, whose images are decoded when they are asked for.

        `labels` are class numbers as the model numbers them; by default those of the column `label`, if there is one.
        """
        return ReadImages(self, split, labels)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return a batch: `pixel_values` (b, channels, height, width) in float32, and what else the examples have."""
        batch = {"pixel_values": torch.from_numpy(np.stack([each["pixel_values"] for each in examples]))}
        others = {name: torch.tensor([each[name] for each in examples]) for name in examples[0] if name not in batch}
        return {**batch, **others}

    def length(self, example: Mapping[str, Any]) -> None:
        """Images of one reader have one size, so no order of them saves padding."""

    def probe(self) -> dict[str, Tensor]:
        """Return a batch of two images of noise, from which the widths of a model's features are measured."""
        generator = np.random.default_rng(0)
        noise = generator.integers(0, 256, (2, self.channels, *self.size), dtype=np.uint8)
        return {"pixel_values": torch.from_numpy(np.stack([self.values(each) for each in noise]))}

    def pairs_with(self, other: object) -> bool:
        """Tell whether another reader makes the same of every image, so that one batch serves both models."""
        return isinstance(other, ImageReader) and (other.fingerprint, other.column) == (self.fingerprint, self.column)

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`, from which `pipeline("image-classification")` reads images."""
        self.processor.save_pretrained(folder)

    def read(self, picture: PillowImage.Image) -> Example:
        """Return the example of a single image."""
        return {"pixel_values": self.values(self.pixels(picture))}

    def pixels(self, picture: PillowImage.Image) -> Pixels:
        """Convert, resize and crop an image: bytes (channels, height, width).

        Raises GeodistillError for an image of another size, if the processor does not resize.
        """
        found = self._resized(as_array(picture, self.channels))
        if found.shape != (self.channels, *self.size):
            raise GeodistillError(
                f"An image becomes {found.shape[1]} × {found.shape[2]} pixels, and the model reads {self.size[0]} × "
                f"{self.size[1]}.",
                "Resize the images, or set do_resize in the model's preprocessor_config.json.",
            )
        return found

    def values(self, pixels: Pixels) -> NDArray[np.float32]:
        """Rescale and normalise what `pixels` returned."""
        return np.stack([levels[channel] for levels, channel in zip(self._levels, pixels, strict=True)])

    def _resized(self, array: Pixels) -> Pixels:
        resized = self._run(array, do_rescale=False, do_normalize=False)
        return np.asarray(resized).astype(np.uint8, copy=False)

    def _read_levels(self) -> NDArray[np.float32]:
        """The value of each of the 256 levels in each channel, as the processor rescales and normalises them."""
        levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), self.channels, axis=2)
        try:
            values = np.asarray(self._run(levels, do_resize=False, do_center_crop=False, do_pad=False))
        except ValueError as error:
            raise GeodistillError(
                f"The image processor cannot normalise {self.channels} channel{'s'[: self.channels > 1]} ({error}).",
                "Give image_mean and image_std one value for each channel of the model in preprocessor_config.json.",
            ) from error
        if values.shape != (self.channels, 16, 16):
            raise GeodistillError(
                f"{type(self.processor).__name__} makes {values.shape} of an image of 16 × 16 pixels.",
                "Give the model an image processor for classification, such as ViTImageProcessor.",
            )
        return values.reshape(self.channels, 256).astype(np.float32)

    def _find_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        first, second = (
            self._resized(np.zeros((*probe, self.channels), dtype=np.uint8)).shape[1:] for probe in PROBE_SIZES
        )
        if first != second:
            if size is None:
                raise GeodistillError(
                    "The images have different sizes, and the model's image processor does not bring them to one.",
                    "Set size (height and width) and do_resize in the model's preprocessor_config.json, or image_size "
                    "in its config.json if it has none.",
                )
            first = self._resized(np.zeros((*size, self.channels), dtype=np.uint8)).shape[1:]
        height, width = first
        return height, width

    def _run(self, array: Pixels, **settings: bool) -> Any:
        found = self.processor(array, do_convert_rgb=False, input_data_format="channels_last", **settings)
        return found["pixel_values"][0]


class ReadImages(LazyExamples):
    """The examples of a split as one reader reads them.

    An example is made when it is asked for: `pixel_values` (channels, height, width), `labels` if the split has
    labels, and `example_id`, its place in the split. Its pixels stay in memory as bytes, so an image is decoded once.
    """

    def __init__(self, reader: ImageReader, split: Any, labels: Sequence[int] | None = None) -> None:
        self.reader = reader
        if isinstance(split, Dataset):
            split = split.cast_column(reader.column, Image(decode=False))
        self._images = split[reader.column]
        self.labels = labels
        if labels is None and "label" in split.column_names:
            self.labels = list(split["label"])
        shape = (len(split), reader.channels, *reader.size)
        keeps = np.prod(shape, dtype=np.int64) <= LARGEST_CACHE
        self._kept: Pixels | None = np.empty(shape, dtype=np.uint8) if keeps else None  # no memory before it is used
        self._known = np.zeros(len(split), dtype=bool)

    def __len__(self) -> int:
        return len(self._images)

    def at(self, place: int) -> Example:
        return self.example(place, self.pixels(place))

    def example(self, place: int, pixels: Pixels) -> Example:
        """The example at a place, of pixels that are its own or a view of them."""
        label = {} if self.labels is None else {"labels": int(self.labels[place])}
        return {"pixel_values": self.reader.values(pixels), **label, "example_id": place}

    def pixels(self, place: int) -> Pixels:
        """The pixels of an image, resized. Raises GeodistillError for one that can no longer be read."""
        if self._kept is not None and self._known[place]:
            return self._kept[place]
        image = self._images[place]
        try:
            found = self.reader.pixels(decode(image))
        except Unreadable as error:
            raise GeodistillError(
                f"The image '{image['path'] or place}' {error}, though it could be read before.",
                "Leave the data unchanged while a run uses them.",
            ) from error
        if self._kept is not None:
            self._kept[place], self._known[place] = found, True
        return found


class AugmentedImages(LazyExamples):
    """Training examples, each in a view that changes from epoch to epoch (`draw_view`).

    `set_epoch` says which epoch it is. Two of them with one seed show the same view of the same example.
    """

    def __init__(self, images: ReadImages, augmentation: Augmentation, seed: int, epoch: int = 0) -> None:
        self.images, self.augmentation, self.seed, self.epoch = images, augmentation, seed, epoch

    def set_epoch(self, epoch: int) -> None:
        """Show the views of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def at(self, place: int) -> Example:
        view = draw_view(self.augmentation, self.seed, self.epoch, place)
        return self.images.example(place, apply_view(self.images.pixels(place), view))


def default_processor(size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Any:
    """Return an image processor for a model that brings none: resize to (height, width), scale to 0 … 1, normalise."""
    return ViTImageProcessorPil(
        size={"height": size[0], "width": size[1]},
        image_mean=list(mean),
        image_std=list(std),
        do_convert_rgb=len(mean) == 3,
    )


def image_reader(
    source: ModelSource | None,
    config: PretrainedConfig | None,
    examples: KnownImages | None = None,
    *,
    like: ImageReader | None = None,
    column: str = "image",
) -> ImageReader:
    """Return the reader of a model: with the image processor that lies beside it, or one that is made for it.

    A model without a processor reads as `like`, the reader of the other side, if both take images of one size. Else
    its images are resized to `image_size` of its config, to the size that `like` reads, or to the size that all images
    have, and normalised by mean and standard deviation of the training images.

    Args:
        source: of the model; None for one that is only being made.
        config: the model's config; `num_channels` and `image_size` are read if it has them.
        examples: the data of the task; None if the folder of the model says how images are read, as a student's does.
        like: the reader of the teacher, for a student.
        column: that is read of a split.

    Raises GeodistillError for a damaged processor, for none if there are no examples, and if nothing says to which
    size images are brought.
    """
    own = None if source is None else _own_processor(source)
    channels = getattr(config, "num_channels", None)
    if examples is None:
        if own is None:
            raise GeodistillError(
                f"The model has no {PROCESSOR_FILE}, which says how it reads images.",
                "Give a student as a run wrote it, with all of its files.",
            )
        return ImageReader(own, channels=channels or 3, column=column)
    channels = channels or (examples.channels if like is None else like.channels)
    known: dict[str, Any] = {"channels": channels, "size": examples.size, "column": column}
    known["notes"] = _notes(channels, examples)
    if own is not None:
        return ImageReader(own, **known)
    size = _image_size(config)
    if like is not None and like.channels == channels and size in (None, like.size):
        return ImageReader(like.processor, **known)
    size = size or (like.size if like is not None else examples.size)
    if size is None:
        raise GeodistillError(
            "The images have different sizes, and the model says neither in a preprocessor_config.json nor by "
            "image_size in its config to which size they are brought.",
            "Put a preprocessor_config.json beside the model, set image_size in its config.json, or resize the images.",
        )
    mean, std = (_in_channels(each, channels) for each in (examples.mean, examples.std))
    return ImageReader(default_processor(size, mean, std), **known)


def _own_processor(source: ModelSource) -> Any:
    path = resolve_model(source.name)
    if cached_file(path, PROCESSOR_FILE, revision=source.revision, _raise_exceptions_for_missing_entries=False) is None:
        return None
    try:
        return source.load(AutoImageProcessor.from_pretrained, what="image processor of the model", backend="pil")
    except GeodistillError as error:
        if "trust_remote_code" in error.remedy:
            raise
        raise GeodistillError(error.problem, f"Correct or remove the {PROCESSOR_FILE} beside the model.") from error


def _image_size(config: PretrainedConfig | None) -> tuple[int, int] | None:
    size = getattr(config, "image_size", None)
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _in_channels(values: Sequence[float], channels: int) -> list[float]:
    """Statistics of grey images for each of three channels, or of colour images for one, on average."""
    if len(values) == channels:
        return list(values)
    return list(values) * channels if len(values) == 1 else [round(sum(values) / len(values), 4)]


def _notes(channels: int, examples: KnownImages) -> list[str]:
    if channels == examples.channels:
        return []
    if channels == 1:
        return ["The images have colours, and the model reads one channel: they are converted to grey."]
    return ["The images are grey, and the model reads three channels: each channel is the grey image."]
