"""Responses that the teacher writes, for the student to learn instead of the data's: sequence-level distillation.

Reference: Kim & Rush (2016), Sequence-level knowledge distillation.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from geodistill.errors import GeodistillError
from geodistill.features import IGNORED_LABEL
from geodistill.files import fingerprint_of, write_text
from geodistill.recipe import GenerationRecipe
from geodistill.tasks.generation import generate
from geodistill.tasks.instruction_reader import labelled
from geodistill.tasks.task import EncodedExamples


def with_teacher_responses(
    examples: EncodedExamples,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationRecipe,
    *,
    teacher_side: str,
    folder: Path,
    max_length: int,
    progress: bool,
) -> EncodedExamples:
    """Return the examples with the response replaced by the teacher's, one a prompt, drawn with the first seed.

    They are written to a file in `folder`, which is read again for the same teacher, known by its fingerprint
    `teacher_side`, the same prompts and the same way to draw. A response that is empty stays: it ends at once. One that
    had not ended is cut, without an end of sequence.
    """
    prompts = [_prompt(example) for example in examples]
    settings = generation.model_dump(exclude={"seeds", "limit"})
    seed = generation.seeds[0]
    key = fingerprint_of(teacher_side, settings, seed, prompts)
    path = folder / f"responses-{key[:12]}.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        written = generate(
            teacher, tokenizer, prompts, generation, seed=seed, title="teacher's responses", progress=progress
        )
        write_text(path, "".join(json.dumps(tokens) + "\n" for tokens in written.token_ids))
    responses = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if len(responses) != len(prompts):
        raise GeodistillError(f"{path} holds {len(responses)} responses to {len(prompts)} prompts.", "Delete the file.")
    special = set(tokenizer.all_special_ids)
    return [
        {**example, **labelled((prompt + response)[: max(len(prompt) + 1, max_length)], len(prompt), special)}
        for example, prompt, response in zip(examples, prompts, responses, strict=True)
    ]


def _prompt(example: dict[str, list[int]]) -> list[int]:
    asked = next(place for place, label in enumerate(example["labels"]) if label != IGNORED_LABEL)
    return example["input_ids"][:asked]
