"""Terms of maps and of logits beside features: compared, trained, resumed, and kept out of the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from training import Recorder, assert_same, copy_of, differ, make_trainer

from geodistill.distillation.checkpoint import OBJECTIVE_FILE
from geodistill.distillation.config import DistillationConfig
from geodistill.distillation.feature_terms import FeaturePair
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.losses import PCKALoss, RCKALoss
from geodistill.models.resnet import CifarResNetConfig, CifarResNetForImageClassification
from geodistill.recipe import FeatureTerm, LabelTerm

LAYERS = [("stages.1", "body")]
TERMS = [
    LabelTerm(),
    FeatureTerm(loss="rcka", layers=LAYERS, features=0.5),
    FeatureTerm(loss="pcka", layers=LAYERS, patch=2),
]


class Net(nn.Module):
    """A teacher whose maps have other channels and another size than the student's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(pixel_values).mean((2, 3)))}


def images(count: int = 12) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"pixel_values": torch.randn(1, 8, 8, generator=generator), "labels": place % 4, "example_id": place}
        for place in range(count)
    ]


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = {name: torch.tensor([each[name] for each in examples]) for name in ("labels", "example_id")}
    return {**batch, "pixel_values": torch.stack([each["pixel_values"] for each in examples])}


def make(folder: Path, terms: list[Any] = TERMS, *, callbacks: Any = (), **arguments: Any) -> DistillationTrainer:
    student, teacher = make_student(), Net()  # seeded by the student
    settings = {"max_steps": 4, "learning_rate": 1e-2, "seed": 3, "use_cpu": True, "logging_steps": 1}
    more = {"per_device_train_batch_size": 6, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return DistillationTrainer(
        student,
        DistillationConfig(str(folder), **{**settings, **more, **arguments}),
        teacher_model=teacher,
        terms=terms,
        train_dataset=images(),
        data_collator=collate,
        probe=collate(images(1)),
        callbacks=list(callbacks),
    )


def make_student() -> CifarResNetForImageClassification:
    torch.manual_seed(0)
    sizes = {"depth": 8, "widths": (4, 4, 8, 8), "num_channels": 1, "image_size": 8}
    return CifarResNetForImageClassification(CifarResNetConfig(num_labels=4, **sizes))


def test_a_learned_map_is_trained_resumed_and_kept_out_of_the_student(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", save_strategy="steps", save_steps=2)
    before = copy_of(whole.distillation.objective)
    assert [tuple(weight.shape) for weight in before.values()] == [(6, 8, 1, 1)]
    whole.train()
    after = copy_of(whole.distillation.objective)
    assert differ(after, before)
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    resumed = make(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same(copy_of(resumed.distillation.objective), after)
    assert_same(copy_of(resumed.student), copy_of(whole.student))
    assert safetensors.torch.load_file(checkpoint / OBJECTIVE_FILE).keys() == after.keys()
    whole.save_model(str(tmp_path / "saved"))
    saved = safetensors.torch.load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == make_student().state_dict().keys()


def test_terms_of_maps_and_logits_are_logged_with_their_chance(tmp_path: Path) -> None:
    recorder = Recorder()
    make(tmp_path, callbacks=[recorder]).train()
    logs = [entry for entry in recorder.logs if "label" in entry]
    assert len(logs) == 4
    for entry in logs:
        for name in ("rcka_stages.1_body", "pcka_stages.1_body"):
            assert 0 < entry[name] < 2.5 and 0 < entry[f"chance/{name}"] < 2.5
        assert entry["starved_terms"] == 0


def pair(loss: nn.Module, *shape: int, reads_logits: bool = False) -> FeaturePair:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(*shape, generator=generator) for _ in range(2))
    return FeaturePair("name", 1.0, loss, student, teacher, None, reads_logits)


def test_the_chance_level_shuffles_samples() -> None:
    order = torch.randperm(5, generator=torch.Generator().manual_seed(7))
    maps = pair(PCKALoss(patch=2), 5, 3, 4, 4)
    assert maps.chance(7, None, None) == maps.loss(maps.student, maps.teacher[order]) != maps.value(None, None)
    rows = pair(RCKALoss(), 5, 3, reads_logits=True)
    ours, theirs = torch.randn(2, 5, 4)
    assert rows.chance(7, ours, theirs) == rows.loss(rows.student, rows.teacher[order], ours, theirs[order])


def test_logits_that_a_term_compares_have_to_be_there() -> None:
    rows = pair(RCKALoss(), 5, 3, reads_logits=True)
    with pytest.raises(GeodistillError, match="the teacher gives no logits"):
        rows.value(torch.randn(5, 4), None)


@pytest.mark.parametrize("term", [*TERMS[1:], FeatureTerm(loss="gram", rows="samples", layers=LAYERS)])
def test_exact_accumulation_refuses_what_does_not_add_up(tmp_path: Path, term: FeatureTerm) -> None:
    with pytest.raises(GeodistillError, match=r"Exact accumulation cannot add up the rows"):
        make(tmp_path, [term], exact_accumulation=True, gradient_accumulation_steps=2)
    make(tmp_path, [term], exact_accumulation=True)  # of one micro-batch there is nothing to add up


def test_a_language_model_has_no_logits_of_examples(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="language model, whose logits are of tokens"):
        make_trainer(tmp_path, recipe={"features": [{"loss": "rcka", "rows": "mean"}]}, causal=True)


def test_classifiers_of_text_may_be_compared_by_rcka(tmp_path: Path) -> None:
    recorder = Recorder()
    recipe = {"label": {}, "features": [{"loss": "rcka", "rows": "cls"}]}
    make_trainer(tmp_path, recipe=recipe, callbacks=[recorder], num_train_epochs=1).train()
    assert any(0 < entry.get("rcka_2_3", 0) < 3 for entry in recorder.logs)
