"""How a student and its teacher read one data set: as one batch, or each by a separate reader."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from geodistill.distillation.sides import ExamplePairs, Reader, Side, SideCollator, place_of, prefixed
from geodistill.distillation.signals import TEACHER_PREFIX, model_inputs
from geodistill.errors import GeodistillError
from geodistill.features import KINDS, align_words, evaluation_mode
from geodistill.recipe import Recipe
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.task import Encoded, EncodedExamples, Task


@dataclass(frozen=True)
class Reading:
    """The data of a task as a student learns it beside its teacher.

    reader, encoded: the student's own, by which it is scored and saved
    examples: what both of them read, split by split; columns of the teacher alone carry its prefix
    collate: makes a batch of these
    rows: the kind of rows that the held-out geometry is measured on
    """

    task: Task
    reader: Reader
    encoded: Encoded
    examples: Encoded
    collate: SideCollator
    rows: str

    @property
    def teacher_reader(self) -> Reader:
        """Collates what `teacher_view` leaves of the examples."""
        return self.collate.teacher

    @property
    def shared(self) -> bool:
        """Whether one batch serves both sides."""
        return not self.collate.prefix


def student_reader(recipe: Recipe, task: Task) -> Reader | None:
    """Return the reader of a student that does not read as the teacher does; None if they share one.

    `task` is the recipe's: readers depend on its data.

    Raises GeodistillError if an objective would then compare tokens that are not the same.
    """
    student, teacher = recipe.student, recipe.teacher
    if student.model is None and recipe.data.columns is None:
        return None
    teachers = ModelSource.of_teacher(teacher)
    others = task.load_reader(teachers)
    # A student that is made out of its teacher has the teacher's tokenizer.
    source = replace(teachers, whose="student")
    if student.model is not None:
        source = ModelSource(student.model, student.revision, student.trust_remote_code)
    own = task.load_reader(source, like=others)
    if own.pairs_with(others):
        return None
    if reads_text(own) or reads_text(others):
        for objective in recipe.objectives:
            compared = [
                f"the rows '{term.rows}'" for term in objective.features if term.rows and KINDS[term.rows].of_tokens
            ]
            if task.scores_tokens and objective.logits:
                compared.append("the logits of tokens")
            if compared:
                raise _other_tokens(recipe, own, others, compared[0])
    return own


def _other_tokens(recipe: Recipe, own: Reader, others: Reader, compared: str) -> GeodistillError:
    if own.column != others.column:
        return GeodistillError(
            f"The student reads the column '{own.column}' and the teacher '{others.column}', and {compared} would pair "
            "tokens of a text with what they do not correspond to.",
            "Give every feature term rows of whole inputs: mean, cls or last.",
        )
    return GeodistillError(
        f"The student '{recipe.student.model}' and the teacher '{recipe.teacher.model}' have different vocabularies, "
        f"and {compared} would pair tokens that are not the same.",
        "Give every feature term rows=words (or mean, cls, last) and, in instructions, leave objective.logits out; or "
        "choose a student with the teacher's tokenizer, such as a new one: student.width with student.layers.",
    )


def reads_text(reader: Reader) -> bool:
    """Whether a reader splits texts into tokens."""
    return hasattr(reader, "tokenizer")


@torch.no_grad()
def check_reads(model: PreTrainedModel, reader: Reader) -> None:
    """Refuse a model that cannot read what a reader makes, such as series of another number of channels.

    A model of texts is not asked: it reads whatever its tokenizer makes.
    """
    if reads_text(reader):
        return
    probe = {name: value.to(model.device) for name, value in reader.probe().items()}
    try:
        with evaluation_mode(model):
            model(**model_inputs(model, probe))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{name} {tuple(value.shape[1:])}" for name, value in probe.items())
        raise GeodistillError(
            f"{type(model).__name__} does not read the column '{reader.column}' ({shapes}): "
            f"{str(error).splitlines()[0]}.",
            "Use a model for inputs of this shape, or name another column.",
        ) from error


def read(
    task: Task,
    student: Side,
    teacher: Side,
    *,
    positions: int,
    kinds: Collection[str],
    encoded: Encoded | None = None,
) -> Reading:
    """Read the data of a task for two sides.

    Texts are cut at `positions`, which is what both models have. `kinds` are the kinds of rows that will be compared:
    for words the examples have `word_ids`, and so they have with two tokenizers of one text. Of two columns, rows of
    tokens are time bins, which both sides must have as many of. `encoded` is the data as the teacher reads it, where
    that is known.

    Raises GeodistillError if a tokenizer does not tell which characters a token is of, and for time bins that do not
    correspond.
    """
    reader, teacher_reader = student.reader, teacher.reader
    shared = not teacher.prefix
    of_words = reads_text(reader) and reads_text(teacher_reader) and reader.column == teacher_reader.column
    if shared and "words" not in kinds:
        encoded = task.encode(teacher.model, teacher_reader, positions=positions) if encoded is None else encoded
        return Reading(task, reader, encoded, encoded, SideCollator(reader, teacher_reader), task.rows)
    if of_words:
        for each in (reader, teacher_reader):
            _check_offsets(each.tokenizer)  # type: ignore[attr-defined]  # a reader of texts
    teachers = task.encode(teacher.model, teacher_reader, words=of_words, positions=positions)
    if shared:
        examples = {split: with_word_ids(rows) for split, rows in teachers.items()}
        return Reading(task, reader, _scored(teachers), examples, SideCollator(reader, teacher_reader), task.rows)
    own = task.encode(student.model, reader, words=of_words, positions=positions)
    collate = SideCollator(reader, teacher_reader, TEACHER_PREFIX)
    if of_words:
        both: Encoded = {split: pair_words(rows, teachers[split]) for split, rows in own.items()}
        return Reading(task, reader, _scored(own), both, collate, "words")
    pairs: Any = {split: ExamplePairs(rows, teachers[split]) for split, rows in own.items()}
    if any(KINDS[kind].of_tokens for kind in kinds):
        for split, examples in pairs.items():
            check_bins(examples, reader, teacher_reader, split)
    return Reading(task, reader, own, pairs, collate, task.rows)


def check_bins(pairs: ExamplePairs, student: Reader, teacher: Reader, split: str) -> None:
    """Raise GeodistillError for a pair of which the sides do not have as many time bins."""
    for place, (own, other) in enumerate(zip(pairs.student, pairs.teacher, strict=True)):
        ours, theirs = student.length(own), teacher.length(other)
        if ours is None or theirs is None:
            raise GeodistillError(
                f"The column '{(student if ours is None else teacher).column}' has no time bins, so it has no rows "
                "'tokens'.",
                "Compare rows of whole inputs: rows=mean.",
            )
        if ours != theirs:
            raise GeodistillError(
                f"The time bins do not correspond: example {place} of the {split} split has {ours:,} in the column "
                f"'{student.column}' and {theirs:,} in '{teacher.column}'.",
                "Bin both columns alike, or compare rows of whole inputs: rows=mean.",
            )


def pair_words(student: EncodedExamples, teacher: EncodedExamples) -> EncodedExamples:
    """Put what two tokenizers make of each text into one example, with `word_ids` in both, the teacher's columns under
    its prefix.

    What one side dropped is left out, and the rest is numbered anew.
    """
    others = {place_of(example): example for example in teacher}
    both = [(example, others[place_of(example)]) for example in student if place_of(example) in others]
    if not both:
        raise GeodistillError(
            "No text of a split is short enough for both tokenizers.",
            "Raise data.max_prompt_length and data.max_length.",
        )
    paired = []
    for place, sides in enumerate(both):
        word_ids = align_words(*(side["words"] for side in sides))
        own, other = (
            {**_without_words(side), "word_ids": ids, "example_id": place}
            for side, ids in zip(sides, word_ids, strict=True)
        )
        paired.append({**own, **prefixed(other)})
    return paired


def with_word_ids(examples: EncodedExamples) -> EncodedExamples:
    """Number the words of each example's tokens, for a student and a teacher that share the tokenizer."""
    return [{**_without_words(example), "word_ids": align_words(example["words"])[0]} for example in examples]


def _scored(encoded: Encoded) -> Encoded:
    return {split: [_without_words(example) for example in examples] for split, examples in encoded.items()}


def _without_words(example: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name != "words"}


def _check_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise GeodistillError(
            f"{type(tokenizer).__name__} does not tell which characters a token is of, so its words cannot be found.",
            "Use a model with a fast tokenizer, which has a tokenizer.json.",
        )
