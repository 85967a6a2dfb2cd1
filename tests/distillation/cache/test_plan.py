from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForSequenceClassification

from geodistill.distillation.cache import plan as cache_plan
from geodistill.distillation.cache.format import TopK
from geodistill.distillation.cache.index import scan
from geodistill.distillation.cache.plan import check_space, plan_cache
from geodistill.distillation.signals import FeatureRequest
from geodistill.errors import GeodistillError


def plan_of(lesson, rotated=False, dtype="float32", top_k=None):
    index, _ = scan(lesson.dataset)
    return plan_cache(lesson.teacher(), lesson.dataset, lesson.collate(), index, dtype, rotated, top_k), index


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_is_planned_is_what_is_written(lesson, tmp_path, dtype):
    plan, index = plan_of(lesson, dtype=dtype)
    lesson.prepare(tmp_path, dtype=dtype)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.bin")) + index.bytes
    assert plan.bytes == written
    assert plan.written == plan.final
    tokens = sum(len(example["input_ids"]) for example in lesson.dataset)
    assert (tmp_path / "features-0.bin").stat().st_size == tokens * 16 * {"bfloat16": 2, "float32": 4}[dtype]


def test_a_rotated_cache_needs_room_for_the_rows_before_and_after(lesson, tmp_path, monkeypatch):
    plan, _ = plan_of(lesson, rotated=True, dtype="bfloat16")
    monkeypatch.setattr(
        "geodistill.distillation.cache.build.write_manifest",
        lambda folder, *_: pytest.fail(str(sum(path.stat().st_size for path in folder.iterdir()))),
    )
    with pytest.raises(pytest.fail.Exception) as failure:
        lesson.prepare(tmp_path, variance=1.0, dtype="bfloat16")
    most = int(str(failure.value))
    overhead = 2000  # headers and the progress file
    assert plan.bytes * 0.8 < most <= plan.bytes + overhead


def test_a_limit_is_kept(lesson, tmp_path):
    plan, index = plan_of(lesson)
    check_space(tmp_path, plan, index, plan.bytes, progress=False)
    size = f"{plan.bytes / 1e6:.2f} MB"
    with pytest.raises(
        GeodistillError,
        match=rf"would take {size} for 30 examples and 6 kinds of feature rows, and its limit is 0\.01 MB\. "
        r"Ask for fewer layers, raise teacher\.cache_limit_gb, or set teacher\.cache=false\.",
    ):
        lesson.prepare(tmp_path, limit_bytes=10_000)
    assert list(tmp_path.glob("*.bin")) == []


def test_a_disk_without_room_is_told_of(lesson, tmp_path, monkeypatch):
    plan, index = plan_of(lesson)
    (tmp_path / "logits.bin").write_bytes(bytes(1000))  # what an interrupted writer has already written counts as room
    for free, enough in [(plan.bytes - 1000, True), (plan.bytes - 1001, False)]:
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            check_space(tmp_path, plan, index, 10**9, progress=False)
        else:
            with pytest.raises(GeodistillError, match="has room for"):
                check_space(tmp_path, plan, index, 10**9, progress=False)


def test_what_is_said_without_a_progress_bar_is_logged(caplog):
    with caplog.at_level("INFO"):
        cache_plan.say("so", progress=False)
    assert [(record.name, record.message) for record in caplog.records] == [
        ("geodistill.distillation.cache.plan", "so")
    ]


def test_logits_of_an_unknown_shape_are_refused(lesson):
    lesson.model.classifier.forward = lambda hidden: torch.zeros(len(hidden), 99, 3)
    with pytest.raises(GeodistillError, match=r"shape \(1, 99, 3\), neither"):
        plan_of(lesson)


def test_cut_logits_take_eight_bytes_for_each_kept_one(speaking, tmp_path):
    speaking.requests = ()
    plan, index = plan_of(speaking, top_k=TopK(9, 2.0))
    tokens = sum(len(example["input_ids"]) for example in speaking.dataset)
    assert plan.bytes - index.bytes == tokens * (8 * 9 + 4)
    speaking.prepare(tmp_path, top_k=TopK(9, 2.0))
    assert (tmp_path / "logits.bin").stat().st_size == tokens * (8 * 9 + 4)


def test_whole_token_logits_over_the_limit_can_be_cut(speaking, tmp_path):
    speaking.requests = ()
    with pytest.raises(
        GeodistillError, match=r"its limit is 0\.01 MB\. Keep the largest logits only \(teacher\.cache_top"
    ):
        speaking.prepare(tmp_path, limit_bytes=10_000)
    speaking.prepare(tmp_path, limit_bytes=10_000, top_k=TopK(2, 2.0))


def test_logits_that_have_no_k_largest_are_refused(speaking):
    with pytest.raises(
        GeodistillError, match=r"To keep the 20 largest of 40 logits takes no less room .*cache_top_k below 20"
    ):
        plan_of(speaking, top_k=TopK(20, 2.0))
    speaking.model = LlamaForSequenceClassification(speaking.model.config)
    with pytest.raises(GeodistillError, match=r"shape \(1, 2\), and only those of tokens are cut"):
        plan_of(speaking, top_k=TopK(2, 2.0))


def test_rows_that_no_example_has_are_refused(lesson):
    lesson.requests = (FeatureRequest(1, "tokens", special_tokens=False),)
    lesson.dataset = [{**lesson.dataset[0], "special_tokens_mask": [1] * len(lesson.dataset[0]["input_ids"])}]
    with pytest.raises(GeodistillError, match="No example has a token"):
        plan_of(lesson)
