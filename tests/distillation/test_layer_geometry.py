from __future__ import annotations

import pytest
import torch
from training import Make, classifier, collate, make_examples

from geodistill.distillation.layer_geometry import LayerGeometry, all_layers, sum_layers
from geodistill.errors import GeodistillError
from geodistill.geometry import measure

EXAMPLES = make_examples(12)
BATCHES = [collate(EXAMPLES[start : start + 4]) for start in range(0, 12, 4)]


@torch.no_grad()
def test_batches_sum_to_what_all_rows_give_at_once() -> None:
    student, teacher = classifier(2, 8, 0), classifier(3, 12, 1)
    layers = all_layers(student, teacher)
    assert layers == ([0, 1, 2], [0, 1, 2, 3])
    moments = sum_layers(student, teacher, BATCHES, layers=layers)
    kept = torch.cat([batch["attention_mask"].flatten() for batch in BATCHES]) != 0
    rows = []
    for model, layer in ((student.eval(), 2), (teacher.eval(), 1)):
        hidden = []
        for batch in BATCHES:
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            hidden.append(model(**inputs, output_hidden_states=True).hidden_states[layer].flatten(0, 1))
        rows.append(torch.cat(hidden)[kept].double())
    found, expected = moments.compare(2, 1), measure(*rows)
    assert moments.rows == len(rows[0])
    assert found.procrustes == pytest.approx(expected.procrustes, abs=1e-6)
    assert found.gram == pytest.approx(expected.gram, abs=1e-6)
    assert found.cka == pytest.approx(expected.cka, abs=1e-6)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(GeodistillError, match="0 rows"):
        sum_layers(classifier(1, 8, 0), classifier(1, 8, 1), [], layers=([1], [1]))


def test_the_callback_logs_each_pair_and_changes_no_weight(make: Make) -> None:
    plain = make()
    plain.train()
    watched = make()  # which seeds the dropout again
    watched.add_callback(LayerGeometry(watched.teacher.model, BATCHES, every=2))
    watched.train()
    entries = [entry for entry in watched.state.log_history if "loss" in entry]
    with_geometry = [entry for entry in entries if "geometry/2_3/procrustes" in entry]
    assert len(with_geometry) == -(-len(entries) // 2)
    assert {"geometry/1_2/gram", "geometry/1_2/cka", "geometry/2_3/cka"} <= with_geometry[0].keys()
    assert all(0 <= entry["geometry/2_3/procrustes"] <= 2 for entry in with_geometry)
    for one, two in zip(plain.inner.parameters(), watched.inner.parameters(), strict=True):
        assert torch.equal(one, two)
