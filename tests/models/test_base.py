"""What holds for every family: the output, the loss, saving and loading, ONNX, small images, and clear errors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModelForImageClassification

from geodistill.errors import GeodistillError
from geodistill.models import CifarClassifier, CifarConfig, CifarMobileNetV2Config, CifarResNetConfig
from geodistill.models.named import FAMILIES

Small = Callable[..., CifarConfig]


def build(config: CifarConfig) -> CifarClassifier:
    torch.manual_seed(0)
    return FAMILIES[type(config)](config)


def test_hidden_states_are_the_stem_and_the_stages(small: Small) -> None:
    model = build(small(num_labels=5))
    seen: list[torch.Tensor] = []
    for module in (model.stem, *model.stages):
        module.register_forward_hook(lambda module, args, output: seen.append(output))
    output = model(torch.randn(2, 3, 32, 32), output_hidden_states=True)
    assert len(output.hidden_states) == 1 + len(model.stages)
    for given, hooked in zip(output.hidden_states, seen, strict=True):
        torch.testing.assert_close(given, hooked, rtol=0, atol=0)


def test_no_module_writes_into_the_output_of_another(small: Small) -> None:
    """A feature is taken at any module by a hook, and has to be what that module gave."""
    model = build(small(num_labels=5))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in model.modules():
        if module is not model:
            module.register_forward_hook(lambda module, args, output: seen.append((output, output.clone())))
    model(torch.randn(2, 3, 32, 32))
    assert seen
    for kept, at_once in seen:
        torch.testing.assert_close(kept, at_once, rtol=0, atol=0)


def test_logits_are_linear_in_the_averaged_last_map(small: Small) -> None:
    model = build(small(num_labels=5)).eval()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 32, 32), output_hidden_states=True)
        maps = model.neck(output.hidden_states[-1])
        averaged = torch.stack([torch.stack([channel.mean() for channel in image]) for image in maps])
        expected = averaged @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(output.logits, expected)


def test_maps_shrink_as_often_as_the_config_says(small: Small) -> None:
    config = small(num_labels=5)
    maps = build(config)(torch.randn(2, 3, 32, 32), output_hidden_states=True).hidden_states
    assert maps[-1].shape[-2:] == (32 // 2**config.halvings,) * 2


def test_maps_stay_in_the_order_that_is_fast_on_a_cpu(small: Small) -> None:
    maps = build(small(num_labels=5))(torch.randn(2, 3, 32, 32), output_hidden_states=True).hidden_states
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)


@pytest.mark.parametrize(
    ("problem", "labels", "loss"),
    [
        ("single_label_classification", torch.tensor([0, 2]), functional.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
            functional.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.tensor([[1.0, 0.5, -1.0], [0.0, 0.0, 2.0]]), functional.mse_loss),
    ],
)
def test_loss_is_of_the_problem_type(problem: str, labels: torch.Tensor, loss: Callable[..., torch.Tensor]) -> None:
    model = build(CifarResNetConfig(depth=8, widths=(4, 4, 4, 4), num_labels=3, problem_type=problem)).eval()
    output = model(torch.randn(2, 3, 8, 8), labels=labels)
    torch.testing.assert_close(output.loss, loss(output.logits, labels))


def test_tuple_in_place_of_a_model_output() -> None:
    model = build(CifarResNetConfig(depth=8, widths=(4, 4, 4, 4), num_labels=3)).eval()
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    loss, logits, hidden_states = model(images, labels=labels, output_hidden_states=True, return_dict=False)
    assert loss.ndim == 0 and logits.shape == (2, 3) and len(hidden_states) == 4
    assert len(model(images, return_dict=False)) == 1


def test_saved_model_loads_by_its_folder(small: Small, tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "ship"}
    model = build(small(id2label=names, label2id={name: number for number, name in names.items()})).train()
    model(torch.randn(4, 3, 32, 32))  # running statistics unlike a new model's
    model.eval().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not loaded.training and loaded.config.id2label == names
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images).logits, model(images).logits, rtol=0, atol=0)


def test_new_head_on_loaded_weights(tmp_path: Path) -> None:
    model = build(CifarResNetConfig(depth=8, widths=(4, 4, 4, 4), num_labels=3))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert loaded.classifier.weight.shape == (5, 4) and loaded.classifier.weight.std() > 0
    torch.testing.assert_close(loaded.stages[2][0].residual[0].weight, model.stages[2][0].residual[0].weight)


def test_equal_seeds_draw_equal_weights(small: Small) -> None:
    first, second = build(small(num_labels=3)), build(small(num_labels=3))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_convolutions_begin_with_he_initialisation() -> None:
    model = build(CifarResNetConfig(depth=8, num_labels=10))
    weight = model.stages[2][0].residual[3].weight  # (64, 64, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert model.classifier.bias.abs().max() == 0


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_small_and_grey_images(small: Small, size: int, channels: int) -> None:
    if size < small().smallest:
        with pytest.raises(GeodistillError, match="at least 16 × 16 pixels"):
            small(image_size=size)
        return
    model = build(small(num_labels=10, image_size=size, num_channels=channels)).train()
    loss = model(torch.randn(4, channels, size, size), labels=torch.tensor([0, 1, 2, 3])).loss
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_learns_real_digits(small: Small) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images[:64] / 8 - 1, dtype=torch.float32).unsqueeze(1)
    images = functional.interpolate(images, size=16, mode="nearest")  # the least that every family takes
    labels = torch.tensor(digits.target[:64])
    model = build(small(num_labels=10, image_size=16, num_channels=1)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = []
    for _ in range(10):
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_images_that_the_model_cannot_read() -> None:
    model = build(CifarResNetConfig(depth=8, widths=(4, 4, 4, 4), num_labels=3))
    with pytest.raises(GeodistillError, match="The images have 1 channels, and the model reads 3"):
        model(torch.randn(2, 1, 8, 8))
    with pytest.raises(GeodistillError, match=r"Images of 8 × 3 pixels are too small .* halves them 2 times"):
        model(torch.randn(2, 3, 8, 3))
    with pytest.raises(GeodistillError, match="3 dimensions"):
        model(torch.randn(3, 8, 8))


@pytest.mark.parametrize(
    ("given", "message"),
    [({"image_size": 15}, "at least 16 × 16"), ({"num_channels": 0}, "num_channels is 0")],
)
def test_config_that_no_model_can_have(given: dict[str, int], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        CifarMobileNetV2Config(**given)


def test_model_without_labels_is_refused() -> None:
    with pytest.raises(GeodistillError, match="no labels"):
        build(CifarResNetConfig(depth=8, num_labels=0))


def test_gradient_checkpointing_is_refused() -> None:
    model = build(CifarResNetConfig(depth=8, widths=(4, 4, 4, 4), num_labels=3))
    assert not model.supports_gradient_checkpointing
    with pytest.raises(ValueError, match="checkpointing"):
        model.gradient_checkpointing_enable()


def test_pipeline_reads_the_saved_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import ViTImageProcessorPil, pipeline

    names = {0: "cat", 1: "dog", 2: "ship"}
    config = CifarResNetConfig(depth=8, widths=(4, 4, 4, 4), id2label=names, label2id={"cat": 0, "dog": 1, "ship": 2})
    build(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    logger = logging.getLogger("transformers.pipelines.base")
    logger.addHandler(caplog.handler)
    try:
        classify = pipeline("image-classification", model=str(tmp_path))
        scores = classify(image)
    finally:
        logger.removeHandler(caplog.handler)
    assert {score["label"] for score in scores} == set(names.values())
    assert sum(score["score"] for score in scores) == pytest.approx(1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Logits(torch.nn.Module):
    def __init__(self, model: CifarClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixel_values, return_dict=True)[0]


def check_onnx(config: CifarConfig, file: Path) -> None:
    import onnxruntime

    model = Logits(build(config).train())
    with torch.no_grad():
        for _ in range(20):  # statistics of the images, without which some families give logits near zero
            model(torch.randn(8, 3, 32, 32))
    model.eval()
    torch.onnx.export(
        model,
        (torch.randn(2, 3, 32, 32),),
        file,
        input_names=["pixel_values"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        opset_version=18,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for images in (torch.randn(1, 3, 32, 32), torch.randn(5, 3, 32, 32)):
        (logits,) = session.run(None, {"pixel_values": images.numpy()})
        expected = model(images).detach()
        assert expected.std() > 0.01
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx_of_any_batch_size(tmp_path: Path) -> None:
    check_onnx(CifarResNetConfig(depth=8, widths=(4, 4, 8, 8), num_labels=3), tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_of_every_family(small: Small, tmp_path: Path) -> None:
    check_onnx(small(num_labels=3), tmp_path / "model.onnx")
