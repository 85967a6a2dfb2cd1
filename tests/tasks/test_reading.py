"""A student and a teacher of different tokenizers: WordPiece beside byte-level BPE, either way round."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PythonBackend,
    pipeline,
)
from transformers.trainer_callback import TrainerCallback

from geodistill.distillation.sides import Reader, two_sides
from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe
from geodistill.runs import train as train_module
from geodistill.runs.evaluate import evaluate
from geodistill.runs.folder import read_metrics
from geodistill.runs.recipe_file import check_recipe, merge
from geodistill.runs.teacher import PreparedTeacher, prepare_teacher
from geodistill.runs.train import train
from geodistill.tasks.choose import task_of
from geodistill.tasks.loading import ModelSource
from geodistill.tasks.reading import Reading, pair_words, read, student_reader
from geodistill.tasks.text_reader import TextReader, shared_position_limit

MakeRecipe = Callable[..., Recipe]
WORDS = {"loss": "procrustes", "rows": "words", "layers": "uniform"}


@pytest.fixture
def across(content: dict[str, Any], llama: Path, encoder: Path) -> MakeRecipe:
    """The recipe of a WordPiece student of a BPE teacher that is fine-tuned for two steps."""
    student = {"model": str(encoder)}
    objective = {"label": {}, "logits": {}, "features": [WORDS, {"loss": "projection", "rows": "words"}]}
    teacher = {"model": str(llama), "training": {"max_steps": 2, "batch_size": 16}, "cache_dtype": "float32"}
    ours = {**content, "student": student, "objective": objective, "teacher": teacher}

    def make(**changes: Any) -> Recipe:
        return check_recipe(merge(ours, changes))

    return make


def read_beside(teacher: PreparedTeacher, student: Any, reader: Reader | None, *, kinds: Collection[str]) -> Reading:
    """The data of the task as a student reads it beside its teacher."""
    sides = two_sides(student, reader or teacher.reader, teacher.outline, teacher.reader)
    positions = shared_position_limit(student, teacher.outline)
    known = teacher.encoded_within(positions)
    return read(teacher.task, *sides, positions=positions, kinds=kinds, encoded=known)


def reading_of(recipe: Recipe, folder: Path) -> tuple[Reading, PreparedTeacher]:
    teacher = prepare_teacher(recipe.teacher, task_of(recipe), folder, progress=False)
    student = teacher.task.load_model(ModelSource(str(recipe.student.model)), new_head=True)
    reader = student_reader(recipe, teacher.task)
    assert reader is not None
    return read_beside(teacher, student, reader, kinds={"words"}), teacher


def test_a_wordpiece_student_of_a_bpe_teacher(
    across: MakeRecipe, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run: it resumes to the same weights, and the student is saved with WordPiece."""
    training = {"save_steps": 2, "logging_steps": 1}
    whole = train(across(training=training), tmp_path / "whole", progress=False)

    class Interruption(TrainerCallback):
        def __init__(self, title: str) -> None: ...

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3 and "distill" in type(kwargs["model"]).__module__:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "StepBar", Interruption)
        with pytest.raises(KeyboardInterrupt):
            train(across(training=training), tmp_path / "again", shared=tmp_path / "whole")
    again = train(across(training=training), tmp_path / "again", shared=tmp_path / "whole", progress=False)
    first, second = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again.metrics == whole.metrics and again.geometry == whole.geometry

    entries = [entry for entry in read_metrics(tmp_path / "whole") if "loss" in entry and entry["stage"] == "task"]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert {"label", "logits", "procrustes_1_2", "procrustes_2_4", "projection_2_4"} <= entries[0].keys()
    assert all(0 < entry["procrustes_2_4"] < 2 for entry in entries)
    assert [layer["rows"] for layer in whole.geometry] == ["words", "words"]
    assert whole.latency_ms > 0

    folder = tmp_path / "whole" / "student"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(encoder).get_vocab()
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    student = AutoModelForSequenceClassification.from_pretrained(folder)
    assert isinstance(student, BertForSequenceClassification) and student.config.pad_token_id == 0
    found = evaluate(tmp_path / "whole", progress=False)
    assert found["metrics"] == pytest.approx(whole.metrics)
    line = json.loads((tmp_path / "whole" / "predictions.jsonl").read_text().splitlines()[0])
    (answer,) = pipeline("text-classification", str(folder))(line["text"])
    assert answer["label"] == line["prediction"] and answer["score"] == pytest.approx(line["probability"], abs=1e-4)


