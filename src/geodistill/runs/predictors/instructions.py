"""What `geodistill predict` answers to instructions and conversations."""

from __future__ import annotations

from geodistill.data.columns import InstructionColumns
from geodistill.data.instruction_rows import Instruction, prompts_of
from geodistill.data.instructions import MAX_LENGTH as INSTRUCTIONS_MAX_LENGTH
from geodistill.data.scoring import prompt_columns
from geodistill.data.streams import LINE, Stream
from geodistill.data.tables import Table
from geodistill.recipe import GenerationRecipe
from geodistill.runs.arguments import run_device, send
from geodistill.runs.predictors.predictor import Line, Predictor
from geodistill.tasks.finished_run import FinishedRun
from geodistill.tasks.generation import generate
from geodistill.tasks.instruction_reader import encode_prompts
from geodistill.tasks.instructions import load_language_model
from geodistill.tasks.loading import load_tokenizer
from geodistill.tasks.text_reader import position_limit

EMPTY_INSTRUCTION = "there is no instruction"


class InstructionPredictor(Predictor):
    """A response to each instruction or conversation."""

    keys = (
        *(f"data.{key}" for key in ("instruction", "input", "messages", "prompt", "max_length", "max_prompt_length")),
        *(f"generation.{key}" for key in GenerationRecipe.model_fields if key != "limit"),
    )

    def __init__(self, run: FinishedRun) -> None:
        self.run = run
        self.tokenizer = load_tokenizer(run.student)
        self.model = send(load_language_model(run.student), run_device())
        self.columns: InstructionColumns | None = None
        self.name = ""
        data = run.recipe.data
        length = min(data.max_length or INSTRUCTIONS_MAX_LENGTH, run.positions or position_limit(self.model))
        self.longest = min(data.max_prompt_length, length - 1)

    @staticmethod
    def most(run: FinishedRun, chunk: int) -> int:
        return min(chunk, 8 * run.recipe.generation.batch_size)

    def find(self, stream: Stream, table: Table, notes: list[str]) -> None:
        self.name = stream.name
        if stream.plain:
            self.columns = InstructionColumns(instruction=LINE)
            return
        self.columns = prompt_columns(table.columns, self.run.recipe.data, self.run.named, notes)

    def answer(self, table: Table, start: int) -> list[Line]:
        assert self.columns is not None
        generation = self.run.recipe.generation
        rows = prompts_of(table, self.columns, self.name)
        asked = [place for place, row in enumerate(rows) if row.instruction]
        prompts = encode_prompts(
            [rows[place]._asdict() for place in asked], self.tokenizer, self.run.recipe.data.prompt
        )
        fitting = {place: ids for place, ids in zip(asked, prompts, strict=True) if len(ids) <= self.longest}
        responses: dict[int, str] = {}
        if fitting:
            # Each chunk has another seed; otherwise all of them would begin with the same draws.
            seed = generation.seeds[0] + start
            drawn = generate(self.model, self.tokenizer, list(fitting.values()), generation, seed=seed, progress=False)
            responses = dict(zip(fitting, drawn.texts, strict=True))
        return [self._line(row, start + place, responses.get(place)) for place, row in enumerate(rows)]

    def _line(self, row: Instruction, number: int, response: str | None) -> Line:
        line: Line = {"row": number, "instruction": row.instruction}
        if row.input:
            line["input"] = row.input
        line["response"] = response
        if response is None:
            long = f"the prompt is over {self.longest} tokens"
            line["note"] = long if row.instruction else EMPTY_INSTRUCTION
        return line
