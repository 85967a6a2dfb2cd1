from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodistill.errors import GeodistillError
from geodistill.features import map_layers


def test_last_pairs_the_last_layers():
    assert map_layers("last", 2, 6) == [(2, 6)]


def test_uniform_follows_tinybert():
    assert map_layers("uniform", 4, 12) == [(1, 3), (2, 6), (3, 9), (4, 12)]


def test_uniform_rounds_halves_upwards():
    assert map_layers("uniform", 4, 6) == [(1, 2), (2, 3), (3, 5), (4, 6)]  # 1.5, 3, 4.5, 6


def test_a_deeper_student_never_meets_the_embedding_layer():
    assert map_layers("uniform", 4, 1) == [(1, 1), (2, 1), (3, 1), (4, 1)]


@given(st.integers(1, 48), st.integers(1, 96))
def test_uniform_covers_the_student_in_order_and_ends_at_the_last_layers(student_layers, teacher_layers):
    pairs = map_layers("uniform", student_layers, teacher_layers)
    assert [student for student, _ in pairs] == list(range(1, student_layers + 1))
    teachers = [teacher for _, teacher in pairs]
    assert teachers == sorted(teachers)
    assert teachers[0] >= 1
    assert teachers[-1] == teacher_layers
    for student, teacher in pairs:
        exact = student * teacher_layers / student_layers
        assert abs(teacher - exact) <= 0.5 or (exact < 1 and teacher == 1)


def test_skip_follows_pkd():
    assert map_layers("skip", 6, 12) == [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]


def test_skip_needs_two_layers():
    with pytest.raises(GeodistillError, match="two layers or more"):
        map_layers("skip", 1, 12)


def test_pairs_are_resolved_from_the_end():
    assert map_layers([(-1, -1), (0, 0), (-3, 4)], 2, 6) == [(2, 6), (0, 0), (0, 4)]


@pytest.mark.parametrize(
    "pair, whose", [((3, 6), "Layer 3 of the student"), ((2, 7), "Layer 7 of the teacher"), ((-4, 6), "Layer -4")]
)
def test_out_of_range_tells_both_ranges(pair, whose):
    with pytest.raises(GeodistillError) as error:
        map_layers([(1, 1), pair], 2, 6)
    assert whose in error.value.problem
    assert "0 is the embedding layer and -1 the last" in error.value.remedy
    assert "student has 0 to 2, or -3 to -1" in error.value.remedy
    assert "teacher has 0 to 6, or -7 to -1" in error.value.remedy


def test_an_empty_list_is_refused():
    with pytest.raises(GeodistillError, match="empty"):
        map_layers([], 2, 6)


def test_a_typo_is_met_with_the_nearest_name():
    with pytest.raises(GeodistillError, match="Did you mean 'uniform'"):
        map_layers("unifrom", 2, 6)