def test_a_bpe_student_of_a_wordpiece_teacher_learns_of_pairs(
    across: MakeRecipe, classifier: Path, encoder: Path, llama: Path, write_csv: Any, tmp_path: Path
) -> None:
    rows = [(f"what is item {i} of the harbour,the river engine number {i % 7}?", "ab"[i % 2]) for i in range(80)]
    data = {"source": str(write_csv(rows, header="sentence1,sentence2,label")), "max_length": 24, "limit": None}
    training = {"max_steps": 2, "batch_size": 8}
    recipe = across(
        data=data,
        teacher={"model": str(encoder), "training": training, "precision": "float32"},
        student={"model": str(llama)},
        objective={"label": {}, "logits": {}, "features": [WORDS, {"loss": "gram", "rows": "mean"}]},
        training={**training, "gradient_accumulation": 2, "exact_accumulation": True, "logging_steps": 1},
    )
    cached = train(recipe, tmp_path / "cached", progress=False)
    online = across(**merge(recipe.model_dump(), {"teacher": {"cache": False, "cache_dtype": "bfloat16"}}))
    train(online, tmp_path / "online", progress=False)
    first, second = (read_metrics(tmp_path / name) for name in ("cached", "online"))
    for name in ("loss", "label", "logits", "procrustes_1_1", "procrustes_4_2", "gram_4_2"):
        assert first[0][name] == pytest.approx(second[0][name], rel=1e-4), name
    assert cached.geometry[0]["rows"] == "words"
    student = tmp_path / "cached" / "student"
    assert AutoTokenizer.from_pretrained(student).get_vocab() == AutoTokenizer.from_pretrained(llama).get_vocab()
    assert AutoModelForSequenceClassification.from_pretrained(student).config.pad_token_id == 0
    found = evaluate(tmp_path / "cached", progress=False)
    assert found["metrics"] == pytest.approx(cached.metrics)


