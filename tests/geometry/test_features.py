"""Flattening, masks as weights, blocks, and teachers that are prepared once."""

from __future__ import annotations

import pytest
import torch

from geodistill.errors import GeodistillError
from geodistill.geometry import cka, gram_distance, procrustes_distance
from geodistill.geometry import features as module
from geodistill.geometry.features import counting_rows, pair_rows, prepare_features, unit_rows, weigh


def test_leading_dimensions_are_flattened_in_order(draw):
    student, teacher = draw((3, 4))
    pair = pair_rows(student, teacher, torch.arange(12).reshape(3, 4))
    assert pair.shape == (12, 5, 9)
    assert torch.equal(pair.student[5], student[1, 1])
    assert torch.equal(pair.teacher.values[5], teacher[1, 1])
    assert pair.weights is not None and pair.weights[5] == 5


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.bfloat16, torch.float64),
    ],
)
def test_products_are_float32_at_least(draw, student, teacher, expected):
    s, t = draw()
    assert pair_rows(s.to(student), t.to(teacher)).dtype == expected


def test_teacher_is_cut_from_its_graph(draw):
    student, teacher = draw()
    assert not pair_rows(student, teacher.requires_grad_()).teacher.values.requires_grad


@pytest.mark.parametrize(
    ("student", "teacher", "mask", "word"),
    [
        (torch.ones(3, 2), torch.ones(4, 2), None, "same rows"),
        (torch.ones(3, 4, 2), torch.ones(12, 2), None, "same rows"),
        (torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2), "mask"),
        (torch.ones(2), torch.ones(2), None, "student"),
        (torch.ones(3, 2), torch.ones(3, 2, dtype=torch.long), None, "teacher"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(student, teacher, mask, word):
    with pytest.raises(GeodistillError, match=word):
        pair_rows(student, teacher, mask)


def test_prepared_features_keep_their_mask_and_their_rows(draw):
    student, teacher = draw()
    prepared = prepare_features(teacher)
    with pytest.raises(GeodistillError, match="another mask"):
        pair_rows(student, prepared, torch.ones(40))
    with pytest.raises(GeodistillError, match="40 rows"):
        pair_rows(student[1:], prepared)
    assert pair_rows(student, prepared).teacher is prepared


def test_blocks_cover_all_rows_once_and_sum_to_the_whole(draw, monkeypatch):
    _, teacher = draw(1000, 5, 16)
    whole = prepare_features(teacher)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 300 * 16)
    parts = prepare_features(teacher)
    assert [len(range(1000)[part]) for part in parts.parts()] == [300, 300, 300, 100]
    assert torch.allclose(parts.mean, whole.mean, rtol=1e-13)
    assert torch.allclose(parts.square, whole.square, rtol=1e-13)
    assert torch.allclose(parts.gram, whole.gram, rtol=1e-12)


def test_weights_count_rows_as_often_as_they_say(draw):
    _, teacher = draw(6)
    weights = torch.tensor([1, 0, 2, 3, 0, 1])
    rows = prepare_features(teacher, weights)
    repeated = prepare_features(teacher.repeat_interleave(weights, 0))
    assert [count.item() for count in rows.counts] == [4, 7]
    assert torch.allclose(rows.mean, repeated.mean)
    assert torch.allclose(rows.gram, repeated.gram)
    assert torch.allclose(rows.square, repeated.square)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_compact_rows_have_the_same_kernel_in_n_dimensions(draw, center, masked):
    _, teacher = draw(7, 5, 30)
    mask = torch.tensor([1, 1, 0, 1, 1, 0, 1]) if masked else None
    rows = prepare_features(teacher, mask)
    compact = rows.compact(center)
    assert compact.values.shape == (7, 7)
    assert torch.allclose(compact.kernel(center), rows.kernel(center), atol=1e-13)


def test_no_row_at_all_gives_zeros():
    rows = prepare_features(torch.ones(0, 3))
    assert rows.mean.tolist() == [0, 0, 0] and rows.square == 0 and rows.gram.abs().sum() == 0


def test_rows_of_weight_zero_vanish_whatever_they_hold():
    block = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf], [3.0, 4.0]])
    assert torch.equal(weigh(block, torch.tensor([2.0, 0.0, 0.5])), torch.tensor([[2, 4], [0, 0], [1.5, 2.0]]))
    assert weigh(block, torch.tensor([2.0, 1.0, 0.5]))[1].isnan().any()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_rows_have_length_one_at_any_scale(draw, scale):
    student, teacher = draw(dtype=torch.float32)
    student[3] = 0
    unit = unit_rows(pair_rows(student * scale, teacher * scale))
    lengths = unit.student.norm(dim=1)
    assert lengths[3] == 0 and torch.allclose(lengths[lengths > 0], torch.ones(39))
    assert torch.allclose(unit.teacher.values.norm(dim=1), torch.ones(40))


