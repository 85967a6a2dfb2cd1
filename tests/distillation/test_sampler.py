from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers.training_args import TrainingArguments

from geodistill.distillation.sampler import (
    BATCHES_SORTED_TOGETHER,
    EpochOrder,
    LengthGroupedSampler,
    LengthGroupedTrainer,
)


def make_lengths(count: int) -> list[int]:
    draw = random.Random(0)
    return [draw.randint(3, 60) for _ in range(count)]


def cut(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def order_of(lengths: list[int], batch_size: int = 8, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = LengthGroupedSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 403, 1000])
def test_every_example_once(count: int) -> None:
    lengths = make_lengths(count)
    assert sorted(order_of(lengths)) == list(range(count))
    assert len(LengthGroupedSampler(lengths, 8, 0)) == count


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = make_lengths(200)
    first = order_of(lengths, seed=1, epoch=2)
    torch.manual_seed(99)
    assert order_of(lengths, seed=1, epoch=2) == first
    different = [first, order_of(lengths, seed=1, epoch=3), order_of(lengths, seed=2, epoch=2), order_of(lengths)]
    assert len({tuple(order) for order in different}) == 4


def test_going_through_it_twice_gives_the_same_order() -> None:
    sampler = LengthGroupedSampler(make_lengths(50), 8, 0)
    assert list(sampler) == list(sampler)


def test_global_random_state_is_not_touched() -> None:
    before, python_before = torch.get_rng_state(), random.getstate()
    order_of(make_lengths(100))
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == python_before


def test_batches_hold_like_lengths() -> None:
    lengths = make_lengths(8 * 100)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in cut(order_of(lengths), 8))
    shuffled = torch.randperm(800, generator=torch.Generator().manual_seed(0)).tolist()
    padded_shuffled = sum(len(batch) * max(lengths[index] for index in batch) for batch in cut(shuffled, 8))
    assert padded < 1.05 * sum(lengths) < 1.4 * sum(lengths) < padded_shuffled


def test_short_and_long_batches_come_mixed() -> None:
    lengths = make_lengths(8 * BATCHES_SORTED_TOGETHER)
    means = [sum(lengths[index] for index in batch) / 8 for batch in cut(order_of(lengths), 8)]
    rises = sum(after > before for before, after in pairwise(means))
    assert 0.3 < rises / len(means) < 0.7


def test_company_changes_by_the_epoch() -> None:
    lengths = make_lengths(8 * 100)
    batches = [{frozenset(batch) for batch in cut(order_of(lengths, epoch=epoch), 8)} for epoch in range(2)]
    assert len(batches[0] & batches[1]) < 5


@pytest.mark.parametrize("count", [8 * 5 + 3, 8 * BATCHES_SORTED_TOGETHER + 1, 3])
def test_batch_that_is_not_full_stays_last(count: int) -> None:
    # Anywhere else it would shift the cuts of all batches after it, and their lengths would no longer be alike.
    lengths = sorted(make_lengths(count))
    for epoch in range(5):
        batches = cut(order_of(lengths, epoch=epoch), 8)
        assert [len(batch) for batch in batches[:-1]] == [8] * (len(batches) - 1)
        spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches[:-1]]
        assert all(value <= 20 for value in spread)


@pytest.mark.parametrize("data_seed", [None, 0, 7])
def test_a_plain_trainer_takes_the_seed_of_the_data_and_learns_the_epoch(tmp_path: Path, data_seed: int | None) -> None:
    """A fine-tuned teacher's trainer, too: a data seed of zero is one, and a resumed run over ranks needs the epoch."""
    lengths = make_lengths(40)
    arguments = TrainingArguments(
        str(tmp_path),
        train_sampling_strategy="group_by_length",
        per_device_train_batch_size=4,
        seed=3,
        data_seed=data_seed,
        use_cpu=True,
        report_to="none",
    )
    data = [{"input_ids": [0] * length} for length in lengths]
    trainer = LengthGroupedTrainer(model=torch.nn.Linear(1, 1), args=arguments, train_dataset=data)
    sampler = trainer._get_train_sampler()
    assert list(sampler) == order_of(lengths, 4, seed=3 if data_seed is None else data_seed)
    (callback,) = (each for each in trainer.callback_handler.callbacks if isinstance(each, EpochOrder))
    trainer.state.epoch = 2.0
    callback.on_epoch_begin(arguments, trainer.state, trainer.control)
    assert list(sampler) == order_of(lengths, 4, seed=3 if data_seed is None else data_seed, epoch=2)
    assert trainer._get_eval_sampler(data) is None
