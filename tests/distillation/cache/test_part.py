"""Caches that keep a part: only logits or none, the largest or the scored ones, rows rotated and cut."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from training import POSITIONS, counted, reopen
from transformers import LlamaForCausalLM, RobertaConfig, RobertaForSequenceClassification, TrainingArguments

from geodistill import geometry
from geodistill.distillation.cache.format import TopK
from geodistill.distillation.cache.teacher_cache import prepare_cache
from geodistill.distillation.signals import FeatureRequest, Teacher
from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.losses.logits import LogitLoss
from geodistill.losses.top_k import TopKLogits
from geodistill.recipe import ObjectiveRecipe


def test_the_largest_logits_of_tokens(speaking, tmp_path):
    cache = speaking.prepare(tmp_path, top_k=TopK(5, 2.0))
    assert cache.select([]).top_k == cache.top_k == TopK(5, 2.0)
    for side in ("right", "left"):
        batch = speaking.batch(POSITIONS, side, 25)
        attended = batch["attention_mask"].bool()
        signals = speaking.teacher()(batch)
        found, expected = cache(batch), TopKLogits.of(signals.logits, 5, 2.0)
        assert found.logits.values.shape == (attended.sum(), 5) and found.logits.temperature == 2.0
        assert torch.equal(found.logits.indices, expected.indices)
        for name in ("values", "tail_log_mass"):
            pair = (getattr(logits, name) for logits in (found.logits, expected))
            torch.testing.assert_close(*pair, atol=1e-6, rtol=0)
        torch.testing.assert_close(
            counted(found.features[speaking.requests[0]]),
            counted(signals.features[speaking.requests[0]]),
            atol=1e-6,
            rtol=0,
        )
        student = torch.randn(int(attended.sum()), 40, generator=torch.Generator().manual_seed(0), requires_grad=True)
        loss = LogitLoss(2.0)(student, found.logits)
        torch.testing.assert_close(loss, LogitLoss(2.0)(student, expected))
        assert 0 < loss < LogitLoss(2.0)(student, signals.logits)
        loss.backward()
        assert student.grad.isfinite().all()


@pytest.mark.parametrize("top_k", [None, TopK(5, 2.0)])
def test_only_logits_that_are_scored_are_kept(speaking, tmp_path, top_k):
    collate = answering(speaking)
    options = {"dtype": "float32", "limit_bytes": 10**6, "progress": False, "top_k": top_k}
    cache = prepare_cache(tmp_path, speaking.teacher(), speaking.dataset, collate, **options)
    responses = sum(len(example["input_ids"]) - 1 for example in speaking.dataset)
    assert (tmp_path / "logits.bin").stat().st_size == responses * 4 * (40 if top_k is None else 11)
    batch = collate([speaking.dataset[position] for position in POSITIONS])
    found, expected = cache(batch).logits, speaking.teacher()(batch).logits
    if top_k is not None:
        found, expected = found.pack(), TopKLogits.of(expected, 5, 2.0).pack()
    assert len(found) == (batch["labels"] != -100).sum()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_teacher_that_is_asked_for_rows_alone_has_no_logits_on_disk(speaking, tmp_path):
    (request,) = speaking.requests
    quiet = Teacher(speaking.model, [request], precision="float32", logits=False)
    cache = speaking.prepare(tmp_path, quiet)
    assert not (tmp_path / "logits.bin").exists() and cache.top_k is None
    batch = speaking.batch(POSITIONS)
    found, expected = cache(batch), speaking.teacher()(batch)
    assert found.logits is None and quiet(batch).logits is None
    torch.testing.assert_close(counted(found.features[request]), counted(expected.features[request]), atol=1e-6, rtol=0)
    assert cache.select([request])(batch).logits is None

    # Who wants logits has it written again, with what it held; who does not want them reads what is there.
    whole = speaking.prepare(tmp_path, speaking.teacher([FeatureRequest(0, "mean")]))
    torch.testing.assert_close(whole(batch).logits, expected.logits, atol=1e-6, rtol=0)
    stamp = (tmp_path / "logits.bin").stat().st_mtime_ns
    again = speaking.prepare(tmp_path, quiet)
    torch.testing.assert_close(
        counted(again(batch).features[request]), counted(expected.features[request]), atol=1e-6, rtol=0
    )
    assert (tmp_path / "logits.bin").stat().st_mtime_ns == stamp
    more = speaking.prepare(
        tmp_path, Teacher(speaking.model, [FeatureRequest(1, "last")], precision="float32", logits=False)
    )
    assert more(batch).logits is not None


def answering(speaking):
    """Give each example a prompt of one token, and return what pads such examples."""
    for example in speaking.dataset:
        example["labels"] = [-100, *example["input_ids"][1:]]

    def collate(examples):
        rows = [torch.tensor(example["labels"]) for example in examples]
        batch = speaking.collate()([{**example, "labels": 0} for example in examples])
        return {**batch, "labels": pad_sequence(rows, batch_first=True, padding_value=-100)}

    return collate


def test_a_decoder_learns_from_the_largest_logits(speaking, tmp_path):
    """A whole training by `DistillationTrainer`, with nothing but 5 of 40 logits of each token on disk."""
    collate = answering(speaking)
    with torch.no_grad():
        speaking.model.lm_head.weight.mul_(20)  # a teacher that has something to say
    terms = ObjectiveRecipe(logits={"temperature": 1.0, "divergence": "skewed_reverse_kl"})
    options = {"dtype": "float32", "limit_bytes": 10**6, "progress": False, "top_k": TopK(5, 1.0)}
    cache = prepare_cache(tmp_path / "cache", speaking.teacher([]), speaking.dataset, collate, **options)
    student = LlamaForCausalLM(speaking.model.config)
    arguments = TrainingArguments(
        str(tmp_path / "out"),
        max_steps=30,
        learning_rate=1e-2,
        logging_steps=10,
        report_to=[],
        save_strategy="no",
        per_device_train_batch_size=15,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = DistillationTrainer(
        student,
        arguments,
        teacher_model=cache,
        terms=terms.terms,
        train_dataset=speaking.dataset,
        data_collator=collate,
    )
    trainer.train()
    first, *_, last = [entry["logits"] for entry in trainer.state.log_history if "logits" in entry]
    assert 0 < last < 0.7 * first


def test_another_cut_of_the_logits_is_written_anew(speaking, tmp_path):
    speaking.prepare(tmp_path, top_k=TopK(5, 2.0))
    for top_k in (TopK(5, 2.0), TopK(6, 2.0), TopK(6, 1.0), None):
        if top_k != TopK(5, 2.0):
            with pytest.raises(GeodistillError, match="is stale"):
                reopen(speaking, tmp_path, top_k=top_k)
        assert speaking.prepare(tmp_path, top_k=top_k).top_k == top_k
        assert reopen(speaking, tmp_path, top_k=top_k).top_k == top_k


def test_logits_alone_and_of_a_regression(lesson, tmp_path):
    lesson.model = RobertaForSequenceClassification(
        RobertaConfig(**{**lesson.model.config.to_dict(), "id2label": {0: "score"}, "label2id": {"score": 0}})
    )
    cache = lesson.prepare(tmp_path, lesson.teacher([]))
    batch = lesson.batch(POSITIONS)
    found = cache(batch)
    assert found.logits.shape == (len(POSITIONS), 1) and found.features == {}
    torch.testing.assert_close(found.logits, lesson.teacher([])(batch).logits, atol=1e-6, rtol=0)


class TestRotated:
    @pytest.fixture
    def narrow(self, lesson):
        """A teacher whose features have few directions of any weight, and a mean far from zero."""
        with torch.no_grad():
            scale = 2.0 ** -torch.arange(16)
            for layer in lesson.model.roberta.encoder.layer:
                layer.output.LayerNorm.weight.copy_(scale)
                layer.output.LayerNorm.bias.copy_(torch.randn(16))
        return lesson

    def test_it_is_the_teachers_rows_rotated_and_cut(self, narrow, tmp_path):
        cache = narrow.prepare(tmp_path, variance=0.99)
        batch = narrow.batch(POSITIONS)
        expected, found = narrow.teacher()(batch), cache(batch)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-6, rtol=0)
        assert cache.widths[narrow.requests[0]] < 8
        for request in narrow.requests:
            axes = cache.axes[request]
            assert axes.shape == (16, cache.widths[request])
            torch.testing.assert_close(axes.T @ axes, torch.eye(axes.shape[1]), atol=1e-6, rtol=0)
            rows = counted(found.features[request]), counted(expected.features[request]) @ axes
            torch.testing.assert_close(*rows, atol=2e-6, rtol=0)
            assert 0.99 <= cache.bounds[request].share <= 1
        assert {path.name for path in tmp_path.glob("spool*")} == set()

    @pytest.mark.parametrize("center", [True, False])
    def test_distances_change_by_no_more_than_the_bound(self, narrow, tmp_path, center):
        cache = narrow.prepare(tmp_path, variance=0.9)
        batch = narrow.batch(range(len(narrow.dataset)))
        expected, found = narrow.teacher()(batch), cache(batch)
        generator = torch.Generator().manual_seed(0)
        for request in narrow.requests:
            before, after = (counted(signals.features[request]).double() for signals in (expected, found))
            bound = cache.bounds[request]
            mask = before.abs().sum(-1) > 0
            directions = [torch.randn(16, 5, generator=generator).double(), torch.eye(16).double()[:, 12:]]
            for student in [before @ direction for direction in directions] + [before]:
                options = {"mask": mask, "center": center}
                for distance, limit in (
                    (geometry.procrustes_distance, bound.procrustes),
                    (geometry.gram_distance, bound.gram),
                    (geometry.cka, bound.cka),
                ):
                    change = (distance(student, before, **options) - distance(student, after, **options)).abs()
                    assert change <= limit + 1e-4  # what is stored is float32

    def test_all_of_the_variance_changes_nothing(self, lesson, tmp_path):
        cache = lesson.prepare(tmp_path, variance=1.0)
        batch = lesson.batch(range(len(lesson.dataset)))
        request = lesson.requests[0]
        before, after = (counted(source(batch).features[request]) for source in (lesson.teacher(), cache))
        student = torch.randn(len(before), 4, generator=torch.Generator().manual_seed(0))
        for distance in (geometry.procrustes_distance, geometry.gram_distance, geometry.cka):
            torch.testing.assert_close(distance(student, before), distance(student, after), atol=1e-5, rtol=0)
        assert cache.bounds[request].procrustes_squared < 1e-6

    def test_it_stays_open_to_some_requests_and_to_damage_control(self, narrow, tmp_path):
        narrow.prepare(tmp_path, variance=0.9)
        some = reopen(narrow, tmp_path, narrow.requests[1:2], variance=0.9)
        assert list(some.axes) == list(some.bounds) == list(narrow.requests[1:2])
        path = tmp_path / "axes.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        with pytest.raises(GeodistillError, match=r"axes\.safetensors"):
            reopen(narrow, tmp_path, variance=0.9)
