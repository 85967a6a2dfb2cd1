from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from training import POSITIONS, counted, reopen
from transformers import LlamaConfig, LlamaForSequenceClassification, RobertaForTokenClassification

from geodistill.distillation.cache.format import MANIFEST
from geodistill.distillation.cache.teacher_cache import cache_fingerprint, prepare_cache
from geodistill.distillation.signals import FeatureRequest, Teacher
from geodistill.errors import GeodistillError


@pytest.fixture
def cache(lesson, tmp_path):
    return lesson.prepare(tmp_path / "cache")


@pytest.mark.parametrize("length", [None, 25])
@pytest.mark.parametrize("side", ["right", "left"])
def test_it_answers_like_the_teacher_however_the_batch_is_padded(lesson, cache, side, length):
    batch = lesson.batch(POSITIONS, side, length)
    expected, found = lesson.teacher()(batch), cache(batch)
    assert list(found.features) == list(lesson.requests)
    # RoBERTa's head reads the first position, so its own logits are right only with the padding on the right.
    logits = lesson.teacher()(lesson.batch(POSITIONS)).logits
    torch.testing.assert_close(found.logits, logits, atol=1e-6, rtol=0)
    for request in lesson.requests:
        torch.testing.assert_close(
            counted(found.features[request]), counted(expected.features[request]), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("side", ["right", "left"])
def test_it_answers_like_a_decoder(lesson, tmp_path, side):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    lesson.model = LlamaForSequenceClassification(LlamaConfig(vocab_size=40, pad_token_id=0, num_labels=3, **sizes))
    requests = [FeatureRequest(-1, "tokens", special_tokens=False), FeatureRequest(1, "last")]
    batch = lesson.batch(POSITIONS, side)
    expected, found = lesson.teacher(requests)(batch), lesson.prepare(tmp_path, lesson.teacher(requests))(batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
    for request in requests:
        torch.testing.assert_close(
            counted(found.features[request]), counted(expected.features[request]), atol=1e-6, rtol=0
        )


def test_a_batch_without_a_mask_is_attended_everywhere(lesson, cache):
    alike = [row for row, example in enumerate(lesson.dataset) if len(example["input_ids"]) == 7]
    assert len(alike) > 1
    batch = lesson.batch(alike)
    expected = cache(batch)
    del batch["attention_mask"]
    assert torch.equal(
        counted(cache(batch).features[lesson.requests[0]]), counted(expected.features[lesson.requests[0]])
    )


def test_bfloat16_answers_are_the_teachers_rounded(lesson, tmp_path):
    cache = lesson.prepare(tmp_path, dtype="bfloat16")
    batch = lesson.batch(POSITIONS)
    expected, found = lesson.teacher()(batch), cache(batch)
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
    for request in lesson.requests:
        assert found.features[request].values.dtype == torch.bfloat16
        # Half a unit in the last of 8 bits; the absolute part is the rounding of the two forward passes.
        rows = counted(found.features[request]).float(), counted(expected.features[request])
        torch.testing.assert_close(*rows, atol=1e-6, rtol=2.0**-8)


def test_answers_may_be_changed_without_changing_the_cache(lesson, cache):
    batch = lesson.batch(POSITIONS)
    first = cache(batch)
    kept = {request: rows.values.clone() for request, rows in first.features.items()}
    for values in [first.logits, *(rows.values for rows in first.features.values())]:
        values.fill_(7.0)
    for request, rows in cache(batch).features.items():
        assert torch.equal(rows.values, kept[request])


def test_logits_of_tokens(lesson, tmp_path):
    torch.manual_seed(1)
    lesson.model = RobertaForTokenClassification(lesson.model.config)
    cache = lesson.prepare(tmp_path, lesson.teacher(lesson.requests[:1]))
    for side in ("right", "left"):
        batch = lesson.batch(POSITIONS, side)
        attended = batch["attention_mask"].bool()
        expected, found = lesson.teacher(lesson.requests[:1])(batch), cache(batch)
        assert found.logits.shape == expected.logits.shape
        torch.testing.assert_close(found.logits[attended], expected.logits[attended], atol=1e-6, rtol=0)
        assert not found.logits[~attended].any()


def test_rows_of_responses(lesson, tmp_path):
    lesson.model = RobertaForTokenClassification(lesson.model.config)
    for example in lesson.dataset:
        example["labels"] = [-100, -100, *example["input_ids"][2:]]
    request = FeatureRequest(-1, "response")
    teacher = lesson.teacher([request])

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = lesson.collate()([{**example, "labels": 0} for example in examples])
        rows = [torch.tensor(example["labels"]) for example in examples]
        return {**batch, "labels": pad_sequence(rows, batch_first=True, padding_value=-100)}

    options: dict[str, Any] = {"dtype": "float32", "limit_bytes": 10**8, "progress": False}
    cache = prepare_cache(tmp_path, teacher, lesson.dataset, collate, **options)
    batch = collate([lesson.dataset[position] for position in POSITIONS])
    found, expected = cache(batch).features[request], teacher(batch).features[request]
    torch.testing.assert_close(counted(found), counted(expected), atol=1e-6, rtol=0)
    assert torch.equal(found.mask.sum(1), (batch["labels"] != -100).sum(1))


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_of_words(lesson, tmp_path, side):
    """One row for each word, for a batch whose own tokens are a student's and the teacher's carry its prefix."""
    for example in lesson.dataset:
        length = len(example["input_ids"])
        example["word_ids"] = [-1, *(place // 2 for place in range(length - 2)), -1]
    request, tokens = FeatureRequest(-1, "words"), FeatureRequest(-1, "tokens")
    teacher = lesson.teacher([request, tokens])
    pad = lesson.collate(side, 20)

    def collate(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad([{name: value for name, value in each.items() if name != "word_ids"} for each in examples])
        word_ids = torch.full_like(batch["input_ids"], -1)
        for row, (each, mask) in enumerate(zip(examples, batch["attention_mask"], strict=True)):
            word_ids[row, mask == 1] = torch.tensor(each["word_ids"])
        return {**batch, "word_ids": word_ids}

    options: dict[str, Any] = {"dtype": "float32", "limit_bytes": 10**8, "progress": False}
    cache = prepare_cache(tmp_path, teacher, lesson.dataset, collate, **options)
    batch = collate([lesson.dataset[position] for position in POSITIONS])
    expected = teacher(batch)
    most = int(batch["word_ids"].max()) + 1
    assert expected.features[request].values.shape == (len(POSITIONS), most, 16)
    first = expected.features[tokens].values[0][batch["word_ids"][0] == 0].mean(0)
    torch.testing.assert_close(expected.features[request].values[0, 0], first)
    foreign = {f"teacher_{name}": value for name, value in batch.items()}
    foreign |= {"input_ids": torch.ones(len(POSITIONS), 3), "example_id": batch["example_id"]}
    for source in (cache, teacher):
        for given in (batch, foreign):
            found = source(given)
            torch.testing.assert_close(
                counted(found.features[request]), counted(expected.features[request]), atol=1e-6, rtol=0
            )
            torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
    words = sum(max(example["word_ids"]) + 1 for example in lesson.dataset)
    assert (tmp_path / "features-0.bin").stat().st_size == 4 * 16 * words
    with pytest.raises(GeodistillError, match="The words of example"):
        cache({**foreign, "teacher_word_ids": foreign["teacher_word_ids"].clamp(max=0)})


def test_the_teacher_runs_once(lesson, tmp_path):
    first = lesson.teacher()
    lesson.prepare(tmp_path, first)
    probe, *batches = first.shown
    assert len(probe) == 1
    assert sorted(chain(*batches)) == list(range(len(lesson.dataset)))
    again = lesson.teacher()
    cache = lesson.prepare(tmp_path, again, batch_size=7)
    assert again.shown == [] and len(cache) == len(lesson.dataset)


def test_fresh_starts_over(lesson, tmp_path):
    lesson.prepare(tmp_path)
    again = lesson.teacher()
    lesson.prepare(tmp_path, again, fresh=True)
    assert sorted(chain(*again.shown[1:])) == list(range(len(lesson.dataset)))


def test_some_of_its_requests(lesson, cache, tmp_path):
    some = reopen(lesson, tmp_path / "cache", lesson.requests[3:5])
    batch = lesson.batch(POSITIONS)
    assert list(some(batch).features) == some.requests == list(lesson.requests[3:5])
    assert torch.equal(
        counted(some(batch).features[lesson.requests[3]]), counted(cache(batch).features[lesson.requests[3]])
    )
    assert some.widths == {request: 16 for request in some.requests}


def test_a_selection_reads_only_what_it_answers(lesson, cache):
    batch = lesson.batch(POSITIONS)
    for requests in ([lesson.requests[1]], list(lesson.requests[2:4]), []):
        chosen = cache.select(requests)
        assert chosen.requests == list(chosen(batch).features) == requests
        assert torch.equal(chosen(batch).logits, cache(batch).logits)
        for request in requests:
            assert torch.equal(counted(chosen(batch).features[request]), counted(cache(batch).features[request]))
    assert cache.requests == list(lesson.requests)
    with pytest.raises(GeodistillError, match=r"not opened for tokens of -1\. Choose among cls of 1\."):
        cache.select([lesson.requests[2]]).select([lesson.requests[0]])


def test_a_request_it_lacks_is_refused_and_prepared_beside_the_others(lesson, tmp_path):
    lesson.prepare(tmp_path, lesson.teacher(lesson.requests[:1]))
    with pytest.raises(GeodistillError, match=r"does not hold cls of 1; it holds logits, tokens of -1\. Write it anew"):
        reopen(lesson, tmp_path, lesson.requests[2:3])
    lesson.prepare(tmp_path, lesson.teacher(lesson.requests[2:3]))
    both = reopen(lesson, tmp_path, [lesson.requests[0], lesson.requests[2]])
    batch = lesson.batch(POSITIONS)
    expected = lesson.teacher()(batch)
    for request, rows in both(batch).features.items():
        torch.testing.assert_close(counted(rows), counted(expected.features[request]), atol=1e-6, rtol=0)


def test_batches_of_other_data_are_refused(lesson, cache):
    batch = lesson.batch(POSITIONS)
    with pytest.raises(GeodistillError, match=r"tokens of example 3 in the batch.*'example_id'"):
        cache({**batch, **swapped(batch)})
    with pytest.raises(GeodistillError, match=r"no 'example_id'.*remove_unused_columns=False"):
        cache({name: value for name, value in batch.items() if name != "example_id"})
    for stranger in (-1, len(cache)):
        with pytest.raises(GeodistillError, match=r"the teacher cache holds 30\."):
            cache({**batch, "example_id": batch["example_id"].index_fill(0, torch.tensor([2]), stranger)})


def swapped(batch):
    """The same tokens, but for two in the second sentence that have changed places."""
    ids = batch["input_ids"].clone()
    ids[1, 1], ids[1, 2] = batch["input_ids"][1, 2], batch["input_ids"][1, 1]
    assert not torch.equal(ids, batch["input_ids"])
    return {"input_ids": ids}


@pytest.mark.parametrize("name", ["logits.bin", "features-0.bin", "features-5.bin", "examples.safetensors", MANIFEST])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_a_damaged_cache_is_refused(lesson, cache, tmp_path, name, damage):
    path = tmp_path / "cache" / name
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    path.unlink()
    if damage != "removed":
        path.write_bytes({"flipped": content, "cut": content[:-2], "emptied": b""}[damage])
    if (name, damage) == (MANIFEST, "removed"):
        with pytest.raises(GeodistillError, match="no finished teacher cache"):
            reopen(lesson, tmp_path / "cache")
        return
    for opened in (reopen, lambda lesson, folder: lesson.prepare(folder)):
        with pytest.raises(GeodistillError, match=r"is damaged: .*Delete the folder, or start over with --fresh\."):
            opened(lesson, tmp_path / "cache")
    lesson.prepare(tmp_path / "cache", fresh=True)
    reopen(lesson, tmp_path / "cache")


def test_a_changed_setting_makes_it_stale(lesson, cache, tmp_path):
    for settings in ({"dtype": "bfloat16"}, {"variance": 0.9}):
        with pytest.raises(GeodistillError, match="is stale"):
            reopen(lesson, tmp_path / "cache", **settings)


def test_changed_weights_make_it_stale_and_it_is_written_anew(lesson, cache, tmp_path):
    batch = lesson.batch(POSITIONS)
    before = cache(batch).logits
    with torch.no_grad():
        lesson.model.classifier.out_proj.bias[0] += 1
    with pytest.raises(GeodistillError, match="is stale"):
        reopen(lesson, tmp_path / "cache")
    after = lesson.prepare(tmp_path / "cache")(batch).logits
    torch.testing.assert_close(after, before + torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    # Whoever still has the old one open goes on reading it whole.
    assert torch.equal(cache(batch).logits, before)


def test_changed_data_is_written_anew(lesson, cache, tmp_path):
    lesson.dataset = lesson.encode(20, seed=1)
    assert len(lesson.prepare(tmp_path / "cache")) == 20


def test_what_else_lies_in_the_folder_is_left_alone(lesson, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    lesson.prepare(tmp_path)
    lesson.prepare(tmp_path, fresh=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_wrong_settings(lesson, tmp_path):
    with pytest.raises(GeodistillError, match=r"kept in 'bfloat'\. Did you mean 'bfloat16'\?"):
        lesson.prepare(tmp_path, dtype="bfloat")
    for variance in (0.0, 1.5):
        with pytest.raises(GeodistillError, match="above 0 and up to 1"):
            lesson.prepare(tmp_path, variance=variance)
    (tmp_path / "file").write_text("")
    with pytest.raises(GeodistillError, match="cannot be written"):
        lesson.prepare(tmp_path / "file")


def test_the_precision_of_the_teacher_counts(lesson, tmp_path):
    def fingerprint(precision):
        teacher = Teacher(lesson.model, precision=precision)
        return cache_fingerprint(teacher, lesson.dataset)

    assert fingerprint("float32") != fingerprint("bfloat16")
    assert fingerprint("auto") in (fingerprint("float32"), fingerprint("bfloat16"))
