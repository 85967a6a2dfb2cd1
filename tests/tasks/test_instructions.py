from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel, T5Config

from geodistill.distillation.sides import Side
from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.folder import read_metrics
from geodistill.runs.identity import teacher_side
from geodistill.runs.recipe_file import check_recipe, merge
from geodistill.runs.teacher import as_given
from geodistill.runs.train import train
from geodistill.tasks.choose import task_of
from geodistill.tasks.loading import ModelSource, load_tokenizer

FEATURES = [
    {"loss": "procrustes", "weight": 2, "rows": "response", "layers": "uniform"},
    {"loss": "gram", "rows": "response"},
    {"loss": "cka", "rows": "response"},
    {"loss": "projection", "rows": "response"},
]


@pytest.fixture
def recipe(decoder: Path, instruction_file: Path) -> Callable[..., Recipe]:
    content: dict[str, Any] = {
        "task": "instructions",
        "data": {"source": str(instruction_file), "prompt": "plain", "max_length": 64},
        "teacher": {"model": str(decoder), "training": {"max_steps": 2, "batch_size": 8}, "cache_top_k": 16},
        "student": {"teacher_layers": [2, 4]},
        "objective": {"label": {"weight": 0.5}, "logits": {"weight": 0.5}, "features": FEATURES},
        "training": {"max_steps": 3, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1},
        "generation": {"max_new_tokens": 6, "seeds": [1, 2]},
    }
    return lambda **changes: check_recipe(merge(content, changes))


@pytest.mark.parametrize("decoder", ["opt", "llama"], indirect=True)
def test_a_student_is_trained_scored_and_evaluated(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    results = train(recipe(), tmp_path / "run", progress=False)
    assert list(results.metrics) == ["rouge_l", "exact_match", "perplexity"]
    assert 0 <= results.metrics["rouge_l"] <= 1 < results.metrics["perplexity"]
    assert list(results.teacher.metrics) == list(results.metrics)
    assert set(results.validation_metrics) == {"perplexity"}
    details = results.details["test"]
    assert details["seeds"] == [1, 2] and details["tokens_per_second"] > 0 and 0 <= details["unfinished"] <= 1
    assert details["deviation"]["rouge_l"] >= 0
    assert {pair["rows"] for pair in results.geometry} == {"response"}
    assert results.tokens_per_second > 0 and results.peak_megabytes > 0

    logged = read_metrics(tmp_path / "run")[0]
    names = {"label", "logits", "procrustes_1_2", "procrustes_2_4", "gram_2_4", "cka_2_4", "projection_2_4"}
    assert names <= set(logged) and all(logged[name] > 0 for name in names)

    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    assert student.config.num_hidden_layers == 2
    for place in ("teacher", "student"):
        written = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / place)
        assert written.config.use_cache and written.generation_config.use_cache, "else it would generate slowly"
    scores = evaluate(tmp_path / "run")
    assert scores["metrics"] == pytest.approx(results.metrics, rel=1e-5)
    lines = [json.loads(line) for line in Path(scores["predictions"]).read_text().splitlines()]
    assert set(lines[0]) == {"split", "row", "prompt", "responses", "references"}
    assert len(lines[0]["responses"]) == 2 and lines[0]["prompt"].startswith(("Repeat", "Say"))
    assert evaluate(tmp_path / "run", ["generation.sample=false"], split="validation")["details"]["validation"][
        "seeds"
    ] == [1]
    assert train(recipe(), tmp_path / "run", progress=False).fingerprint == results.fingerprint


