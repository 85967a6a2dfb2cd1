"""From an instruction to the text that a model responds to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from geodistill.errors import GeodistillError
from geodistill.recipe import PromptKind

# Word for word as Alpaca (Taori et al. 2023) and MiniLLM (Gu et al. 2024) have them.
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


def make_prompt(row: Mapping[str, Any], kind: PromptKind, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the prompt of a row with `instruction`, `input` (may be empty) and, of a conversation, `messages`.

    - `alpaca`: the instruction under the headings that Alpaca has for it, with and without an input
    - `plain`: the instruction and the input, a line each
    - `chat`: the conversation so far, else instruction and input as the user's turn, by the tokenizer's chat template

    Raises GeodistillError for `chat` if the tokenizer has no chat template or it refuses the conversation, and for
    the other kinds if a conversation has turns before the instruction, which they would drop.
    """
    given = [row["instruction"], row["input"]] if row["input"] else [row["instruction"]]
    messages = row.get("messages") or [{"role": "user", "content": "\n\n".join(given)}]
    if kind == "chat":
        return _by_template(messages, tokenizer)
    if len(messages) > 1:
        raise GeodistillError(
            f"A conversation of {len(messages)} turns before the response does not fit into the prompt '{kind}'.",
            "Set data.prompt=chat.",
        )
    if kind == "plain":
        return "\n".join([*given, ""])
    return (ALPACA_WITH_INPUT if row["input"] else ALPACA).format_map(row)


def _by_template(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise GeodistillError(
            "The tokenizer has no chat template.",
            "Set data.prompt=alpaca or data.prompt=plain, or use a model that is trained for chat.",
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise GeodistillError(
            f"The tokenizer's chat template refuses a conversation: {error}.",
            "Fix the conversations, or set data.prompt=alpaca.",
        ) from error