def test_words_of_one_tokenizer(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The rows are there for a student with the teacher's tokenizer too, where the geometry stays that of tokens."""
    objective = {"features": [WORDS], "label": {}}
    teacher = {"cache_dtype": "float32", "precision": "float32"}
    results = train(make_recipe(objective=objective, teacher=teacher), tmp_path / "cached", progress=False)
    online = make_recipe(objective=objective, teacher={"precision": "float32", "cache": False})
    train(online, tmp_path / "online", progress=False)
    first, second = (read_metrics(tmp_path / name)[0]["procrustes_1_2"] for name in ("cached", "online"))
    assert first == pytest.approx(second, rel=1e-4) and 0 < first < 2
    assert results.geometry[0]["rows"] == "tokens"


@pytest.mark.parametrize("decoder", ["llama"], indirect=True)
def test_decoders_of_two_vocabularies_learn_to_respond(
    instruction_file: Path, decoder: Path, llama: Path, tmp_path: Path
) -> None:
    content = {
        "task": "instructions",
        "data": {"source": str(instruction_file), "max_length": 400, "max_prompt_length": 360},
        "teacher": {"model": str(decoder)},
        "student": {"model": str(llama)},
        "objective": {"label": {}, "features": [WORDS]},
        "training": {"max_steps": 2, "batch_size": 8, "logging_steps": 1},
        "generation": {"max_new_tokens": 4, "seeds": [1], "limit": 4},
    }
    recipe = check_recipe(content)
    reading, taught = reading_of(recipe, tmp_path / "teacher")
    task: Any = taught.task
    for split, examples in reading.examples.items():
        for place, example in enumerate(examples):
            assert example["example_id"] == example["teacher_example_id"] == place
            words = task.instructions.splits[split][example["row"]]["references"][0].split()
            for prefix, tokenizer in (("", reading.reader.tokenizer), ("teacher_", taught.reader.tokenizer)):
                spelt = [""] * len(words)
                for word, token in zip(example[f"{prefix}word_ids"], example[f"{prefix}input_ids"], strict=True):
                    if word >= 0:
                        spelt[word] += str(tokenizer.decode([token]))
                assert [each.strip() for each in spelt] == words
    results = train(recipe, tmp_path / "run", progress=False)
    assert results.metrics["perplexity"] > 1 and results.geometry[0]["rows"] == "words"
    student = tmp_path / "run" / "student"
    assert AutoTokenizer.from_pretrained(student).get_vocab() == reading.reader.tokenizer.get_vocab()
    assert AutoModelForCausalLM.from_pretrained(student).config.vocab_size == len(reading.reader.tokenizer)
    for changes, message in [
        ({"objective": {"logits": {}}}, "the logits of tokens would pair tokens"),
        ({"objective": {"features": [{"loss": "cka", "rows": "response"}]}}, "the rows 'response' would pair tokens"),
        ({"data": {"responses": "teacher"}}, r"responses that the teacher writes are not found\. Set data\.responses"),
    ]:
        with pytest.raises(GeodistillError, match=message):
            train(check_recipe(merge(content, changes)), tmp_path / "refused", fresh=True, progress=False)


def test_what_would_pair_other_tokens_is_refused_with_the_way_out(across: MakeRecipe, encoder: Path) -> None:
    term = {"loss": "cka"}
    stage = {"name": "warm", "data": {}, "objective": {"features": [term]}}
    task = task_of(across())
    for changes in ({"objective": {"features": [WORDS, term]}}, {"stages": [stage]}):
        with pytest.raises(
            GeodistillError, match=r"different vocabularies, and the rows 'tokens' would pair.*rows=words \(or mean"
        ):
            student_reader(across(**changes), task)
    for kind in ("words", "mean", "cls", "last"):
        assert student_reader(across(objective={"features": [{**term, "rows": kind}]}), task) is not None
    same = across(teacher={"model": str(encoder)}, objective={"features": [term]})
    assert student_reader(same, task) is None
    assert student_reader(merge_student(across(), {"teacher_layers": 1}), task) is None


def merge_student(recipe: Recipe, student: dict[str, Any]) -> Recipe:
    return check_recipe({**recipe.model_dump(), "student": student})


def test_a_tokenizer_without_offsets_is_refused(across: MakeRecipe, encoder: Path, tmp_path: Path) -> None:
    class Slow(PythonBackend):
        vocab_size = 3

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 1, "c": 2}

    recipe = across()
    taught = prepare_teacher(recipe.teacher, task_of(recipe), tmp_path / "teacher", progress=False)
    student = taught.task.load_model(ModelSource(str(encoder)), new_head=True)
    with pytest.raises(GeodistillError, match=r"Slow does not tell which characters .*\. Use a model with a fast"):
        read_beside(taught, student, TextReader(Slow(pad_token="a")), kinds={"words"})


def test_every_text_has_the_same_words_on_both_sides(across: MakeRecipe, tmp_path: Path) -> None:
    reading, taught = reading_of(across(data={"max_length": 8, "limit": 30}), tmp_path / "teacher")
    assert reading.rows == "words" and "words" not in reading.encoded["test"][0]
    cut = 0
    for split, examples in reading.examples.items():
        texts = taught.task.examples.splits[split]["text"]  # type: ignore[attr-defined]
        for example, text in zip(examples, texts, strict=True):
            sides = [(example["word_ids"], example["input_ids"], reading.reader.tokenizer)]
            sides.append((example["teacher_word_ids"], example["teacher_input_ids"], taught.reader.tokenizer))
            words = max(example["word_ids"]) + 1
            cut += words < len(text.split())
            for ids, tokens, tokenizer in sides:
                own = [token for word, token in zip(ids, tokens, strict=True) if word >= 0]
                assert sorted(set(ids) - {-1}) == list(range(words))
                spelt = str(tokenizer.decode(own)).lower().replace(" ", "")
                assert spelt == "".join(text.lower().split()[:words])
    assert cut > 30, "many texts are longer than eight tokens"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 63), min_size=1, max_size=6), st.sampled_from(["left", "right"]))
