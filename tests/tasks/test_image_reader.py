from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    ConvNextImageProcessorPil,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)

from geodistill.data.decoding import as_array
from geodistill.data.images import ImageExamples, load_images
from geodistill.distillation.sides import ExamplePairs
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe
from geodistill.tasks.augmentation import apply_view, draw_view
from geodistill.tasks.image_reader import (
    AugmentedImages,
    ImageReader,
    ReadImages,
    default_processor,
    image_reader,
)
from geodistill.tasks.loading import ModelSource

RESNET = ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=10)
VIT = ViTConfig(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=8
)


def processor(size: int = 8, channels: int = 3) -> Any:
    return default_processor((size, size), [0.4] * channels, [0.2] * channels)


@pytest.fixture(scope="module")
def digits() -> ImageExamples:
    return load_images(DataRecipe(source="bundled:digits", limit=40))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageExamples:
    """Coloured images of two sizes."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(10):
            shape = (20, 30, 3) if number % 2 else (24, 18, 3)
            Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(folder / label / f"{number}.png")
    return load_images(DataRecipe(source=str(folder)))


@pytest.mark.parametrize(
    "each",
    [
        processor(16),
        ViTImageProcessorPil(size={"height": 12, "width": 20}, image_mean=[0.1, 0.2, 0.3], image_std=[0.3, 0.2, 0.1]),
        ViTImageProcessorPil(size={"height": 16, "width": 16}, do_normalize=False),
        ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.875),
        BitImageProcessorPil(size={"shortest_edge": 20}, crop_size=16),
    ],
    ids=["default", "oblong", "not normalised", "ConvNeXt", "Bit"],
)
def test_values_are_the_processors_own(each: Any, photos: ImageExamples) -> None:
    reader = ImageReader(each)
    read = reader.encode(photos.splits["train"])
    for place in (0, 1, 5):
        picture = photos.splits["train"][place]["image"]
        expected = each(picture, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(read[place]["pixel_values"], expected.astype(np.float32))
        assert np.array_equal(reader.read(picture)["pixel_values"], read[place]["pixel_values"])
    assert expected.shape == (3, *reader.size) and read[0]["pixel_values"].dtype == np.float32


def test_grey_images_for_one_channel_and_for_three(digits: ImageExamples) -> None:
    picture = digits.splits["train"][0]["image"]
    levels = as_array(picture, 1)[:, :, 0] / 255
    for channels in (1, 3):
        read = ImageReader(processor(8, channels), channels=channels).read(picture)["pixel_values"]
        assert read.shape == (channels, 8, 8) and np.allclose(read, (levels - 0.4) / 0.2, atol=1e-6)


def test_examples_and_batches(digits: ImageExamples) -> None:
    reader = ImageReader(processor())
    split = digits.splits["train"]
    read = reader.encode(split)
    assert isinstance(read, ReadImages) and len(read) == 40 == len(list(read))
    assert [each["example_id"] for each in read[3:6]] == [3, 4, 5] and read[-1]["example_id"] == 39
    assert [each["labels"] for each in read] == list(split["label"])
    with pytest.raises(IndexError):
        read[40]
    batch = reader.collate(read[:3])
    assert batch["pixel_values"].shape == (3, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].dtype == torch.int64 and batch["example_id"].tolist() == [0, 1, 2]
    assert set(reader.collate([reader.read(split[0]["image"])])) == {"pixel_values"} == set(reader.names)
    assert [each["labels"] for each in reader.encode(split, [7] * 40)[:2]] == [7, 7]
    assert "labels" not in reader.encode(split.remove_columns("label"))[0]
    assert reader.length(read[0]) is None


def test_an_image_is_decoded_once(digits: ImageExamples, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ImageReader(processor())
    calls = []
    resize = reader._resized
    monkeypatch.setattr(reader, "_resized", lambda array: calls.append(1) or resize(array))
    read = reader.encode(digits.splits["train"])
    assert not calls, "nothing is decoded before it is asked for"
    first = [each["pixel_values"] for each in read]
    assert len(calls) == 40
    assert all(np.array_equal(one, each["pixel_values"]) for one, each in zip(first, read, strict=True))
    assert len(calls) == 40
    monkeypatch.setattr("geodistill.tasks.image_reader.LARGEST_CACHE", 40 * 3 * 64 - 1)
    read = reader.encode(digits.splits["train"])
    assert np.array_equal(read[0]["pixel_values"], read[0]["pixel_values"]) and len(calls) == 42


def test_an_image_that_is_gone(photos: ImageExamples, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    split = photos.splits["train"].select(range(1)).map(lambda row: {"image": str(path)}, load_from_cache_file=False)
    path.unlink()
    with pytest.raises(GeodistillError, match=r"a\.png' does not exist, though it could be read before"):
        ImageReader(processor()).encode(split)[0]


def test_probe_is_a_batch_of_the_models_size() -> None:
    reader = ImageReader(processor(12, 1), channels=1)
    assert reader.probe()["pixel_values"].shape == (2, 1, 12, 12)
    assert torch.equal(reader.probe()["pixel_values"], reader.probe()["pixel_values"])
    assert reader.probe()["pixel_values"].std() > 0.5


def test_readers_pair_where_they_read_alike() -> None:
    reader = ImageReader(processor())
    assert reader.pairs_with(ImageReader(processor()))
    for other in (ImageReader(processor(16)), ImageReader(processor(8, 1), channels=1), "reader"):
        assert not reader.pairs_with(other)
    assert not reader.pairs_with(ImageReader(default_processor((8, 8), [0.5] * 3, [0.2] * 3)))


def test_sizes_that_the_processor_does_not_settle(photos: ImageExamples) -> None:
    loose = ViTImageProcessorPil(do_resize=False)
    with pytest.raises(GeodistillError, match="does not bring them to one"):
        ImageReader(loose)
    reader = ImageReader(loose, size=(20, 30))
    assert reader.size == (20, 30)
    with pytest.raises(GeodistillError, match=r"becomes 24 × 18 pixels, and the model reads 20 × 30"):
        reader.read(Image.new("RGB", (18, 24)))


def test_channels_that_do_not_fit() -> None:
    with pytest.raises(GeodistillError, match="cannot normalise 1 channel "):
        ImageReader(processor(8, 3), channels=1)
    with pytest.raises(GeodistillError, match="reads 4 channels"):
        ImageReader(processor(), channels=4)


def test_a_saved_reader_is_loaded_again_and_found_by_a_pipeline(tmp_path: Path, digits: ImageExamples) -> None:
    reader = image_reader(None, RESNET, digits)
    reader.save(tmp_path)
    model = ResNetForImageClassification(RESNET).eval()
    model.save_pretrained(tmp_path)
    source = ModelSource(str(tmp_path))
    assert image_reader(source, RESNET, digits).pairs_with(reader)
    assert image_reader(source, RESNET).pairs_with(reader), "the folder alone says how images are read"
    picture = digits.splits["train"][0]["image"]
    with torch.no_grad():
        expected = model(**reader.collate([reader.read(picture)])).logits.softmax(-1)[0]
    answers = pipeline("image-classification", str(tmp_path), device="cpu")(picture, top_k=10)
    found = {answer["label"]: answer["score"] for answer in answers}
    assert [found[f"LABEL_{number}"] for number in range(10)] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_model_without_a_processor_is_normalised_by_the_data(digits: ImageExamples, photos: ImageExamples) -> None:
    reader = image_reader(None, RESNET, digits)
    assert (reader.size, reader.channels) == ((8, 8), 3)
    assert list(reader.processor.image_mean) == [digits.mean[0]] * 3
    assert reader.notes == ["The images are grey, and the model reads three channels: each channel is the grey image."]
    grey = image_reader(None, None, digits)
    assert grey.channels == 1 and list(grey.processor.image_std) == list(digits.std) and grey.notes == []
    values = np.stack([each["pixel_values"] for each in grey.encode(digits.splits["train"])])
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1
    assert image_reader(None, VIT, photos).size == (16, 16), "as its config says"
    colours = image_reader(None, ResNetConfig(num_channels=1), load_images(photos_of_one_size(photos)))
    assert colours.notes == ["The images have colours, and the model reads one channel: they are converted to grey."]


def photos_of_one_size(photos: ImageExamples) -> DataRecipe:
    folder = Path(photos.record.source)
    for path in folder.glob("*/*.png"):
        target = folder.parent / "even" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((8, 8)).save(target)
    return DataRecipe(source=str(folder.parent / "even"))


def test_a_student_reads_as_its_teacher_where_sizes_agree(photos: ImageExamples) -> None:
    teacher = ImageReader(BitImageProcessorPil(size={"shortest_edge": 20}, crop_size=16))
    assert image_reader(None, RESNET, photos, like=teacher).pairs_with(teacher)
    assert image_reader(None, VIT, photos, like=teacher).pairs_with(teacher)
    other = image_reader(None, ViTConfig(image_size=32), photos, like=teacher)
    assert other.size == (32, 32) and not other.pairs_with(teacher)
    with pytest.raises(
        GeodistillError, match="images have different sizes, and the model says neither in a preprocessor"
    ):
        image_reader(None, RESNET, photos)


def test_a_damaged_processor(tmp_path: Path, digits: ImageExamples) -> None:
    ViTForImageClassification(VIT).save_pretrained(tmp_path)
    assert image_reader(ModelSource(str(tmp_path)), VIT, digits).size == (16, 16)
    with pytest.raises(GeodistillError, match=r"no preprocessor_config.json, which says how it reads images"):
        image_reader(ModelSource(str(tmp_path)), VIT)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(
        GeodistillError, match=r"The image processor of the model .* cannot be loaded: .* Correct or remove"
    ):
        image_reader(ModelSource(str(tmp_path)), VIT, digits)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "NoProcessor"}))
    with pytest.raises(
        GeodistillError, match=r"The image processor of the model .* cannot be loaded: .* Correct or remove"
    ):
        image_reader(ModelSource(str(tmp_path)), VIT, digits)


def test_augmented_examples_change_with_the_epoch_alone(digits: ImageExamples) -> None:
    read = ImageReader(processor(32)).encode(digits.splits["train"])
    first, again = (AugmentedImages(read, "crop", seed=3) for _ in range(2))
    before = [each["pixel_values"] for each in first]
    first.set_epoch(1)
    assert any(not np.array_equal(one, each["pixel_values"]) for one, each in zip(before, first, strict=True))
    assert all(np.array_equal(one, each["pixel_values"]) for one, each in zip(before, again, strict=True))
    first.set_epoch(0)
    assert np.array_equal(first[7]["pixel_values"], before[7]), "whatever was read in between"
    assert {name: first[7][name] for name in ("labels", "example_id")} == {
        name: read[7][name] for name in ("labels", "example_id")
    }
    view = draw_view("crop", 3, 0, 7)
    assert np.array_equal(before[7], read.reader.values(apply_view(read.pixels(7), view)))
    none = AugmentedImages(read, "none", seed=3)
    assert np.array_equal(none[7]["pixel_values"], read[7]["pixel_values"])


def test_two_sizes_of_one_image_are_seen_alike(digits: ImageExamples) -> None:
    from PIL.Image import Resampling

    large = default_processor((64, 64), [0.4] * 3, [0.2] * 3)
    large.resample = Resampling.NEAREST
    small = default_processor((32, 32), [0.4] * 3, [0.2] * 3)
    small.resample = Resampling.NEAREST
    split = digits.splits["train"]
    sides = [AugmentedImages(ImageReader(each).encode(split), "crop_flip", seed=0) for each in (small, large)]
    pairs = ExamplePairs(*sides)
    pairs.set_epoch(2)
    assert len(pairs) == 40 and sides[0].epoch == sides[1].epoch == 2
    for pair in pairs[:10]:
        assert set(pair) == {
            *("pixel_values", "labels", "example_id"),
            *("teacher_pixel_values", "teacher_labels", "teacher_example_id"),
        }
        assert pair["example_id"] == pair["teacher_example_id"]
        assert np.array_equal(pair["teacher_pixel_values"][:, ::2, ::2], pair["pixel_values"])
    with pytest.raises(GeodistillError, match="40 examples and the teacher 3"):
        ExamplePairs(sides[0], ImageReader(large).encode(split.select(range(3))))
