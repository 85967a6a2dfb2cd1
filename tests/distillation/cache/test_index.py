from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geodistill.distillation.cache import index as cache_index
from geodistill.distillation.cache.index import EXAMPLE, BatchRows, scan
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
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.data())
def test_gather_gives_each_example_its_rows(lengths, data):
    dataset = [example(length) for length in lengths]
    positions = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=1, max_size=5))
    index, _ = scan(dataset)
    index.counts |= {"letters": torch.tensor(lengths), "tokens": torch.tensor(lengths) + 2}
    inputs = pad([dataset[position] for position in positions], "right")
    batch = BatchRows(index, torch.tensor(positions), inputs)
    for per, counts in index.counts.items():
        # Row k of the table is the k-th of all rows in the order of the tables: number it k + 1, and 0 means padding.
        table = torch.arange(1, index.rows(per) + 1).unsqueeze(1)
        if not len(table):
            continue
        found, mask = batch.gather(per, {"rows": table})["rows"]
        order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
        first = {row: 1 + sum(counts[before] for before in order[: order.index(row)]) for row in order}
        numbers = [list(range(first[row], first[row] + counts[row])) for row in positions]
        found = found.squeeze(-1)
        if per == EXAMPLE:
            assert mask is None and found.tolist() == [row[0] for row in numbers]
            continue
        assert found.shape[1] == max(1, *(len(row) for row in numbers), 1)
        assert [row[kept].tolist() for row, kept in zip(found, mask, strict=True)] == numbers
        assert torch.equal(mask, mask.sort(1, descending=True).values) and not found[~mask].any()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_batch_of_the_data_is_known_however_it_is_padded(side, wide):
    dataset = [example(length) for length in (3, 0, 5, 1)]
    if wide:  # several numbers a token, as a sensor gives them
        generator = torch.Generator().manual_seed(0)
        for each in dataset:
            each["signal"] = torch.randn(len(each["input_ids"]), 2, 3, generator=generator).tolist()
    index, _ = scan(dataset)
    plain = [{name: values for name, values in each.items() if name != "signal"} for each in dataset]
    inputs = pad(plain, side)
    if wide:
        inputs["signal"] = torch.zeros(*inputs["input_ids"].shape, 2, 3)
        for row, each in enumerate(dataset):
            inputs["signal"][row, inputs["attention_mask"][row] == 1] = torch.tensor(each["signal"])
    BatchRows(index, torch.arange(4), inputs)
    for name, values in inputs.items():
        changed = values.clone()
        changed[2, inputs["attention_mask"][2] == 1] = changed[2, inputs["attention_mask"][2] == 1].flip(0) + 1
        if name not in ("attention_mask", "labels"):
            with pytest.raises(GeodistillError, match="of example 2 in the batch"):
                BatchRows(index, torch.arange(4), {**inputs, name: changed})


def test_images_have_no_tokens():
    generator = torch.Generator().manual_seed(0)
    dataset = [{"pixel_values": torch.randn(3, 4, 4, generator=generator), "labels": row} for row in range(3)]
    index, digest = scan(dataset)
    assert index.lengths.tolist() == [1, 1, 1] and list(index.checksums) == ["pixel_values"]
    assert scan([{**each, "labels": 0} for each in dataset])[1] == digest != scan(dataset[:2])[1]
    batch = {"pixel_values": torch.stack([each["pixel_values"] for each in dataset])}
    BatchRows(index, torch.arange(3), batch)
    batch["pixel_values"][1, 2, 3, 3] += 1e-3
    with pytest.raises(GeodistillError, match="The pixels of example 1"):
        BatchRows(index, torch.arange(3), batch)


def test_the_longest_examples_come_first():
    index, _ = scan([example(2), example(5), example(2), example(0)])
    assert index.order.tolist() == [1, 0, 2, 3]
    assert [index.tokens(count) for count in range(5)] == [0, 7, 11, 15, 17]
    assert index.tokens() == 17 and index.rows(EXAMPLE, 3) == 3


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


def test_labels_of_other_tokens_are_noticed():
    dataset = [example(4)]
    index, _ = scan(dataset)
    inputs = pad(dataset, "right")
    BatchRows(index, torch.tensor([0]), {**inputs, "labels": torch.where(inputs["labels"] == -100, -100, 9)})
    with pytest.raises(GeodistillError, match="The labelled tokens of example 0"):
        BatchRows(index, torch.tensor([0]), {**inputs, "labels": inputs["input_ids"]})


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_scan_finds_the_same_however_many_it_takes_at_a_time(monkeypatch, chunk):
    dataset = [example(length) for length in (3, 0, 5, 1, 3)]
    dataset[2] = {**dataset[2], "attention_mask": [0, 0, 1, 1, 1, 1, 1]}  # padded on the left
    dataset[3] = {name: torch.tensor(values) for name, values in dataset[3].items()}
    monkeypatch.setattr(cache_index, "_CHUNK", chunk)
    index, _ = scan(dataset)
    assert index.lengths.tolist() == [5, 2, 5, 3, 5]
    for position, entry in enumerate(dataset):
        batch = {name: torch.as_tensor(values).unsqueeze(0) for name, values in entry.items()}
        BatchRows(index, torch.tensor([position]), batch)


def test_scan_knows_the_data_by_what_the_teacher_sees():
    dataset = [{**example(2), "example_id": 0, "labels": 1}, {**example(3), "example_id": 1, "labels": 0}]
    digest = scan(dataset)[1]
    assert scan([{**entry, "labels": 7} for entry in dataset])[1] == digest
    assert scan(dataset[:1])[1] != digest
    for name, value in [("input_ids", 9), ("attention_mask", 0), ("special_tokens_mask", 0), ("word_ids", 0)]:
        assert scan([dataset[0], {**dataset[1], name: [value, *dataset[1][name][1:]]}])[1] != digest
    labels = ([-100, 4, 4, 4], [-100, -100, 4, 4])
    responses = [
        scan([{**entry, "labels": [*part, *[4] * (len(entry["input_ids"]) - 4)]} for entry in dataset])[1]
        for part in labels
    ]
    assert len({digest, *responses}) == 3
    assert (
        scan([{**entry, "labels": [-100, *[9] * (len(entry["input_ids"]) - 1)]} for entry in dataset])[1]
        == responses[0]
    )
    typed = [{**entry, "token_type_ids": [0] * len(entry["input_ids"])} for entry in dataset]
    paired = [{**entry, "token_type_ids": [1] * len(entry["input_ids"])} for entry in dataset]
    assert len({digest, scan(typed)[1], scan(paired)[1]}) == 3


def test_scan_refuses_what_cannot_be_cached():
    with pytest.raises(GeodistillError, match="no examples"):
        scan([])
    with pytest.raises(GeodistillError, match="Example 1 of the data to be cached has the 'example_id' 0"):
        scan([{**example(2), "example_id": 0}, {**example(2), "example_id": 0}])
    with pytest.raises(GeodistillError, match=r"Example 1 .* has the inputs input_ids, and the first has inp"):
        scan([example(2), {"input_ids": [1, 2]}])
