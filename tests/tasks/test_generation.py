from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from geodistill.recipe import GenerationRecipe
from geodistill.tasks.generation import generate, pad_left

WORDS = ["<end>", *(f"w{i}" for i in range(30))]
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11], [3, 4, 5], [12, 13]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    if request.param == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2, n_positions=64)).eval()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=31, eos_token_id=0, bos_token_id=1, **sizes)).eval()


def respond(model: Any, tokenizer: Any, seed: int = 1, **recipe: Any) -> Any:
    settings = {"max_new_tokens": 12, "batch_size": 2, **recipe}
    return generate(model, tokenizer, PROMPTS, GenerationRecipe(**settings), seed=seed, progress=False)


def test_padding_changes_no_greedy_response(model: Any, tokenizer: Any) -> None:
    one_by_one = respond(model, tokenizer, sample=False, batch_size=1)
    together = respond(model, tokenizer, sample=False, batch_size=5)
    assert one_by_one.texts == together.texts and one_by_one.tokens == together.tokens
    assert together.texts[0] == together.texts[3], "in the order of the prompts"
    expected = model.generate(torch.tensor([PROMPTS[2]]), max_new_tokens=12, do_sample=False, eos_token_id=0)
    assert together.texts[2] == tokenizer.decode(expected[0, 5:], skip_special_tokens=True)


def test_a_response_ends_where_the_model_has_no_more_positions(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=31, n_embd=16, n_layer=1, n_head=2, n_positions=8)).eval()
    responses = respond(model, tokenizer, sample=False, batch_size=1)
    assert [len(ids) for ids in responses.token_ids] <= [8 - len(prompt) for prompt in PROMPTS]


def test_a_model_saved_without_its_cache_does_not_read_the_text_again(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the Trainer leaves decoders: `use_cache: false` in both configurations."""
    for settings in (model.config, model.generation_config):
        monkeypatch.setattr(settings, "use_cache", False)
    lengths: list[int] = []
    with model.register_forward_pre_hook(
        lambda _, arguments, inputs: lengths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    ):
        respond(model, tokenizer, sample=False, batch_size=5)
    assert lengths[0] == 5 and set(lengths[1:]) == {1}


def test_a_seed_draws_the_same_responses_and_leaves_the_global_state(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = respond(model, tokenizer)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert respond(model, tokenizer).texts == first.texts
    assert respond(model, tokenizer, seed=2).texts != first.texts


def test_what_ends_is_cut_there_and_the_rest_is_counted(tokenizer: Any) -> None:
    class Counts(LlamaForCausalLM):
        """Writes the next number after the last token; after 30 it ends."""

        def forward(self, input_ids: torch.Tensor, **others: Any) -> Any:
            output = super().forward(input_ids=input_ids, **others)
            output.logits = torch.nn.functional.one_hot((input_ids + 1) % 31, 31).float() * 100
            return output

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Counts(LlamaConfig(vocab_size=31, **sizes))
    found = generate(
        model, tokenizer, [[27], [5]], GenerationRecipe(max_new_tokens=6, sample=False), seed=0, progress=False
    )
    assert found.texts == ["w27 w28 w29", "w5 w6 w7 w8 w9 w10"]
    assert (found.tokens, found.unfinished) == (4 + 6, 1)


def test_pad_left() -> None:
    ids, mask = pad_left([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]
