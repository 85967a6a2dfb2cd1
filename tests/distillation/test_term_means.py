from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from geodistill.distillation.model import DistillationOutput
from geodistill.distillation.term_means import TermMeans, mean_scored, scored

STUDENT: Any = SimpleNamespace(reads_logits=True, causal=False)
TEACHER: Any = SimpleNamespace(reads_logits=False, causal=False)


def ranks_of(count: int) -> Any:
    """An accelerator of so many ranks that all hold the same."""
    return SimpleNamespace(
        device=torch.device("cpu"), reduce=lambda value, reduction: value * (count if reduction == "sum" else 1)
    )


def batch(student: int, teacher: int) -> dict[str, Any]:
    """A batch of other examples for each side, which no run has: it tells whose columns are counted."""
    own, other = (torch.zeros(count, dtype=torch.long) for count in (student, teacher))
    ids = {"input_ids": own[:, None], "teacher_input_ids": other[:, None]}
    return {**ids, "labels": own, "teacher_labels": other}


def test_terms_are_means_over_micro_batches_and_the_newest_chance_counts() -> None:
    means = TermMeans()
    for value, chance in ((1.0, {"gram": torch.tensor(9.0)}), (3.0, {"gram": torch.tensor(0.5)}), (5.0, {})):
        means.add(DistillationOutput(terms={"label": torch.tensor(value)}, chance=chance))
    means.add(DistillationOutput(terms={"label": torch.tensor(3.0), "gram": torch.tensor(2.0)}))
    assert means.micro_batches == 4
    assert means.over_ranks(ranks_of(2)) == {"label": 3.0, "gram": 0.5, "chance/gram": 0.5}


def test_each_objective_scores_the_columns_of_its_side() -> None:
    assert [int(each) for each in scored([STUDENT, TEACHER], batch(3, 2))] == [3, 2]
    assert [int(each) for each in scored([STUDENT], batch(3, 2))] == [3]


def test_a_micro_batch_is_weighed_by_what_the_mean_one_of_the_step_scores() -> None:
    batches = [batch(3, 2), batch(1, 2), batch(2, 5)]
    assert mean_scored([STUDENT, TEACHER], batches, ranks_of(1), 1) == [pytest.approx(2), pytest.approx(3)]
    assert mean_scored([STUDENT], batches, ranks_of(2), 2) == [pytest.approx(2)]
    assert mean_scored([STUDENT], [batch(3, 2)], ranks_of(2), 2) == [pytest.approx(3)]


def test_a_step_of_one_batch_and_a_step_without_logits_are_not_weighed() -> None:
    assert mean_scored([STUDENT], [batch(3, 2)], ranks_of(1), 1) == []
    assert mean_scored([TEACHER], [batch(3, 2), batch(1, 2)], ranks_of(1), 1) == []
    assert mean_scored([STUDENT], [], ranks_of(2), 2) == []
