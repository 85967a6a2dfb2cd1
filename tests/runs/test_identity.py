"""Every key of a recipe either makes another run, or is listed with the reason why it does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel

from geodistill.data.examples import load_examples
from geodistill.data.instructions import load_instructions
from geodistill.recipe import (
    ColumnsRecipe,
    DataRecipe,
    FeatureTerm,
    GenerationRecipe,
    QuantizationRecipe,
    Recipe,
    TeacherRecipe,
    TrainingRecipe,
)
from geodistill.runs.identity import (
    SEEN_OTHERWISE,
    WITHOUT_EFFECT,
    comparison_fingerprint,
    run_fingerprint,
    settings_of,
    student_fingerprint,
    teacher_fingerprint,
    teacher_side,
)
from geodistill.runs.recipe_file import check_recipe
from geodistill.tasks.classification import Classification
from geodistill.tasks.instructions import InstructionFollowing
from geodistill.tasks.task import Task

FULL = Recipe.model_validate(
    {
        "teacher": {"model": "someone/teacher", "training": {}},
        "student": {"model": "someone/student", "training": {}, "lora": {}},
        "objective": {"label": {}, "logits": {}, "features": [{"loss": "gram"}]},
        "teacher_objective": {"label": {}},
        "stages": [
            {
                "name": "first",
                "data": {},
                "objective": {"features": [{"loss": "cka"}]},
                "teacher_objective": {"logits": {}},
            }
        ],
        "compare": {},
    }
).model_copy(update={"quantization": QuantizationRecipe()})
FULL = FULL.model_copy(
    update={"data": FULL.data.model_copy(update={"columns": ColumnsRecipe(student="one", teacher="other")})}
)
"""A recipe with every section there is, as no single task has them; adapters and quantisers do not go together."""


def task(fingerprint: str = "rows", scoring: str = "scoring") -> Task:
    return cast(Task, SimpleNamespace(fingerprint=fingerprint, scoring=scoring))


TASKS = {"first": task("rows of the stage"), "task": task()}


def keys_of(section: BaseModel, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key that holds a value, in all sections and lists of sections."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from keys_of(value, (*path, name))
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for place, item in enumerate(value):
                yield from keys_of(item, (*path, name, place))
        else:
            yield (*path, name)


def options_run(**options: Any) -> str:
    """The fingerprint of a run with these options of a loss."""
    features = [{"loss": "gram", **options}]
    content = {"student": {"model": "someone/student"}, "teacher": {"model": "someone/teacher"}}
    recipe = check_recipe({**content, "objective": {"features": features}})
    return run_fingerprint(recipe, {"task": task()})


def test_an_option_of_a_loss_makes_another_run_unless_it_is_the_default() -> None:
    assert options_run() == options_run(center=True, rows="tokens") == options_run(squared=True)
    assert len({options_run(), options_run(center=False), options_run(squared=False)}) == 3


def changed(section: Any, path: tuple[Any, ...]) -> Any:
    """A copy with another value at a path."""
    if not path:
        return "another value"
    if isinstance(section, list):
        return [changed(item, path[1:]) if place == path[0] else item for place, item in enumerate(section)]
    return section.model_copy(update={path[0]: changed(getattr(section, path[0]), path[1:])})


def listed_names(section: Any, path: tuple[Any, ...]) -> Iterator[str]:
    """The names, as SECTION.key, of a key and of the sections around it."""
    for key in path:
        if isinstance(section, list):
            section = section[key]
        else:
            yield f"{type(section).__name__}.{key}"
            section = getattr(section, key)


@pytest.mark.parametrize("path", list(keys_of(FULL)), ids=lambda path: ".".join(map(str, path)))
def test_each_key_makes_another_run_or_is_listed(path: tuple[Any, ...]) -> None:
    names = list(listed_names(FULL, path))
    other = changed(FULL, path)
    if any(name in WITHOUT_EFFECT for name in names):
        assert run_fingerprint(other, TASKS) == run_fingerprint(FULL, TASKS)
    elif any(name in SEEN_OTHERWISE for name in names):
        assert settings_of(other) == settings_of(FULL)
    else:
        assert run_fingerprint(other, TASKS) != run_fingerprint(FULL, TASKS)


def test_the_order_of_rates_makes_another_run() -> None:
    rates = {"*.bias": 1e-3, "head.*": 1e-4}
    one, two = (TrainingRecipe(rates=dict(pairs)) for pairs in (rates.items(), reversed(rates.items())))
    assert one == two and settings_of(one) != settings_of(two)
    full = [FULL.model_copy(update={"training": training}) for training in (one, two)]
    assert run_fingerprint(full[0], TASKS) != run_fingerprint(full[1], TASKS)


def test_every_section_is_walked() -> None:
    """A section that `FULL` leaves out would be one whose keys nobody looks at."""
    walked = {name.split(".")[0] for path in keys_of(FULL) for name in listed_names(FULL, path)}

    def sections(kind: type[BaseModel]) -> set[str]:
        # A feature term with the options of a loss as fields is checked, and is no section of a recipe.
        below = [] if kind is FeatureTerm else kind.__subclasses__()
        return {each.__name__ for each in below} | {name for each in below for name in sections(each)}

    base = FULL.__class__.__mro__[1]
    assert issubclass(base, BaseModel) and sections(base) == walked


def test_what_is_listed_exists_and_has_a_reason() -> None:
    names = {name for path in keys_of(FULL) for name in listed_names(FULL, path)}
    for listed in (WITHOUT_EFFECT, SEEN_OTHERWISE):
        assert set(listed) <= names and all(len(reason.split()) > 4 for reason in listed.values())
    assert not set(WITHOUT_EFFECT) & set(SEEN_OTHERWISE)


@pytest.mark.parametrize(
    "tasks",
    [
        {**TASKS, "task": task("other rows")},
        {**TASKS, "task": task(scoring="other metrics")},
        {**TASKS, "first": task("other rows of the stage")},
    ],
)
def test_other_rows_make_another_run(tasks: dict[str, Task]) -> None:
    assert run_fingerprint(FULL, tasks) != run_fingerprint(FULL, TASKS)


def write_model(folder: Path, weights: str) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return str(folder)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_model_in_a_folder_is_known_by_its_files(side: str, tmp_path: Path) -> None:
    def of(folder: Path, weights: str) -> str:
        section = getattr(FULL, side).model_copy(update={"model": write_model(folder, weights)})
        return run_fingerprint(FULL.model_copy(update={side: section}), TASKS)

    first = of(tmp_path / "one", "weights")
    assert of(tmp_path / "moved", "weights") == first != of(tmp_path / "two", "other weights")


def test_a_teachers_weights_do_not_depend_on_how_they_are_held() -> None:
    def of(**others: Any) -> tuple[str, str]:
        recipe = TeacherRecipe(model="someone/teacher", training=TrainingRecipe(), **others)
        return teacher_fingerprint(recipe, task()), teacher_side(recipe, "folder")

    first = of()
    assert of(cache=False) == first
    for how in ({"weights": "8bit"}, {"precision": "float32"}):
        assert of(**how)[0] == first[0] and of(**how)[1] != first[1]
    for loaded in ({"revision": "v2"}, {"trust_remote_code": True}):
        assert of(**loaded)[0] != first[0] and of(**loaded)[1] != first[1]


def test_a_given_teacher_does_not_depend_on_the_data() -> None:
    given, trained = TeacherRecipe(model="a/b"), TeacherRecipe(model="a/b", training=TrainingRecipe())
    assert teacher_fingerprint(given, task()) == teacher_fingerprint(given, task("other rows"))
    assert teacher_fingerprint(trained, task()) != teacher_fingerprint(trained, task("other rows"))
    more = TeacherRecipe(model="a/b", training=TrainingRecipe(epochs=4))
    assert teacher_fingerprint(trained, task()) != teacher_fingerprint(more, task())


def test_a_fine_tuned_student_is_the_same_under_any_objective_and_adapters() -> None:
    def of(**changes: Any) -> str:
        return student_fingerprint(FULL.model_copy(update=changes), task())

    bare = FULL.student.model_copy(update={"lora": None})
    longer = FULL.student.model_copy(update={"training": TrainingRecipe(epochs=9)})
    assert of() == of(objective=FULL.stages[0].objective) == of(student=bare) != of(student=longer)


def test_a_comparison_is_known_by_what_its_runs_share() -> None:
    other = FULL.model_copy(update={"training": TrainingRecipe(epochs=9)})
    assert comparison_fingerprint(other, task()) == comparison_fingerprint(FULL, task())
    held = FULL.model_copy(update={"teacher": FULL.teacher.model_copy(update={"precision": "float32"})})
    known = [comparison_fingerprint(FULL, task()), comparison_fingerprint(held, task())]
    known += [comparison_fingerprint(FULL, task("other rows")), comparison_fingerprint(FULL, task(scoring="other"))]
    assert len(set(known)) == 4


CLASSES = {
    "source": {"source": "other"},
    "text": {"text": "second"},
    "text_pair": {"text": "text", "text_pair": "second"},
    "label": {"label": "stars"},
    "problem": {"problem": "regression"},
    "metrics": {"metrics": ["macro_f1"]},
    "train_split": {"train_split": "extra"},
    "validation_split": {"validation_split": "extra"},
    "test_split": {"test_split": "extra"},
    "validation_share": {"source": "train.csv", "validation_share": 0.3},
    "test_share": {"source": "train.csv", "test_share": 0.5},
    "seed": {"source": "train.csv", "seed": 3},
    "limit": {"limit": 5},
    "max_length": {"max_length": 9},
}
INSTRUCTIONS = {
    "instruction": {"instruction": "question"},
    "input": {"input": "about"},
    "output": {"output": "answer"},
    "messages": {"source": "talks.jsonl", "messages": "other"},
    "prompt": {"prompt": "plain"},
    "max_prompt_length": {"max_prompt_length": 9},
    "metrics": {"metrics": ["rouge_l"]},
}


def write_rows(folder: Path) -> Path:
    for place, name in enumerate(("train", "validation", "test", "extra")):
        rows = [f"{name} {row},{place} {row} more,{row % 2},{(row + place) % 3}" for row in range(30)]
        (folder / f"{name}.csv").write_text("\n".join(["text,second,label,stars", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("key", CLASSES)
def test_each_key_of_classified_data_is_seen(key: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_rows(tmp_path / "other").joinpath("test.csv").unlink()
    (tmp_path / "given").mkdir()
    write_rows(tmp_path / "given")

    def of(**changes: Any) -> str:
        where = {"source": str(tmp_path / "given"), "label": "label", "text": "text", **changes}
        return Classification(load_examples(DataRecipe(**where))).scoring

    change = dict(CLASSES[key])
    base = {}
    if change.get("source") == "train.csv":
        change["source"] = base["source"] = str(tmp_path / "given" / "train.csv")
    elif "source" in change:
        change["source"] = str(tmp_path / change["source"])
    assert of(**base) == of(**base) != of(**change)


def test_the_place_of_the_rows_does_not_count(tmp_path: Path) -> None:
    known = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        known.add(load_examples(DataRecipe(source=str(write_rows(tmp_path / name)), label="label")).fingerprint)
    assert len(known) == 1


@pytest.mark.parametrize("key", INSTRUCTIONS)
def test_each_key_of_instructions_is_seen(key: str, tmp_path: Path) -> None:
    row = {"instruction": "Say", "question": "Ask", "input": "it", "about": "that", "output": "yes", "answer": "no"}
    rows = [{name: f"{value} {place}" for name, value in row.items()} for place in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = [{"role": "user", "content": "Say"}, {"role": "assistant", "content": "yes"}]
    talks = [{"messages": [{**turn, "content": f"{turn['content']} {place}"} for turn in asked]} for place in range(30)]
    talks = [{**talk, "other": talk["messages"][:1] + asked[1:]} for talk in talks]
    (tmp_path / "talks.jsonl").write_text("\n".join(map(json.dumps, talks)) + "\n")

    def of(**changes: Any) -> str:
        columns = {"instruction": "instruction", "input": "input", "output": "output"}
        where: dict[str, Any] = {"source": "rows.jsonl", **columns, **changes}
        if where["source"] == "talks.jsonl":
            where |= dict.fromkeys(columns)
        data = DataRecipe(**{**where, "source": str(tmp_path / where["source"])})
        return InstructionFollowing(load_instructions(data), data, GenerationRecipe()).scoring

    change = INSTRUCTIONS[key]
    base = {"source": change["source"], "messages": "messages"} if "source" in change else {}
    assert of(**base) == of(**base) != of(**change)


def test_every_key_that_is_seen_in_the_rows_has_a_case() -> None:
    data = {name.split(".")[1] for name in SEEN_OTHERWISE if name.startswith("DataRecipe.")}
    # The configuration is of hub data sets alone; columns have their case in tests/data/test_paired.py, and sessions in
    # tests/data/test_neural.py.
    assert data - {"configuration", "columns", "sessions"} == {*CLASSES, *INSTRUCTIONS}


def test_scores_of_instructions_depend_on_how_responses_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"instruction": f"Say {place}", "output": "yes"}) for place in range(30)) + "\n"
    )
    data = DataRecipe(source=str(tmp_path / "rows.jsonl"))
    loaded = load_instructions(data)
    make: Callable[..., InstructionFollowing] = lambda **how: InstructionFollowing(  # noqa: E731
        loaded, data, GenerationRecipe(**how)
    )
    assert make().scoring == make().scoring != make(max_new_tokens=9).scoring
    assert make().fingerprint == make(max_new_tokens=9).fingerprint
