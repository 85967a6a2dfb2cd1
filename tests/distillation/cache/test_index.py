from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.distillation.cache import index as cache_index
from geodistill.distillation.cache.index import BatchRows, scan
from geodistill.errors import GeodistillError


def example(length, first=5):
    return {
        "input_ids": [2, *range(first, first + length), 3],
        "attention_mask": [1] * (length + 2),
        "special_tokens_mask": [1, *[0] * length, 1],
        "labels": [-100] * 2 + list(range(first, first + length)),  # a prompt of two tokens
        "word_ids": [-1, *(place // 2 for place in range(length)), -1],
    }


def pad(examples, side):
    width = max(len(entry["input_ids"]) for entry in examples) + 1
    columns = {name: [] for name in examples[0]}
    for entry in examples:
        for name, values in entry.items():
            filling = [{"special_tokens_mask": 1, "labels": -100, "word_ids": -1}.get(name, 0)] * (width - len(values))
            columns[name].append(values + filling if side == "right" else filling + values)
    return {name: torch.tensor(values) for name, values in columns.items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.sampled_from(["left", "right"]), st.data())
def test_gather_puts_each_row_where_its_token_is(lengths, side, data):
    dataset = [example(length) for length in lengths]
    positions = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=5))
    index, _ = scan(dataset)
    inputs = pad([dataset[position] for position in positions], side)
    batch = BatchRows(index, torch.tensor(positions), inputs)
    for per in ("attended", "content", "response", "scored", "words", "example"):
        if index.rows(per) == 0:
            continue
        # Row k of the table is the k-th of all rows in the order of the tables: number it k + 1, and 0 means padding.
        table = torch.arange(1, index.rows(per) + 1).unsqueeze(1)
        found = batch.gather(per, {"rows": table})["rows"].squeeze(-1)
        each = [1] * len(lengths)
        labelled = {"response": lengths, "scored": lengths}
        tokens = {"attended": [n + 2 for n in lengths], "content": lengths, **labelled}
        counts = {**tokens, "words": [(n + 1) // 2 for n in lengths], "example": each}[per]
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        first = {row: 1 + sum(counts[before] for before in order[: order.index(row)]) for row in order}
        numbers = [list(range(first[row], first[row] + counts[row])) for row in positions]
        if per == "example":
            assert found.tolist() == [row[0] for row in numbers]
            continue
        if per == "scored":
            assert found.tolist() == [number for row in numbers for number in row]
            ends = [(inputs["labels"][row, 1:] != -100).nonzero().flatten().tolist() for row in range(len(positions))]
            assert [row.nonzero().flatten().tolist() for row in batch.kept(per)] == ends
            continue
        kept = inputs["attention_mask"] == 1
        if per == "content":
            kept &= inputs["special_tokens_mask"] == 0
        if per == "response":
            kept &= inputs["labels"] != -100
        if per == "words":
            most = max(1, *(counts[position] for position in positions), 1)
            kept = torch.tensor([[word < counts[position] for word in range(most)] for position in positions])
        assert [row[mask].tolist() for row, mask in zip(found, kept, strict=True)] == numbers
        assert not found[~kept].any()


def test_the_longest_examples_come_first():
    index, _ = scan([example(2), example(5), example(2), example(0)])
    assert index.order.tolist() == [1, 0, 2, 3]
    assert [index.rows("attended", count) for count in range(5)] == [0, 7, 11, 15, 17]
    assert index.rows("attended") == 17 and index.rows("content") == 9 and index.rows("example", 3) == 3


@pytest.mark.parametrize("change", ["token", "order", "longer", "shorter"])
def test_other_tokens_are_noticed(change):
    dataset = [example(4), example(4, first=9)]
    index, _ = scan(dataset)
    ids, mask = torch.tensor(dataset[1]["input_ids"]), torch.ones(1, 6, dtype=torch.long)
    if change == "token":
        ids[3] += 1
    elif change == "order":
        ids[[2, 3]] = ids[[3, 2]]
    elif change == "longer":
        ids, mask = torch.cat([ids, torch.tensor([0])]), torch.ones(1, 7, dtype=torch.long)
    else:
        mask[0, -1] = 0
    inputs = {"input_ids": ids.unsqueeze(0), "attention_mask": mask}
    with pytest.raises(GeodistillError, match="tokens of example 1"):
        BatchRows(index, torch.tensor([1]), inputs)


def test_a_special_token_mask_that_is_missing_or_another_is_refused():
    dataset = [example(4)]
    index, _ = scan(dataset)
    inputs = pad(dataset, "right")
    without = {name: value for name, value in inputs.items() if name != "special_tokens_mask"}
    with pytest.raises(GeodistillError, match="return_special_tokens_mask=True"):
        BatchRows(index, torch.tensor([0]), without).kept("content")
    with pytest.raises(GeodistillError, match="special-token mask of the batch differs"):
        BatchRows(index, torch.tensor([0]), {**inputs, "special_tokens_mask": torch.ones(1, 7)}).kept("content")


def test_labels_that_are_missing_or_others_are_refused():
    dataset = [example(4)]
    index, _ = scan(dataset)
    inputs = pad(dataset, "right")
    without = {name: value for name, value in inputs.items() if name != "labels"}
    for wrong in (without, {**inputs, "labels": torch.tensor([1])}, {**inputs, "labels": inputs["input_ids"]}):
        for per in ("response", "scored"):
            with pytest.raises(GeodistillError, match="mark other tokens as the response"):
                BatchRows(index, torch.tensor([0]), wrong).kept(per)


def test_words_that_are_missing_or_others_are_refused():
    dataset = [example(4)]
    index, _ = scan(dataset)
    inputs = pad(dataset, "right")
    without = {name: value for name, value in inputs.items() if name != "word_ids"}
    regrouped = torch.tensor([[-1, 0, 1, 1, 1, -1, -1]])  # as many words
    for wrong in (without, {**inputs, "word_ids": regrouped}):
        with pytest.raises(GeodistillError, match="are of other words than those of the cached data"):
            BatchRows(index, torch.tensor([0]), wrong).kept("words")


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_scan_finds_the_same_however_many_it_takes_at_a_time(monkeypatch, chunk):
    dataset = [example(length) for length in (3, 0, 5, 1, 3)]
    dataset[2] = {**dataset[2], "attention_mask": [0, 0, 1, 1, 1, 1, 1]}  # padded on the left
    dataset[3] = {name: torch.tensor(values) for name, values in dataset[3].items()}
    monkeypatch.setattr(cache_index, "_CHUNK", chunk)
    index, _ = scan(dataset)
    assert index.attended.tolist() == [5, 2, 5, 3, 5] and index.content.tolist() == [3, 0, 4, 1, 3]
    assert index.response.tolist() == [3, 0, 5, 1, 3] and index.words.tolist() == [2, 0, 3, 1, 2]
    assert index.scored.tolist() == [3, 0, 4, 1, 3]  # nothing precedes the first token of the one padded on the left
    for position, entry in enumerate(dataset):
        batch = {name: torch.as_tensor(values).unsqueeze(0) for name, values in entry.items()}
        rows = BatchRows(index, torch.tensor([position]), batch)
        rows.kept("content"), rows.kept("words")


def test_scan_knows_the_data_by_what_the_teacher_sees():
    dataset = [{**example(2), "example_id": 0, "labels": 1}, {**example(3), "example_id": 1, "labels": 0}]
    digest = scan(dataset)[1]
    assert scan([{**entry, "labels": 7} for entry in dataset])[1] == digest
    assert scan(dataset[:1])[1] != digest
    for name, value in [("input_ids", 9), ("attention_mask", 0), ("special_tokens_mask", 0), ("word_ids", 0)]:
        assert scan([dataset[0], {**dataset[1], name: [value, *dataset[1][name][1:]]}])[1] != digest
    labels = [-100, 4, 4, 4]
    responses = [scan([{**dataset[0], "labels": part}, dataset[1]])[1] for part in (labels, [-100, *labels[:3]])]
    assert len({digest, *responses}) == 3
    assert scan([{**dataset[0], "labels": [-100, 9, 9, 9]}, dataset[1]])[1] == responses[0]
    typed = [{**entry, "token_type_ids": [0] * len(entry["input_ids"])} for entry in dataset]
    paired = [{**entry, "token_type_ids": [1] * len(entry["input_ids"])} for entry in dataset]
    assert len({digest, scan(typed)[1], scan(paired)[1]}) == 3


def test_scan_refuses_what_cannot_be_cached():
    with pytest.raises(GeodistillError, match="no examples"):
        scan([])
    with pytest.raises(GeodistillError, match="Example 1 of the data to be cached has the 'example_id' 0"):
        scan([{**example(2), "example_id": 0}, {**example(2), "example_id": 0}])
    with pytest.raises(GeodistillError, match=r"Example 1 .* has the inputs input_ids, and the first has input_ids,"):
        scan([example(2), {"input_ids": [1, 2]}])
