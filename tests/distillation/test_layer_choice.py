from __future__ import annotations

import pytest
import torch
from training import classifier, collate, make_examples

from geodistill.distillation.layer_choice import advise_layers, choose_layers, choose_pairs, measured_rows, steps_left
from geodistill.distillation.objective import Objective
from geodistill.errors import GeodistillError
from geodistill.geometry import chance_level, floor, measure
from geodistill.geometry.layer_moments import LayerMoments
from geodistill.losses.terms import resolve_term
from geodistill.recipe import FeatureTerm, LabelTerm

EXAMPLES = make_examples(24)
BATCHES = [collate(EXAMPLES[start : start + 8]) for start in range(0, 24, 8)]
TERM = FeatureTerm(loss="procrustes", layers="auto")


def test_embeddings_are_left_out_of_the_map() -> None:
    left = [[0.0, 0.1, 0.2], [0.5, 0.4, 0.3], [0.6, 0.9, 0.2]]
    assert advise_layers(left, ([0, 1, 2], [0, 1, 2])).pairs == [(1, 1), (2, 2)]
    assert advise_layers([[0.5, 0.4, 0.3]], ([1], [0, 1, 2])).pairs == [(1, 2)]


@torch.no_grad()
def test_what_is_left_is_as_by_all_rows_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(200, width, dtype=torch.float64, generator=generator) for width in (5, 8))
    student[:, 0] += 2 * teacher[:, 1]
    moments = LayerMoments()
    for start in range(0, 200, 50):
        moments.add([student[start : start + 50]], [teacher[start : start + 50]])
    best, chance = floor(teacher, 5).procrustes, chance_level(student, teacher).procrustes
    expected = (measure(student, teacher).procrustes - best) / (chance - best)
    assert steps_left(moments)[0][0] == pytest.approx(expected, abs=0.08)  # of a random draw


def test_layers_that_a_student_has_from_its_teacher_are_found() -> None:
    teacher, student = classifier(4, 12, 1), classifier(2, 12, 0)
    own = {name: value for name, value in teacher.bert.state_dict().items() if name in student.bert.state_dict()}
    student.bert.load_state_dict(own)
    found = choose_pairs(resolve_term(TERM), student, teacher, BATCHES)
    assert found.pairs == [(1, 1), (2, 2)] and "100% of the way" in found.reasons[0]
    swapped = choose_pairs(resolve_term(TERM), student, teacher, BATCHES, swapped=True)
    assert swapped.pairs[:2] == [(1, 1), (2, 2)] and len(swapped.pairs) == 4


def test_terms_get_pairs_and_an_objective_does_not_choose() -> None:
    student, teacher = classifier(2, 8, 0), classifier(3, 12, 1)
    plain = FeatureTerm(loss="gram", layers="uniform")
    chosen = choose_layers([LabelTerm(), TERM, plain], student, teacher, BATCHES)
    assert chosen[0] == LabelTerm() and chosen[2] == plain
    assert isinstance(chosen[1], FeatureTerm) and len(chosen[1].layers) == 2
    Objective(chosen, student=student, teacher=teacher)
    with pytest.raises(GeodistillError, match="chosen from the features of both models"):
        Objective([TERM], student=student, teacher=teacher)
    with pytest.raises(GeodistillError, match="0 rows"):
        choose_layers([TERM], student, teacher, [])


def test_maps_are_compared_by_their_means() -> None:
    assert measured_rows(resolve_term(TERM)) == "tokens"
    assert measured_rows(resolve_term(FeatureTerm(loss="pcka", patch=4))) == "mean"
