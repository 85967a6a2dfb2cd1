"""How a student and its teacher read one data set: as one batch, or each by its own reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from geodistill.distillation.sides import Reader, Side, SideCollator, place_of, prefixed
from geodistill.distillation.signals import TEACHER_PREFIX
from geodistill.errors import GeodistillError
from geodistill.features import KINDS, align_words
from geodistill.recipe import Recipe
from geodistill.tasks.image_reader import PairedImages, ReadImages
from geodistill.tasks.task import Encoded, EncodedExamples, Task


@dataclass(frozen=True)
class Reading:
    """The data of a task as a student learns it beside its teacher.

    reader, encoded: the student's own, by which it is scored and saved
    examples: what both of them read, split by split; the teacher's columns carry its prefix where they are its own
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
    """Return the reader of a pretrained student that does not read as the teacher does; None where they share one.

    `task` is the recipe's: an image reader depends on the images of the data.

    Raises GeodistillError where an objective would then compare tokens that are not the same.
    """
    student, teacher = recipe.student, recipe.teacher
    if student.model is None:
        return None
    others = task.load_reader(teacher.model, revision=teacher.revision, trust=teacher.trust_remote_code)
    own = task.load_reader(student.model, revision=student.revision, trust=student.trust_remote_code, like=others)
    if own.pairs_with(others):
        return None
    for objective in recipe.objectives:
        compared = [
            f"the rows '{term.rows}'" for term in objective.features if term.rows and KINDS[term.rows].of_tokens
        ]
        if task.scores_tokens and objective.logits:
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
    task: Task, student: Side, teacher: Side, *, positions: int, words: bool, encoded: Encoded | None = None
) -> Reading:
    """Read the data of a task for two sides.

    Texts are cut at `positions`, which is what both models have. With `words` the examples have `word_ids`, for rows of
    this kind; two tokenizers always have them. `encoded` is the data as the teacher reads it, where that is known.

    Raises GeodistillError where a tokenizer does not tell which characters a token is of.
    """
    reader, teacher_reader = student.reader, teacher.reader
    shared = not teacher.prefix
    of_text = hasattr(reader, "tokenizer")
    if shared and not words:
        encoded = task.encode(teacher.model, teacher_reader, positions=positions) if encoded is None else encoded
        return Reading(task, reader, encoded, encoded, SideCollator(reader, teacher_reader), task.rows)
    if of_text:
        for each in (reader, teacher_reader):
            _check_offsets(each.tokenizer)  # type: ignore[attr-defined]  # a reader of texts
    teachers = task.encode(teacher.model, teacher_reader, words=of_text, positions=positions)
    if shared:
        examples = {split: with_word_ids(rows) for split, rows in teachers.items()}
        return Reading(task, reader, _scored(teachers), examples, SideCollator(reader, teacher_reader), task.rows)
    own = task.encode(student.model, reader, words=of_text, positions=positions)
    both = {split: pair_examples(rows, teachers[split]) for split, rows in own.items()}
    collate = SideCollator(reader, teacher_reader, TEACHER_PREFIX)
    return Reading(task, reader, _scored(own) if of_text else own, both, collate, "words" if of_text else task.rows)


def pair_examples(student: EncodedExamples, teacher: EncodedExamples) -> Any:
    """Put what both sides read of each row into one example, the teacher's columns under its prefix; of texts with
    `word_ids` in both.

    What one side dropped is left out, and the rest is numbered anew.
    """
    if isinstance(student, ReadImages):
        return PairedImages(student, teacher)  # type: ignore[arg-type]  # both sides read images
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
