from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from geodistill.recipe import ObjectiveRecipe
from geodistill.studies.inspect import inspection
from geodistill.studies.inspect.inspection import Centroids, Inspection

CENTROIDS = Centroids(["a", "b", "c"], [np.eye(3)], [np.array([[2.0, 1.0], [1.0, 1.0], [1.0, 0.0]])])


@pytest.fixture
def found() -> Inspection:
    """Two layers of a student beside three of a teacher."""
    table = np.arange(6, dtype=np.float64).reshape(2, 3) / 10
    return Inspection(
        names=("small", "large"),
        layers=(["0", "1"], ["0", "1", "2"]),
        rows=1234,
        row_kind="tokens",
        examples=56,
        k=10,
        matrices={"procrustes": table, "cka": 1 - table},
        floors={"procrustes": table / 2},
        chances={"procrustes": 1 + table},
        ranks=([2.5, 3.5], [4.0, 5.0, 6.0]),
        spectra=([np.array([0.75, 0.25])] * 2, [np.array([0.5, 0.25, 0.25])] * 3),
        layer_map=[(1, 2)],
        reasons=["1 ↔ 2: it is near."],
        centroids=CENTROIDS,
    )


def test_cosines_of_centroids_are_those_of_brute_force() -> None:
    points = CENTROIDS.teacher[0]
    centred = [point - points.mean(0) for point in points]
    for i, one in enumerate(centred):
        for j, other in enumerate(centred):
            lengths = np.linalg.norm(one) * np.linalg.norm(other)
            expected = one @ other / lengths if lengths else 0.0
            assert CENTROIDS.cosines("teacher", 0)[i, j] == pytest.approx(expected)
    same = Centroids(["a", "b"], [np.ones((2, 3))], [])
    assert np.array_equal(same.cosines("student", 0), np.zeros((2, 2))), "no direction, and no NaN"


def test_the_lead_tells_of_the_last_layers(found: Inspection) -> None:
    assert found.lead == (
        "The last layers of small and large have D_P² 0.500 over 1,234 rows; the floor is 0.250, chance 1.500."
    )
    alone = replace(found, names=("small", "small"))
    assert alone.alone and not found.alone
    assert alone.lead == "small: 2 layers over 1,234 rows, with effective ranks 2 to 4."


def test_the_layer_map_is_a_part_of_a_recipe(found: Inspection) -> None:
    (term,) = ObjectiveRecipe.model_validate(yaml.safe_load(found.recipe)["objective"]).features
    assert (term.loss, term.rows, term.layers) == ("procrustes", "tokens", [(1, 2)])
    assert replace(found, layer_map=[]).recipe == ""


def test_tables_have_a_row_for_each_layer(found: Inspection) -> None:
    student, teacher, distance, similarity = found.tables
    assert (student.heads[0], len(student.rows), len(teacher.rows)) == ("student", 2, 3)
    assert student.rows[0] == ["layer 0", "2", "2.5", "75.0%", "100.0%"]
    assert teacher.heads[-1] == "floor of D_P²" and [row[-1] for row in teacher.rows] == ["0.1500", "0.2000", "0.2500"]
    assert distance.rows == [
        ["0", "0.000", "0.100", "0.200"],
        ["1", "0.300", "0.400", "0.500"],
        ["chance, mean", "1.150", "1.250", "1.350"],
    ]
    assert len(similarity.rows) == 2, "its chance level was not measured"
    one = replace(found, names=("small", "small")).tables
    assert [table.label for table in one[:2]] == ["Layers of the model", "D_P² of each student layer and teacher layer"]


def test_figures_of_one_model_or_of_two(found: Inspection) -> None:
    cosines = "cosines of class centroids, last layer of the"
    both = found.figures()
    assert {"D_P²", "CKA", "spectrum of the student", "spectrum of the teacher", f"{cosines} teacher"} <= both.keys()
    alone = replace(found, names=("small", "small")).figures()
    assert f"{cosines} model" in alone and "spectrum of the student" not in alone
    assert not any(cosines in name for name in replace(found, centroids=None).figures())


def test_what_is_written_is_json_and_holds_all(found: Inspection) -> None:
    content = json.loads(json.dumps(found.to_dict()))
    assert content["matrices"]["procrustes"] == found.matrices["procrustes"].tolist()
    assert content["layer_map"] == [[1, 2]] and content["effective_ranks"] == [[2.5, 3.5], [4.0, 5.0, 6.0]]
    assert content["centroids"]["names"] == ["a", "b", "c"]
    assert replace(found, centroids=None).to_dict()["centroids"] is None


def test_matrices_that_are_too_wide_stay_out_of_a_terminal(found: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = str(replace(found, places={"Report": Path("out") / "inspect.html"}))
    assert "chance, mean" in shown and "1 ↔ 2: it is near." in shown and "inspect.html" in shown
    assert found.lead in found._repr_html_()
    monkeypatch.setattr(inspection, "SHOWN", 2)
    assert "D_P² of each student layer" not in str(found) and "The matrices of 2 × 3 layers are in the report" in str(
        found
    )
