from __future__ import annotations

import copy
import json
from dataclasses import asdict

import pytest
import torch
from transformers import RobertaForSequenceClassification

from geodistill.distillation.cache.format import (
    Table,
    TopK,
    fingerprint_teacher,
    read_manifest,
    tensor_bytes,
    verify_files,
    write_manifest,
)
from geodistill.distillation.signals import FeatureRequest, Teacher
from geodistill.errors import GeodistillError


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_table_gives_back_what_was_written(tmp_path, dtype, shape):
    table = Table("rows.bin", dtype, shape, "attended")
    rows = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    (tmp_path / table.file).write_bytes(tensor_bytes(rows.transpose(0, -1).contiguous().transpose(0, -1)))
    assert table.row_bytes * 5 == (tmp_path / table.file).stat().st_size == rows.nbytes
    found = Table.from_json(json.loads(json.dumps(table.__dict__))).map(tmp_path, 5)
    assert found.dtype == rows.dtype and torch.equal(found, rows)


def test_a_table_comes_back_from_json():
    for table in (
        Table("logits.bin", "float32", (9,), "attended", TopK(4, 2.0)),
        Table("a", "bfloat16", (3,), "content"),
    ):
        assert Table.from_json(json.loads(json.dumps(asdict(table)))) == table


def fingerprint(lesson, **changes):
    arguments = {"data": "data", "dtype": "float32", "variance": None, "top_k": None, **changes}
    return fingerprint_teacher(lesson.teacher(), **arguments)


def test_the_fingerprint_stays_the_same_for_the_same(lesson):
    before = fingerprint(lesson)
    lesson.tokenizer(["word1", "word2 word3"], padding=True, truncation=True, max_length=8)
    lesson.model.config._name_or_path = "/elsewhere"
    for parameter in lesson.model.parameters():
        parameter.requires_grad_(True)
    assert fingerprint(lesson) == before
    twin = RobertaForSequenceClassification(lesson.model.config)
    twin.load_state_dict(lesson.model.state_dict())
    lesson.model = twin
    assert fingerprint(lesson) == before


@pytest.mark.parametrize(
    "change", ["data", "dtype", "variance", "k", "temperature", "weights", "one bit", "config", "class"]
)
def test_the_fingerprint_changes_with_all_that_counts(lesson, change):
    before = {fingerprint(lesson), fingerprint(lesson, top_k=TopK(64, 2.0))}
    settings = {"data": {"data": "other"}, "dtype": {"dtype": "bfloat16"}, "variance": {"variance": 0.99}}
    settings |= {"k": {"top_k": TopK(32, 2.0)}, "temperature": {"top_k": TopK(64, 1.0)}}
    embeddings = lesson.model.roberta.embeddings.word_embeddings.weight.data
    if change == "weights":
        embeddings += 1
    elif change == "one bit":
        embeddings.view(torch.int32)[3, 5] ^= 1
    elif change == "config":
        lesson.model.config.layer_norm_eps = 1e-3
    elif change == "class":
        lesson.model.__class__ = type("Other", (RobertaForSequenceClassification,), {})
    assert len(before) == 2 and fingerprint(lesson, **settings.get(change, {})) not in before


def test_a_manifest_comes_back_and_vouches_for_the_files(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"0123456789")
    write_manifest(tmp_path, {"fingerprint": "f", "share": 0.1 + 0.2}, ["a.bin"])
    manifest = read_manifest(tmp_path)
    assert manifest["fingerprint"] == "f" and manifest["share"] == 0.1 + 0.2
    verify_files(tmp_path, manifest)
    (tmp_path / "a.bin").write_bytes(b"0123456780")
    with pytest.raises(GeodistillError, match=r"the contents of a\.bin have changed"):
        verify_files(tmp_path, manifest)
    (tmp_path / "a.bin").write_bytes(b"012345678")
    with pytest.raises(GeodistillError, match=r"a\.bin has 9 bytes instead of 10"):
        verify_files(tmp_path, manifest)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(GeodistillError, match=r"a\.bin is missing"):
        verify_files(tmp_path, manifest)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"body": {"fingerprint": "f"}, "sha256": "0"}', "\xff\x00"])
def test_a_manifest_that_is_none_is_refused(tmp_path, content):
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(GeodistillError, match="is damaged"):
        read_manifest(tmp_path)


def test_a_module_of_ones_own_is_known_by_its_weights(lesson):
    settings = {"data": "data", "dtype": "float32", "variance": None, "top_k": None}
    torch.manual_seed(0)
    teachers = [Teacher(torch.nn.Sequential(torch.nn.Embedding(4, 2)), [FeatureRequest("0", "tokens")]) for _ in "ab"]
    one, other = (fingerprint_teacher(teacher, **settings) for teacher in teachers)
    assert one != other == fingerprint_teacher(teachers[1], **settings)


def test_the_scale_of_adapters_is_part_of_the_fingerprint(lesson):
    from peft import LoraConfig, get_peft_model

    found = set()
    for alpha in (8, 16):
        model = copy.deepcopy(lesson.model)
        torch.manual_seed(1)
        adapted = get_peft_model(
            model, LoraConfig(lora_alpha=alpha, target_modules=["query"], init_lora_weights="gaussian")
        )
        source = Teacher(adapted, lesson.requests, precision="float32")
        settings = {"data": "data", "dtype": "float32", "variance": None, "top_k": None}
        found.add(fingerprint_teacher(source, **settings))
        again = Teacher(adapted, lesson.requests, precision="float32")
        assert fingerprint_teacher(again, **settings) in found
    assert len(found) == 2
