from __future__ import annotations

import pickle

import pytest

from geodistill.errors import GeodistillError, require_package, suggest


def test_an_error_is_two_sentences() -> None:
    error = GeodistillError("It is broken.", "Fix it.")
    assert str(error) == "It is broken. Fix it."
    assert (error.problem, error.remedy) == ("It is broken.", "Fix it.")
    assert isinstance(error, ValueError)


def test_an_error_survives_the_way_out_of_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(GeodistillError("It is broken.", "Fix it.")))
    assert (error.problem, error.remedy, str(error)) == ("It is broken.", "Fix it.", "It is broken. Fix it.")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("procrustez", "Did you mean 'procrustes'? Valid: procrustes, gram."),
        ("grm", "Did you mean 'gram'? Valid: procrustes, gram."),
        ("xyzzy", "Valid: procrustes, gram."),
    ],
)
def test_suggest_names_the_nearest(name: str, remedy: str) -> None:
    assert suggest(name, ["procrustes", "gram"]) == remedy


def test_suggest_takes_any_iterable_once() -> None:
    assert suggest("on", iter({"one": 1, "two": 2})) == "Did you mean 'one'? Valid: one, two."


def test_a_missing_package_names_its_extra() -> None:
    require_package("torch", "none", "It is needed")
    with pytest.raises(
        GeodistillError, match=r"It is needed, and the nowhere package .*pip install 'geodistill\[far\]'"
    ):
        require_package("nowhere", "far", "It is needed")
