from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, ByT5Tokenizer

from geodistill.errors import GeodistillError
from geodistill.recipe import TeacherRecipe
from geodistill.tasks.loading import (
    ModelSource,
    check_vocabulary,
    load_tokenizer,
    same_vocabulary,
    weight_settings,
)
from geodistill.tasks.text_reader import TextReader

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 99}


def test_what_cannot_be_loaded_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match=rf"'{tmp_path}' cannot be loaded.*Look whether its files are whole"):
        load_tokenizer(ModelSource(str(tmp_path)))

    def unreachable(path: str, **settings: Any) -> None:
        raise OSError("We couldn't connect.\nA second line.")

    with pytest.raises(GeodistillError, match=r"'some/model' cannot be loaded: We couldn't connect\.") as raised:
        ModelSource("some/model").load(unreachable)
    assert "hub" in raised.value.remedy and "second line" not in str(raised.value)


def test_a_revision_is_of_a_hub_model(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match=r"A revision is of a model on the hub, .* Leave the revision out"):
        load_tokenizer(ModelSource(str(tmp_path), "v2"))


def test_what_is_passed_on() -> None:
    def settings(source: ModelSource, **more: Any) -> Any:
        return source.load(lambda path, **settings: settings, **more)

    plain = {"trust_remote_code": False}
    assert settings(ModelSource("some/model"), dtype=torch.float32) == {**plain, "dtype": torch.float32}
    assert settings(ModelSource("some/model", "v2")) == {**plain, "revision": "v2"}
    assert settings(ModelSource("some/model", trust_remote_code=True)) == {"trust_remote_code": True}


def test_the_teacher_of_a_recipe() -> None:
    recipe = TeacherRecipe(model="some/model", revision="v2", trust_remote_code=True, weights="bfloat16")
    assert ModelSource.of_teacher(recipe) == ModelSource("some/model", "v2", True, "bfloat16", "teacher")


def test_weights_are_held_as_asked() -> None:
    assert weight_settings("bfloat16") == {"dtype": torch.bfloat16}
    assert weight_settings("float32") == {"dtype": torch.float32}


def test_a_vocabulary_is_the_same_or_not(encoder: Path) -> None:
    teacher, student = load_tokenizer(ModelSource(str(encoder))), load_tokenizer(ModelSource(str(encoder)))
    assert same_vocabulary(student, teacher)
    student.add_tokens(["geodistill"])
    assert not same_vocabulary(student, teacher)


def test_a_tokenizer_without_padding_pads_with_its_end_or_is_refused(encoder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    assert tokenizer.pad_token == "[PAD]"
    tokenizer.pad_token = None
    with pytest.raises(GeodistillError, match="neither a padding token nor an end of sequence"):
        TextReader(tokenizer).collate([{"input_ids": [1]}])
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path)
    ending = load_tokenizer(ModelSource(str(tmp_path)))
    assert ending.pad_token == "[SEP]"
    model = AutoModel.from_config(BertConfig(**SIZES, pad_token_id=None))
    TextReader(ending).configure(model)
    TextReader(tokenizer).configure(model)
    assert model.config.pad_token_id == ending.pad_token_id


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "gpt2", "llama", "mpnet", "deberta-v2", "xlnet", "t5", "modernbert"]
)
@pytest.mark.parametrize("with_settings", [False, True])
def test_a_folder_without_a_vocabulary_is_refused(family: str, with_settings: bool, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    if with_settings:
        (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    with pytest.raises(GeodistillError, match=r"has no tokenizer|tokenizer of the model .* cannot be loaded") as caught:
        load_tokenizer(ModelSource(str(tmp_path)))
    assert "tokenizer" in caught.value.remedy


def test_a_tokenizer_that_was_saved_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    AutoConfig.for_model("bert").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    with pytest.raises(GeodistillError, match="its tokenizer knows 5 tokens, and the model 30,522"):
        load_tokenizer(ModelSource(str(tmp_path)))


def test_a_tokenizer_far_smaller_than_its_model_is_refused(encoder: Path) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    check_vocabulary(tokenizer, "some/model", None)
    check_vocabulary(tokenizer, "some/model", 100_000)
    with pytest.raises(GeodistillError, match="knows 30,522 tokens, and the model 4,000,000"):
        check_vocabulary(tokenizer, "some/model", 4_000_000)


def test_a_tokenizer_of_bytes_needs_no_vocabulary_file() -> None:
    check_vocabulary(ByT5Tokenizer(), "some/model", 384)
