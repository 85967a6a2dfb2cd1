from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from geodistill.tasks.task import spread


@given(st.integers(0, 60), st.integers(1, 70))
def test_examples_are_spread_over_all(count: int, most: int) -> None:
    examples = [{"place": place} for place in range(count)]
    places = [example["place"] for example in spread(examples, most)]
    assert len(places) == min(count, most) and places == sorted(set(places))
    gaps = {after - before for before, after in pairwise(places)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    assert spread(examples, None) == examples
