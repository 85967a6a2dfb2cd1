"""Batches of like length, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from geodistill.distillation.overrides import overrides

BATCHES_SORTED_TOGETHER = 50  # enough that a batch holds one length, few enough that its company changes by the epoch


class LengthGroupedSampler(Sampler[int]):
    """Shuffle, sort runs of fifty batches by length, cut them into batches, and shuffle the batches.

    Little of a batch is then padding, and long and short batches come mixed. The order is drawn from (seed, epoch) and
    from no global random state, so a resumed run sees the batches that an uninterrupted one would have seen, and all
    ranks agree. A last batch that is not full stays last.

    Args: `lengths` of the examples, `batch_size`, `seed`. `EpochOrder` calls `set_epoch` before each epoch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        run = self.batch_size * BATCHES_SORTED_TOGETHER
        grouped: list[int] = []
        for start in range(0, len(order), run):
            grouped += sorted(order[start : start + run], key=lambda index: self.lengths[index])
        batches = [grouped[start : start + self.batch_size] for start in range(0, len(grouped), self.batch_size)]
        ragged = batches.pop() if batches and len(batches[-1]) < self.batch_size else []
        for place in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[place]
        yield from ragged


class EpochOrder(TrainerCallback):
    """Tells a sampler, and a data set whose examples vary, which epoch begins.

    The Trainer does so through the data loader, but of a resumed run on several ranks the loader is wrapped once more,
    and the call is lost on its way to the sampler.
    """

    def __init__(self, *followers: Any) -> None:
        self.followers = followers

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Within a resumed epoch the number is not whole.
        for follower in self.followers:
            follower.set_epoch(int(state.epoch or 0))


class LengthGroupedTrainer(Trainer):
    """The plain Trainer, but with `group_by_length` in an order that survives resuming, and evaluation in the order of
    the data. The Trainer's own sampler draws on global state, and would group the evaluation too, where metrics go by a
    row's place."""

    @overrides(Trainer)
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        followers = [dataset] if hasattr(dataset, "set_epoch") else []
        if self.args.train_sampling_strategy == "group_by_length" and hasattr(dataset, "__len__"):
            # Examples without tokens, such as images, have one length: their order is shuffled alone.
            tokens = len(dataset) > 0 and "input_ids" in dataset[0]
            lengths = [len(example["input_ids"]) for example in dataset] if tokens else [0] * len(dataset)
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            sampler: Any = LengthGroupedSampler(lengths, self.args.train_batch_size, seed)
            followers.append(sampler)
        else:
            sampler = super()._get_train_sampler(train_dataset)
        self.remove_callback(EpochOrder)
        if followers:
            self.add_callback(EpochOrder(*followers))
        return sampler

    @overrides(Trainer)
    def _get_eval_sampler(self, eval_dataset: Any) -> None: ...
