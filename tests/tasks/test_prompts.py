from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from geodistill.errors import GeodistillError
from geodistill.tasks.prompts import make_prompt

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ message.role }}>{{ message.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    made.chat_template = TEMPLATE
    return made


def row(instruction: str = "Add {these}.", about: str = "", **more: object) -> dict[str, object]:
    return {"instruction": instruction, "input": about, **more}


def test_alpaca_word_for_word(tokenizer: PreTrainedTokenizerFast) -> None:
    assert make_prompt(row(), "alpaca", tokenizer) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Add {these}.\n"
        "\n"
        "### Response:\n"
    )
    assert make_prompt(row(about="1 {2}"), "alpaca", tokenizer) == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n"
        "\n"
        "### Instruction:\n"
        "Add {these}.\n"
        "\n"
        "### Input:\n"
        "1 {2}\n"
        "\n"
        "### Response:\n"
    )


def test_plain(tokenizer: PreTrainedTokenizerFast) -> None:
    assert make_prompt(row(), "plain", tokenizer) == "Add {these}.\n"
    assert make_prompt(row(about="1 2"), "plain", tokenizer) == "Add {these}.\n1 2\n"


def test_chat_goes_by_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    assert make_prompt(row(), "chat", tokenizer) == "<user>Add {these}.</><assistant>"
    assert make_prompt(row(about="1 2"), "chat", tokenizer) == "<user>Add {these}.\n\n1 2</><assistant>"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    expected = "<system>Be brief.</><user>Hello</><assistant>"
    assert make_prompt(row("Hello", messages=turns), "chat", tokenizer) == expected


def test_a_conversation_of_one_turn_fits_any_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    asked = row("Hello", messages=[{"role": "user", "content": "Hello"}])
    assert make_prompt(asked, "plain", tokenizer) == "Hello\n"


def test_what_does_not_fit(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    with pytest.raises(GeodistillError, match=r"3 turns .* Set data.prompt=chat"):
        make_prompt(row("c", messages=turns), "alpaca", tokenizer)
    with pytest.raises(GeodistillError, match="refuses a conversation: no tools here"):
        make_prompt(row("c", messages=[{"role": "tool", "content": "a"}]), "chat", tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(GeodistillError, match=r"no chat template. Set data.prompt=alpaca"):
        make_prompt(row(), "chat", tokenizer)
