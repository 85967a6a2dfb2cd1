"""How a student and its teacher read one data set: with one tokenizer, or each with its own and their words paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from geodistill.distillation.signals import TEACHER_PREFIX, teacher_view
from geodistill.errors import GeodistillError
from geodistill.features import NO_WORD, align_words
from geodistill.recipe import Recipe
from geodistill.runs.teacher import TaughtTask
from geodistill.tasks.loading import load_tokenizer, same_vocabulary
from geodistill.tasks.positions import shared_position_limit
from geodistill.tasks.task import Collator, Encoded, EncodedExamples, Task

ROWS_OF_TOKENS = ("tokens", "response")


@dataclass(frozen=True)
class Reading:
    """The data of a task as a student learns it beside its teacher.

    tokenizer, encoded: the student's own, by which it is scored and saved
    examples: what both of them read, split by split; the teacher's columns carry its prefix where they are its own
    collate: pads these to a batch
    collate_taught: pads what `teacher_view` leaves of them
    rows: the kind of rows that the held-out geometry is measured on
    """

    task: Task
    tokenizer: PreTrainedTokenizerBase
    encoded: Encoded
    examples: Encoded
    collate: Collator
    collate_taught: Collator
    rows: str


def student_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a pretrained student that is not the teacher's; None where they share one.

    Raises GeodistillError where an objective would then compare tokens that are not the same.
    """
    student, teacher = recipe.student, recipe.teacher
    if student.model is None:
        return None
    own = load_tokenizer(student.model, revision=student.revision, trust=student.trust_remote_code)
    if same_vocabulary(own, load_tokenizer(teacher.model, revision=teacher.revision, trust=teacher.trust_remote_code)):
        return None
    for objective in [*(stage.objective for stage in recipe.stages), recipe.objective]:
        compared = [f"the rows '{term.rows}'" for term in objective.features if term.rows in ROWS_OF_TOKENS]
        if recipe.task == "instructions" and objective.logits:
            compared.append("the logits of tokens")
        if compared:
            raise GeodistillError(
                f"The student '{student.model}' and the teacher '{teacher.model}' have different vocabularies, and "
                f"{compared[0]} would pair tokens that are not the same.",
                "Give every feature term rows=words (or mean, cls, last) and, in instructions, leave objective.logits "
                "out; or choose a student with the teacher's tokenizer, such as a new one: student.width with "
                "student.layers.",
            )
    return own


def read(
    task: Task, taught: TaughtTask, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, words: bool
) -> Reading:
    """Encode a task for a student whose tokenizer is the teacher's, then the same object, or another.

    Texts are cut at the positions of whichever model has fewer.
    With `words` the examples have `word_ids`, for rows of this kind; where the tokenizers are two, they always have.
    Raises GeodistillError where a tokenizer does not tell which characters a token is of.
    """
    collate = task.collator(tokenizer)
    positions = shared_position_limit(student, taught.model)
    if tokenizer is taught.tokenizer and not words:
        if task is taught.task:
            encoded = taught.encoded_within(positions)
        else:
            encoded = task.encode(taught.model, tokenizer, positions=positions)
        return Reading(task, tokenizer, encoded, encoded, collate, collate, task.rows)
    for each in (tokenizer, taught.tokenizer):
        _check_offsets(each)
    teachers = task.encode(taught.model, taught.tokenizer, words=True, positions=positions)
    collate_taught = collate_words(task.collator(taught.tokenizer))
    if tokenizer is taught.tokenizer:
        examples = {split: with_word_ids(rows) for split, rows in teachers.items()}
        return Reading(task, tokenizer, _scored(teachers), examples, collate_taught, collate_taught, task.rows)
    encoded = task.encode(student, tokenizer, words=True, positions=positions)
    examples = {split: pair_examples(rows, teachers[split]) for split, rows in encoded.items()}
    both = collate_pairs(collate_words(collate), collate_taught)
    return Reading(task, tokenizer, _scored(encoded), examples, both, collate_taught, "words")


def pair_examples(student: EncodedExamples, teacher: EncodedExamples) -> EncodedExamples:
    """Put both encodings of each text into one example, the teacher's under its prefix, with `word_ids` in both.

    Texts that one side dropped are left out, and the rest is numbered anew.
    """
    others = {_row(example): example for example in teacher}
    both = [(example, others[_row(example)]) for example in student if _row(example) in others]
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
        paired.append({**own, **_prefixed(other)})
    return paired


def with_word_ids(examples: EncodedExamples) -> EncodedExamples:
    """Number the words of each example's tokens, for a student and a teacher that share the tokenizer."""
    return [{**_without_words(example), "word_ids": align_words(example["words"])[0]} for example in examples]


def collate_words(collate: Collator) -> Collator:
    """Let a collator pad the examples' `word_ids` as well, with −1."""

    def collated(examples: list[Any]) -> dict[str, Any]:
        batch = collate([{name: value for name, value in each.items() if name != "word_ids"} for each in examples])
        # Tokens are where they are attended to, on whichever side the padding is.
        word_ids = torch.full_like(batch["input_ids"], NO_WORD)
        word_ids[batch["attention_mask"] != 0] = torch.tensor([word for each in examples for word in each["word_ids"]])
        return {**batch, "word_ids": word_ids}

    return collated


def collate_pairs(student: Collator, teacher: Collator) -> Collator:
    """Pad what is the student's and what is the teacher's of the examples, each by its own collator."""

    def collated(examples: list[Any]) -> dict[str, Any]:
        own = [
            {name: value for name, value in each.items() if not name.startswith(TEACHER_PREFIX)} for each in examples
        ]
        return {**student(own), **_prefixed(teacher([dict(teacher_view(each)) for each in examples]))}

    return collated


def _row(example: Mapping[str, Any]) -> int:
    return int(example.get("row", example["example_id"]))


def _prefixed(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {TEACHER_PREFIX + name: value for name, value in columns.items()}


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
