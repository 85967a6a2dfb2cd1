"""DistillationConfig: the arguments of a training, with what distillation adds to transformers.TrainingArguments."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from transformers.training_args import TrainingArguments


@dataclass
class DistillationConfig(TrainingArguments):
    """The arguments of `DistillationTrainer`: all of `transformers.TrainingArguments`, and those below.

    They are in the checkpoints and in what `report_to` is told, as all arguments are. `HfArgumentParser` makes options
    of a command line out of them.

    Args:
        exact_accumulation: with several micro-batches in a step, feature terms and their gradient are those of all
            micro-batches together, whatever the split. Otherwise they are the mean over the micro-batches. The price is
            another forward pass of the student, without gradient, and the teacher's signals of a whole step in memory
            (docs/scale.md).
        max_skipped_steps: a step whose gradient is not finite is skipped and counted. After so many in a row, training
            stops with GeodistillError.
        global_batch: with several ranks, a feature term is of the whole batch over all of them, with its exact
            gradient. Otherwise each rank takes the term of the rows that it has.
        rates: learning rates by patterns of parameter names, such as {"*.bias": 1e-3}. The first pattern that matches a
            name counts, and learning_rate is that of all other parameters. Names are those of the student; those of a
            teacher that learns begin with `teacher.`, and learned projections with `objective.`.

    Example:
        DistillationConfig("out", num_train_epochs=3, gradient_accumulation_steps=4, exact_accumulation=True)
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "rates"]  # noqa: RUF012  # as in TrainingArguments

    exact_accumulation: bool = field(
        default=False,
        metadata={"help": "Take feature terms of all micro-batches of a step together, for one more student forward."},
    )
    max_skipped_steps: int = field(
        default=20,
        metadata={"help": "Stop after so many steps in a row whose gradient is not finite; each of them is skipped."},
    )

    global_batch: bool = field(
        default=True,
        metadata={"help": "Take feature terms of the whole batch over all ranks, not of the rows of each rank."},
    )
    rates: dict | str | None = field(  # HfArgumentParser reads JSON for this type alone
        default=None,
        metadata={"help": 'Learning rates by patterns of parameter names, as JSON: {"*.bias": 1e-3}.'},
    )

    @classmethod
    def of(cls, arguments: TrainingArguments) -> DistillationConfig:
        """Return a DistillationConfig unchanged, and other arguments as one with the defaults above.

        Others are copied without initialising them again, which would read the launcher's settings twice.
        """
        if isinstance(arguments, cls):
            return arguments
        config = cls.__new__(cls)
        vars(config).update({**{each.name: each.default for each in fields(cls)}, **vars(arguments)})
        return config