def test_unit_rows_stop_gradients_of_masked_rows(draw):
    student, teacher = draw()
    student[3] = torch.nan
    mask = torch.arange(40) != 3
    student.requires_grad_()
    unit_rows(pair_rows(student, teacher, mask)).student.square().sum().backward()
    assert student.grad.isfinite().all() and student.grad[3].abs().sum() == 0


@pytest.mark.parametrize("weights", [torch.bool, torch.float32])
@pytest.mark.parametrize("counting", [5, 11, 12, 0])
def test_rows_that_do_not_count_are_left_out_where_they_are_many(weights: torch.dtype, counting: int) -> None:
    """Twelve of sixteen are three quarters, and with none there is nothing to leave."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 3, generator=generator), torch.randn(2, 8, 5, generator=generator)
    order = torch.randperm(16, generator=generator)
    mask = ((order < counting).view(2, 8) * 2).to(weights)
    student[mask == 0] = torch.nan
    few = counting_rows(student, teacher, mask)
    if counting in (0, 12):
        assert few[0] is student and few[1] is teacher and few[2] is mask
        return
    assert torch.equal(few[0], student[mask != 0]) and torch.equal(few[1], teacher[mask != 0])
    assert few[2] is None if weights == torch.bool else torch.equal(few[2], torch.full((counting,), 2.0))


def test_a_prepared_teacher_and_shapes_that_do_not_fit_are_left_as_they_are() -> None:
    student, teacher, mask = torch.ones(8, 3), torch.ones(8, 5), torch.arange(8) < 2
    prepared = prepare_features(teacher, mask)
    assert counting_rows(student, prepared, None)[1] is prepared
    assert counting_rows(student, teacher[:4], mask)[0] is student
    assert counting_rows(student, teacher, mask[:4])[0] is student


@pytest.mark.parametrize("mask", [[1.0, -0.5, 1.0, 0.0], [1, -1, 1, 0]])
def test_a_negative_weight_is_refused(draw, mask):
    student, teacher = draw((4,))
    with pytest.raises(GeodistillError, match=r"The mask holds -\S+, and a mask is a weight for each row.*mask != 0"):
        pair_rows(student, teacher, torch.tensor(mask))
    with pytest.raises(GeodistillError, match="cannot be negative"):
        procrustes_distance(student, teacher, mask=torch.tensor(mask))


@pytest.mark.parametrize("distance", [procrustes_distance, gram_distance, cka])
def test_a_negative_weight_that_is_not_looked_for_gives_nan(draw, distance, monkeypatch):
    """As on an accelerator, which nobody waits for."""
    monkeypatch.setattr(module, "_check_weights", lambda mask: None)
    student, teacher = draw((8,))
    mask = torch.ones(8)
    mask[3] = -1
    assert distance(student, teacher, mask=mask).isnan()


def test_no_check_waits_for_an_accelerator():
    mask = torch.full((3,), -1.0, device="meta")
    assert prepare_features(torch.ones(3, 2, device="meta"), mask).weights is not None
