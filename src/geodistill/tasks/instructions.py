"""Following instructions: a causal language model that is given a prompt and learns the response."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from geodistill.data.instructions import UNSEEN, Instructions, load_instructions
from geodistill.data.overlap import HeldOut
from geodistill.data.record import Record
from geodistill.data.scoring import instructions_to_score
from geodistill.distillation.sides import Reader, Side
from geodistill.distillation.students.architecture import check_causal, check_logits_of_tokens, tokenizer_length
from geodistill.errors import GeodistillError
from geodistill.files import fingerprint_of
from geodistill.recipe import DataRecipe, GenerationRecipe, Recipe
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.generation import Responses, generate
from geodistill.tasks.instruction_reader import InstructionReader
from geodistill.tasks.loading import ModelSource, with_quantizers
from geodistill.tasks.metrics import chosen_metrics
from geodistill.tasks.responses import exact_match, perplexity, rouge_l
from geodistill.tasks.task import (
    MOST_EXAMPLES,
    OF_TEXTS,
    Encoded,
    EncodedExamples,
    Scores,
    TaskDefaults,
    parts_of,
    spread,
)
from geodistill.tasks.teacher_responses import with_teacher_responses
from geodistill.tasks.text_reader import position_limit

METRICS = ("rouge_l", "exact_match", "perplexity")
COLUMNS = ("data.instruction", "data.input", "data.output", "data.messages")


class InstructionFollowing(TaskDefaults):
    """See `Task` for the members. Metrics of the split with unseen instructions carry the prefix `unseen_`."""

    rows = "response"
    compares = "tokens"
    labelled = True
    kinds = OF_TEXTS
    scores_tokens = True
    own_keys: tuple[str, ...] = ("data.max_length", "data.prompt", "data.max_prompt_length", "generation.*")
    other_keys: tuple[str, ...] = (*own_keys, "data.configuration", *COLUMNS)

    def __init__(self, instructions: Instructions, data: DataRecipe, generation: GenerationRecipe) -> None:
        self.instructions, self.data, self.generation = instructions, data, generation
        self.fingerprint = instructions.fingerprint
        self.notes_of_data, self.notes_of_scores = list(instructions.notes), list[str]()
        self.held_out = instructions.held_out
        self.measured = min(generation.limit or MOST_EXAMPLES, MOST_EXAMPLES)
        prefixes = ["", f"{UNSEEN}_"] if UNSEEN in instructions.splits else [""]
        every = [f"{prefix}{metric}" for prefix in prefixes for metric in METRICS]
        self.metrics = chosen_metrics(data.metrics, every, "instructions")
        self.scoring = fingerprint_of(self.fingerprint, self.metrics, generation.model_dump(mode="json"))

    @classmethod
    def load(cls, data: DataRecipe, recipe: Recipe, held_out: HeldOut | None = None) -> InstructionFollowing:
        return cls(load_instructions(data, held_out), data, recipe.generation)

    @classmethod
    def of_other_data(cls, run: FinishedRun, split: str | None, own: Callable[[], Any]) -> InstructionFollowing:
        data, generation = run.recipe.data, run.recipe.generation
        if "generation.limit" not in run.given:  # which is of the run's own data
            generation = generation.model_copy(update={"limit": None})
        return cls(instructions_to_score(data, split=split, named=run.named), data, generation)

    @property
    def notes(self) -> list[str]:
        return [*self.notes_of_data, *self.notes_of_scores]

    @property
    def record(self) -> Record:
        return replace(self.instructions.record, notes=list(self.notes_of_data))

    def load_model(self, source: ModelSource, *, new_head: bool) -> PreTrainedModel:
        """Load a causal language model; its head is the vocabulary's, so there is never a new one."""
        return load_language_model(source)

    @staticmethod
    def load_reader(source: ModelSource, *, like: Reader | None = None) -> InstructionReader:
        return InstructionReader.load(source)  # type: ignore[return-value]  # of this class

    def encode(
        self,
        model: PreTrainedModel,
        reader: Any,
        *,
        words: bool = False,
        positions: int | None = None,
    ) -> Encoded:
        length = min(self.instructions.max_length, positions or position_limit(model))
        reader = reader.reading(length, self.data.prompt, self.data.max_prompt_length)
        return {
            str(part): reader.encode(split, words=words, notes=self.notes_of_data, part=str(part))
            for part, split in self.instructions.splits.items()
        }

    def vocabulary(self, student: PreTrainedModel, teacher: Side) -> int:
        tokenizer = teacher.reader.tokenizer  # type: ignore[attr-defined]  # a reader of instructions has one
        check_logits_of_tokens(student, tokenizer, "student")
        check_logits_of_tokens(teacher.model, tokenizer, "teacher")
        return tokenizer_length(tokenizer)

    def learnt(
        self,
        encoded: EncodedExamples,
        teacher: Side,
        *,
        positions: int,
        teacher_side: str,
        folder: Path,
        progress: bool,
    ) -> EncodedExamples:
        """Return the examples, with the teacher's own responses if `data.responses` says so."""
        if self.data.responses == "data":
            return encoded
        if "word_ids" in encoded[0]:
            raise GeodistillError(
                "The words of responses that the teacher writes are not found.",
                "Set data.responses=data, or leave the rows 'words' to data with responses of its own.",
            )
        length = min(self.instructions.max_length, positions)
        return with_teacher_responses(
            encoded,
            teacher.model,
            teacher.reader.tokenizer,  # type: ignore[attr-defined]  # a reader of instructions has one
            self.generation,
            teacher_side=teacher_side,
            folder=folder,
            max_length=length,
            progress=progress,
        )

    def validate(self, model: PreTrainedModel, reader: Any, encoded: Encoded) -> Scores:
        """Score by perplexity alone: to generate takes as long as to train."""
        examples = spread(encoded["validation"], self.generation.limit)
        return Scores({"perplexity": perplexity(model, examples, reader)})

    def score(
        self,
        model: PreTrainedModel,
        reader: Any,
        encoded: Encoded,
        split: str,
        *,
        progress: bool = False,
    ) -> Scores:
        """Score the model's responses, sampled with each seed, against the references.

        `test` brings the split with unseen instructions along. A line holds the split, the row (the example's place in
        it, from 0), the prompt, the responses and the references. ROUGE-L and exact match are means over prompts and
        seeds; the details have the deviation over seeds, the speed, and how many responses did not end.
        """
        metrics: dict[str, float] = {}
        details: dict[str, Any] = {}
        lines: list[dict[str, Any]] = []
        for part in [split, UNSEEN] if split == "test" and UNSEEN in encoded else [split]:
            prefix = f"{UNSEEN}_" if part == UNSEEN and split == "test" else ""
            examples = [self._asked(example, each) for each in parts_of(encoded, part) for example in encoded[each]]
            examples = spread(examples, self.generation.limit)
            runs = self._respond(model, reader.tokenizer, examples, part, progress)
            references = [example["references"] for example in examples]
            values = {
                "rouge_l": [statistics.fmean(rouge_l(run.texts, references)) for run in runs],
                "exact_match": [statistics.fmean(exact_match(run.texts, references)) for run in runs],
            }
            unfinished = sum(run.unfinished for run in runs) / (len(runs) * len(examples))
            if unfinished > 0.5:
                most = self.generation.max_new_tokens
                self._note(f"{unfinished:.0%} of the {part} responses had not ended after {most} tokens.")
            metrics |= {f"{prefix}{name}": statistics.fmean(each) for name, each in values.items()}
            metrics[f"{prefix}perplexity"] = perplexity(model, examples, reader)
            details[part] = {
                "prompts": len(examples),
                "seeds": self._seeds(),
                "deviation": {name: statistics.stdev(each) if len(each) > 1 else None for name, each in values.items()},
                "tokens_per_second": sum(run.tokens for run in runs) / sum(run.seconds for run in runs),
                "unfinished": unfinished,
            }
            for place, example in enumerate(examples):
                texts = [run.texts[place] for run in runs]
                prompt = reader.tokenizer.decode(example["prompt_ids"], skip_special_tokens=True)
                lines.append(
                    {
                        "split": example["split"],
                        "row": example["row"],
                        "prompt": prompt,
                        "responses": texts,
                        "references": example["references"],
                    }
                )
        return Scores(metrics, details, lines)

    def _asked(self, example: dict[str, Any], part: str) -> dict[str, Any]:
        """Return an example with its split; its `row` is then its place in the split as it was read."""
        row = self.instructions.splits[part][example.get("row", example["example_id"])]
        return {**example, "split": part, "row": row["example_id"]}

    def _note(self, note: str) -> None:
        if note not in self.notes_of_scores:
            self.notes_of_scores.append(note)

    def _seeds(self) -> list[int]:
        return self.generation.seeds if self.generation.sample else self.generation.seeds[:1]

    def _respond(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        examples: Sequence[dict[str, Any]],
        part: str,
        progress: bool,
    ) -> list[Responses]:
        prompts = [example["prompt_ids"] for example in examples]
        return [
            generate(
                model, tokenizer, prompts, self.generation, seed=seed, title=f"{part}, seed {seed}", progress=progress
            )
            for seed in self._seeds()
        ]


def load_language_model(source: ModelSource) -> PreTrainedModel:
    """Load a causal language model."""
    model: PreTrainedModel = source.load_model(AutoModelForCausalLM)
    check_causal(model, source.name)
    return with_quantizers(model, source.name)