def test_the_cache_of_the_largest_logits_and_the_teacher_online_agree(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Float32 rows and whole logits say what the teacher says; the largest logits and the rest's mass say less."""
    logs = []
    for name, teacher in (
        ("online", {"cache": False, "cache_top_k": None}),
        ("largest", {"cache_top_k": 100, "cache_dtype": "float32"}),
        ("whole", {"cache_top_k": None, "cache_dtype": "float32"}),
    ):
        train(recipe(teacher={**teacher, "precision": "float32"}), tmp_path / name, progress=False)
        logs.append(read_metrics(tmp_path / name)[0])
    online, largest, whole = logs
    for name in ("label", "procrustes_2_4", "gram_2_4", "cka_2_4"):
        assert largest[name] == whole[name] == pytest.approx(online[name], rel=1e-4, abs=1e-6), name
    assert whole["logits"] == pytest.approx(online["logits"], rel=1e-4)
    assert 0 < largest["logits"] < whole["logits"]


def test_perplexity_falls_when_the_teacher_learns(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    few = train(recipe(), tmp_path / "few", progress=False)
    longer = {"training": {"max_steps": 40, "batch_size": 8, "learning_rate": 3e-3}}
    many = train(recipe(teacher=longer), tmp_path / "many", progress=False)
    assert many.teacher.metrics["perplexity"] < 0.5 * few.teacher.metrics["perplexity"]


@pytest.mark.parametrize("decoder", ["opt", "llama"], indirect=True)
def test_prompts_and_padding_reach_no_feature_term(recipe: Callable[..., Recipe], decoder: Path) -> None:
    from geodistill.distillation.objective import Objective
    from geodistill.distillation.signals import Teacher
    from geodistill.recipe import ObjectiveRecipe

    task = task_of(recipe())
    source = ModelSource(str(decoder))
    model, reader = task.load_model(source, new_head=False), task.load_reader(source)
    batch = reader.collate(task.encode(model, reader)["train"][:6])
    student = AutoModelForCausalLM.from_pretrained(decoder, num_hidden_layers=2)
    objective = Objective(ObjectiveRecipe(features=FEATURES[:3]).terms, student=student, teacher=model)
    signals = Teacher(model, objective.requests, precision="float32")(batch)
    outputs = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    response = batch["labels"] != -100

    def loss(noise: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        hidden = {
            point: torch.where(response[..., None], outputs.hidden_states[point], noise).detach().requires_grad_()
            for point in objective.student_points
        }
        value = objective(outputs, hidden, signals, batch).loss
        return value, list(torch.autograd.grad(value, list(hidden.values())))

    (clean, gradients), (noisy, others) = loss(0.0), loss(float("nan"))
    assert torch.equal(clean, noisy)
    for a, b in zip(gradients, others, strict=True):
        assert torch.equal(a, b) and a[response].abs().max() > 0 and not a[~response].any()


def test_what_cannot_be_done_is_said(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="There is no metric 'rouge' of instructions"):
        train(recipe(data={"metrics": ["rouge"]}), tmp_path / "a", progress=False)
    with pytest.raises(GeodistillError, match="has no chat template"):
        train(recipe(data={"prompt": "chat"}), tmp_path / "b", progress=False)


def test_the_tokenizer_is_saved_with_the_student(recipe: Callable[..., Recipe], tmp_path: Path, decoder: Path) -> None:
    train(recipe(), tmp_path / "run", progress=False)
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "run" / "student", decoder))
    assert ours.get_vocab() == theirs.get_vocab()


def test_the_student_may_learn_what_its_teacher_writes(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    learning = recipe(data={"responses": "teacher"})
    train(learning, tmp_path / "run", progress=False, shared=tmp_path / "shared")
    (written,) = (tmp_path / "shared" / "cache").glob("responses-*.jsonl")
    responses = [json.loads(line) for line in written.read_text().splitlines()]

    task = task_of(learning)
    folder = str(tmp_path / "shared" / "teacher")
    model, reader = task.load_model(ModelSource(folder), new_head=False), task.load_reader(ModelSource(folder))
    given = task.encode(model, reader)["train"]
    side = teacher_side(as_given(learning.teacher, folder), folder)
    where = {"teacher_side": side, "folder": tmp_path / "shared" / "cache", "positions": 512, "progress": False}
    learnt = task.learnt(given, Side(model, reader), **where)  # type: ignore[arg-type]
    assert len(list((tmp_path / "shared" / "cache").glob("responses-*.jsonl"))) == 1, "read, not written again"
    for example, old, response in zip(learnt, given, responses, strict=True):
        asked = old["labels"].count(-100)
        assert example["input_ids"] == old["input_ids"][:asked] + response
        assert example["labels"] == [-100] * asked + response and 1 <= len(response) <= 6
        assert len(example["attention_mask"]) == len(example["special_tokens_mask"]) == len(example["input_ids"])
    assert any(example["input_ids"] != old["input_ids"] for example, old in zip(learnt, given, strict=True))

    (tmp_path / "shared" / "cache" / written.name).write_text("[1]\n")
    with pytest.raises(GeodistillError, match="holds 1 responses"):
        task.learnt(given, Side(model, reader), **where)  # type: ignore[arg-type]


def test_a_teacher_may_be_held_in_half_of_the_memory(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    half = recipe(teacher={"weights": "bfloat16"})
    results = train(half, tmp_path / "run", progress=False)
    whole = train(recipe(), tmp_path / "whole", progress=False)
    assert results.metrics["perplexity"] == pytest.approx(whole.metrics["perplexity"], rel=0.05)
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    assert next(student.parameters()).dtype == torch.float32


@pytest.mark.parametrize("weights", ["8bit", "4bit"])
def test_a_teacher_may_be_held_in_quantised_weights(
    weights: str, recipe: Callable[..., Recipe], decoder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="make test installs it")
    sizes = dict.fromkeys(("hidden_size", "word_embed_proj_dim", "ffn_dim", "intermediate_size"), 128)
    teacher = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(decoder, head_dim=32, **sizes))
    teacher.save_pretrained(tmp_path / "teacher")
    load_tokenizer(ModelSource(str(decoder))).save_pretrained(tmp_path / "teacher")
    given = {
        "teacher": {"model": str(tmp_path / "teacher"), "training": None},
        "student": {"teacher_layers": None, "model": str(decoder)},
    }
    whole = train(recipe(**given), tmp_path / "whole", progress=False)
    results = train(recipe(**merge(given, {"teacher": {"weights": weights}})), tmp_path / "run", progress=False)
    assert results.teacher.parameters == whole.teacher.parameters
    assert results.teacher.megabytes < 0.8 * whole.teacher.megabytes
    perplexities = results.teacher.metrics["perplexity"], whole.teacher.metrics["perplexity"]
    assert perplexities[0] != perplexities[1] and perplexities[0] == pytest.approx(perplexities[1], rel=0.3)
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "student")
    assert next(student.parameters()).dtype == torch.float32

    with pytest.raises(GeodistillError, match="cut out of a teacher whose weights are quantised"):
        train(recipe(teacher={**given["teacher"], "weights": weights}), tmp_path / "cut", progress=False)


def test_quantised_weights_need_a_package(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(GeodistillError, match=r"bitsandbytes package is not installed.*geodistill\[quantization\]"):
        train(recipe(teacher={"training": None, "weights": "8bit"}), tmp_path / "run", progress=False)


def test_labels_alone_ask_nothing_of_the_teacher(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    train(recipe(objective={"label": {}}), tmp_path / "run", progress=False, shared=tmp_path / "shared")
    assert not list((tmp_path / "shared").glob("cache/*/manifest*"))
    assert "label" in read_metrics(tmp_path / "run")[0]


@pytest.mark.parametrize("settings", [{}, {"cache": False, "cache_top_k": None}, {"cache_top_k": None}])
@pytest.mark.parametrize("decoder", ["opt", "llama"], indirect=True)
def test_vocabularies_padded_to_different_sizes_are_cut_to_the_tokenizer(
    recipe: Callable[..., Recipe], decoder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """A teacher with 16 and a student with 48 logits that stand for no token learn as they would without them."""
    tokenizer, terms = load_tokenizer(ModelSource(str(decoder))), []
    for name, more in (("plain", (0, 0)), ("padded", (16, 48))):
        folders = []
        for side, extra in zip(("teacher", "student"), more, strict=True):
            model, folder = AutoModelForCausalLM.from_pretrained(decoder), tmp_path / name / side
            model.resize_token_embeddings(model.config.vocab_size + extra, mean_resizing=False)
            with torch.no_grad():
                model.get_output_embeddings().weight[len(tokenizer) :] = 9.0  # never to be seen
                model.get_output_embeddings().weight.mul_(1.0 if side == "teacher" else 0.5)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            folders.append(str(folder))
        teacher = {"model": folders[0], "training": None, "precision": "float32", "cache_top_k": 16, **settings}
        run = recipe(teacher=teacher, student={"model": folders[1]}, objective={"logits": {}}, generation={"limit": 2})
        train(run, tmp_path / name / "run", progress=False)
        terms.append([entry["logits"] for entry in read_metrics(tmp_path / name / "run") if "logits" in entry])
    assert terms[0] == pytest.approx(terms[1], rel=1e-4) and all(value > 0 for value in terms[0])


def test_models_that_cannot_speak_are_refused(recipe: Callable[..., Recipe], decoder: Path, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    T5Config(vocab_size=320).save_pretrained(tmp_path / "t5")
    for name, said in (("bert", "sees later tokens"), ("t5", "is an encoder–decoder")):
        load_tokenizer(ModelSource(str(decoder))).save_pretrained(tmp_path / name)
        for changes in ({"teacher": {"model": str(tmp_path / name)}}, {"student": {"model": str(tmp_path / name)}}):
            with pytest.raises(GeodistillError, match=f"'{tmp_path / name}' .*{said}"):
                train(recipe(**changes), tmp_path / "run", progress=False, fresh=True)
