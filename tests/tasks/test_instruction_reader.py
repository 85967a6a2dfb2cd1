from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from geodistill.data.instructions import Instructions
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe
from geodistill.tasks.instruction_reader import InstructionReader, beginning

TEXTS = ["Say it again.", "\ning\ning\ning", "\n\n### Response:\nresponse", "12 34 56 words"]


def make_tokenizer(*, begins: bool = False, pad: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer, so that no text is unknown and tokens run over the ends of words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    if begins:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>", **({"eos_token": "</s>"} if eos else {}), **({"pad_token": "<pad>"} if pad else {})}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def make_instructions(max_length: int = 512, **splits: list[tuple[str, str, list[str]]]) -> Instructions:
    given = splits or {part: [("Say it.", "12", ["34"]), ("Go on", "", ["ing", "on"])] for part in ("train", "test")}
    names = ("instruction", "input", "references")
    tables = {part: Dataset.from_list([dict(zip(names, r, strict=True)) for r in rows]) for part, rows in given.items()}
    return Instructions(DatasetDict(tables), max_length, "", [])


def encode(tokenizer: Any, instructions: Instructions | None = None, limit: int = 512, **recipe: Any) -> dict[str, Any]:
    return read(instructions or make_instructions(), tokenizer, DataRecipe(**recipe), limit)


def read(
    instructions: Instructions, tokenizer: Any, recipe: DataRecipe, limit: int, notes: list[str] | None = None
) -> dict[str, Any]:
    length = min(instructions.max_length, limit)
    reader = InstructionReader(tokenizer).reading(length, recipe.prompt, recipe.max_prompt_length)
    return {part: reader.encode(split, notes=notes, part=part) for part, split in instructions.splits.items()}


@pytest.mark.parametrize("begins", [False, True])
def test_prompt_and_response_meet_between_two_tokens(begins: bool) -> None:
    tokenizer = make_tokenizer(begins=begins)
    encoded = encode(tokenizer, prompt="plain")
    assert set(encoded) == {"train", "test"}
    for part, examples in encoded.items():
        assert [example["example_id"] for example in examples] == [0, 1]
        for example, prompt, response in zip(examples, ["Say it.\n12\n", "Go on\n"], ["34", "ing"], strict=True):
            ids, labels = example["input_ids"], example["labels"]
            asked = labels.count(-100)
            assert labels == [-100] * asked + ids[asked:]
            assert tokenizer.decode(ids[:asked]) == ("<s>" if begins else "") + prompt
            assert tokenizer.decode(ids[asked:]) == response + "</s>"
            assert example["attention_mask"] == [1] * len(ids)
            assert example["special_tokens_mask"] == [int(token < 3) for token in ids]
            if part == "test":
                assert example["prompt_ids"] == ids[:asked]
    assert encoded["test"][1]["references"] == ["ing", "on"]
    # The tokenizer would have put the end of this prompt and the response into one token.
    joined = tokenizer("Go on\ning", add_special_tokens=False)["input_ids"]
    assert joined != encoded["train"][1]["input_ids"][begins:-1]


def test_a_template_that_begins_the_text_itself() -> None:
    tokenizer = make_tokenizer(begins=True)
    tokenizer.chat_template = "<s>{% for message in messages %}{{ message.content }}{% endfor %}"
    ids = encode(tokenizer, prompt="chat")["test"][0]["input_ids"]
    assert ids.count(0) == 1 and ids[0] == 0


def test_the_beginning_is_what_a_tokenizer_adds() -> None:
    assert beginning(make_tokenizer()) == []
    assert beginning(make_tokenizer(begins=True)) == [0]


def test_long_prompts_are_dropped_and_long_responses_cut() -> None:
    tokenizer = make_tokenizer()
    rows = [("a" * 30, "", ["b"]), ("a", "", ["c" * 40]), ("a", "", ["b"]), ("a" * 9, "", ["b" * 10])]
    notes: list[str] = ["before"]
    recipe = DataRecipe(prompt="plain", max_prompt_length=10)
    encoded = read(make_instructions(20, train=rows), tokenizer, recipe, 512, notes)["train"]
    assert [example["row"] for example in encoded] == [1, 2, 3]
    assert [example["example_id"] for example in encoded] == [0, 1, 2]
    assert [len(example["input_ids"]) for example in encoded] == [20, 4, 20]
    assert [example["input_ids"][-1] == tokenizer.eos_token_id for example in encoded] == [False, True, False]
    assert notes == [
        "before",
        "1 of the 4 train prompts are over 10 tokens and were dropped.",
        "2 of the 3 train responses were cut, at 20 tokens with their prompt.",
    ]
    read(make_instructions(20, train=rows), tokenizer, recipe, 512, notes)
    assert len(notes) == 3


def test_the_model_has_the_last_word_on_length() -> None:
    encoded = encode(make_tokenizer(), make_instructions(train=[("a", "", ["b" * 40])]), limit=12, prompt="plain")
    assert len(encoded["train"][0]["input_ids"]) == 12


def test_a_prompt_always_leaves_room_for_a_response() -> None:
    with pytest.raises(GeodistillError, match="All 1 train prompts are longer than 11 tokens"):
        encode(make_tokenizer(), make_instructions(train=[("a" * 11, "", ["b"])]), limit=12, prompt="plain")


def test_a_response_must_be_able_to_end() -> None:
    with pytest.raises(GeodistillError, match="no end-of-sequence token"):
        encode(make_tokenizer(eos=False))


@pytest.mark.parametrize("pad", [True, False])
def test_a_batch_is_padded_on_the_right_and_masked(pad: bool) -> None:
    tokenizer = make_tokenizer(pad=pad)
    examples = encode(tokenizer, prompt="plain")["test"]
    batch = InstructionReader(tokenizer).collate(examples)
    assert set(batch) == {"input_ids", "attention_mask", "special_tokens_mask", "labels", "example_id"}
    filling = tokenizer.pad_token_id if pad else tokenizer.eos_token_id
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == example["input_ids"]
        assert batch["labels"][row, :length].tolist() == example["labels"]
        assert (batch["input_ids"][row, length:] == filling).all()
        assert (batch["labels"][row, length:] == -100).all()
        assert batch["attention_mask"][row].sum() == length
        assert (batch["special_tokens_mask"][row, length:] == 1).all()
    assert batch["labels"][1].eq(tokenizer.eos_token_id).sum() == 1  # the end that was written, and none of the padding
    assert batch["example_id"].tolist() == [0, 1]


def test_the_loss_is_that_of_the_responses_alone() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(pad=False)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).eval()
    examples = encode(tokenizer, prompt="plain")["train"]
    with torch.no_grad():
        batch = {
            k: v
            for k, v in InstructionReader(tokenizer).collate(examples).items()
            if k in ("input_ids", "attention_mask", "labels")
        }
        found = model(**batch).loss
        losses = []
        for example in examples:  # one at a time, without padding, from the definition
            ids = torch.tensor([example["input_ids"]])
            logs = model(ids).logits.log_softmax(-1)[0]
            start = example["labels"].count(-100)
            losses += [-logs[place - 1, ids[0, place]] for place in range(start, ids.shape[1])]
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.slow
def test_the_bundled_decoder_and_instructions() -> None:
    from geodistill.data.bundled.models import resolve_model
    from geodistill.data.instructions import load_instructions

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("bundled:smollm2-135m"))
    for prompt in ("alpaca", "chat", "plain"):
        recipe = DataRecipe(source="bundled:instructions", prompt=prompt)
        instructions, notes = load_instructions(recipe), []
        encoded = read(instructions, tokenizer, recipe, 8192, notes)
        assert notes == []
        for part, examples in encoded.items():
            for example, row in zip(examples, instructions.splits[part], strict=True):
                answer = [token for token in example["labels"] if token != -100]
                assert tokenizer.decode(answer) == row["references"][0] + tokenizer.eos_token