def test_a_batch_is_padded_on_either_side(
    paired: tuple[Reading, PreparedTeacher], positions: list[int], side: str
) -> None:
    reading, taught = paired
    for tokenizer in (reading.reader.tokenizer, taught.reader.tokenizer):
        tokenizer.padding_side = side
    chosen = [reading.examples["train"][position] for position in positions]
    batch = reading.collate(chosen)
    for prefix in ("", "teacher_"):
        mask, ids = batch[f"{prefix}attention_mask"] == 1, batch[f"{prefix}word_ids"]
        assert (ids[~mask] == -1).all() and mask[:, 0 if side == "right" else -1].all()
        for row, kept, example in zip(ids, mask, chosen, strict=True):
            assert row[kept].tolist() == example[f"{prefix}word_ids"]
    assert torch.equal(batch["example_id"], batch["teacher_example_id"])
    assert torch.equal(batch["word_ids"].amax(1), batch["teacher_word_ids"].amax(1))


@pytest.fixture(scope="module")
def paired(
    content: dict[str, Any], llama: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reading, PreparedTeacher]:
    teacher = {"model": str(llama), "training": {"max_steps": 1}}
    objective = {"label": {}}
    recipe = check_recipe({**content, "teacher": teacher, "student": {"model": str(encoder)}, "objective": objective})
    return reading_of(recipe, tmp_path_factory.mktemp("paired"))


def test_texts_that_one_side_dropped_are_left_out() -> None:
    from geodistill.features import TokenWords

    def side(rows: list[int]) -> list[dict[str, Any]]:
        words = TokenWords([(0, 0), (0, 1)], frozenset({0}))
        return [
            {"input_ids": [7, row], "words": words, "row": row, "example_id": place} for place, row in enumerate(rows)
        ]

    examples = pair_words(side([0, 2, 3, 5]), side([1, 2, 5]))
    assert [(each["row"], each["example_id"], each["teacher_example_id"]) for each in examples] == [
        (2, 0, 0),
        (5, 1, 1),
    ]
    assert [each["teacher_input_ids"] for each in examples] == [[7, 2], [7, 5]]
    assert all(each["word_ids"] == each["teacher_word_ids"] == [-1, 0] for each in examples)
    with pytest.raises(GeodistillError, match="short enough for both tokenizers"):
        pair_words(side([0]), side([1]))


def test_texts_are_cut_where_the_shorter_model_ends(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(data={"max_length": 64})
    taught = prepare_teacher(recipe.teacher, task_of(recipe), tmp_path, progress=False)
    longest = max(len(example["input_ids"]) for rows in taught.encoded.values() for example in rows)
    short = BertForSequenceClassification(BertConfig(**{**taught.model.config.to_dict(), "max_position_embeddings": 9}))
    assert longest > 9
    for kinds in ((), {"words"}):
        reading = read_beside(taught, short, None, kinds=kinds)
        for examples in (*reading.examples.values(), *reading.encoded.values()):
            assert max(len(example["input_ids"]) for example in examples) == 9
    reader, encoded = taught.as_read_by(short, None)
    assert reader is taught.reader
    assert max(len(example["input_ids"]) for example in encoded["train"]) == 9
    same = read_beside(taught, taught.model, None, kinds=())
    assert same.encoded is taught.encoded, "not read again where all fits"


def test_both_sides_of_two_tokenizers_are_cut_at_the_shorter_one(across: MakeRecipe, tmp_path: Path) -> None:
    recipe = across(data={"max_length": 64})
    taught = prepare_teacher(recipe.teacher, task_of(recipe), tmp_path, progress=False)
    student = taught.task.load_model(ModelSource(str(recipe.student.model)), new_head=True)
    short = BertForSequenceClassification(BertConfig(**{**student.config.to_dict(), "max_position_embeddings": 9}))
    reading = read_beside(taught, short, student_reader(recipe, taught.task), kinds={"words"})
    for side in ("input_ids", "teacher_input_ids"):
        assert max(len(example[side]) for example in reading.examples["train"]) == 9
