from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.runs.recipe_file import check_recipe, load_recipe, merge, set_dotted, split_override

TEXT = """
student: {width: 64, layers: 2}
objective: {label: {}, logits: {weight: 0.5}, features: [{loss: gram, weight: 2}, {loss: cka}]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("override", "dotted", "value"),
    [
        ("training.epochs=3", "training.epochs", 3),
        ("training.learning_rate=1e-3", "training.learning_rate", 0.001),
        ("training.bf16=true", "training.bf16", True),
        ("teacher.training=null", "teacher.training", None),
        ("teacher.training=", "teacher.training", None),
        ("data.metrics=[accuracy, mcc]", "data.metrics", ["accuracy", "mcc"]),
        ("data.source=a=b.csv", "data.source", "a=b.csv"),
        ("data.source=one", "data.source", "one"),
        ("objective.label={weight: 2}", "objective.label", {"weight": 2}),
    ],
)
def test_an_override_is_read_as_yaml(override: str, dotted: str, value: Any) -> None:
    assert split_override(override) == (dotted, value)


@pytest.mark.parametrize("override", ["training.epochs", "=3", "", "data.metrics=[accuracy", "a={"])
def test_bad_override_syntax(override: str) -> None:
    with pytest.raises(GeodistillError, match=r"is no override|is not valid YAML"):
        split_override(override)


def test_overrides_are_laid_over_the_file_in_order(path: Path) -> None:
    overrides = ["training.epochs=9", "training.epochs=2.5", "objective.features.1.loss=procrustes", "data.limit=7"]
    recipe = load_recipe(path, overrides)
    assert recipe.training.epochs == 2.5 and recipe.data.limit == 7
    assert [term.loss for term in recipe.objective.features] == ["gram", "procrustes"]
    assert recipe.objective.features[0].weight == 2


def test_a_section_that_is_absent_appears() -> None:
    base: dict[str, Any] = {"teacher": {"training": None}}
    assert set_dotted(base, "teacher.training.epochs", 1) == {"teacher": {"training": {"epochs": 1}}}
    assert base == {"teacher": {"training": None}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.features.2.weight=1", "item '2' of a list of 2. Use a number from 0 to 1"),
        ("objective.features.first.weight=1", "item 'first' of a list of 2"),
        ("objective.features.-1.weight=1", "item '-1' of a list of 2"),
        ("stages.0.name=warm", "'stages' in .* is not valid: Input should be a valid list"),
        ("student.width.large=1", "leads into 'student.width', which is a single value"),
        ("training.epoch=1", "Unknown key 'training.epoch' in .*In training: Did you mean 'epochs'"),
        ("training.learning-rate=1", "Unknown key 'training.learning-rate' .*Did you mean 'learning_rate'"),
        ("training.(x)=1", r"Unknown key 'training.\(x\)'"),
        ("trainin.epochs=1", "Unknown key 'trainin' in .*In the top level: Did you mean 'training'"),
        ("objective.features.0.wieght=1", "Unknown key 'objective.features.0.wieght' .*Did you mean 'weight'"),
        ("objective.logits.temp=1", "Unknown key 'objective.logits.temp' .*Did you mean 'temperature'"),
        (
            "objective.logits.divergence=jensen_shanon",
            "'jensen_shanon' is no valid value of 'objective.logits.divergence' .*Did you mean 'jensen_shannon'",
        ),
        ("objective.logits.beta=1", "'objective.logits.beta' in .* is not valid: .*less than 1"),
        ("teacher.training.epoch=1", "Unknown key 'teacher.training.epoch' .*Did you mean 'epochs'"),
        ("training.lr=1", "Unknown key 'training.lr' .*It is called 'training.learning_rate' here"),
        ("teacher.training.num_train_epochs=1", "It is called 'teacher.training.epochs' here"),
        ("per_device_train_batch_size=8", "It is called 'training.batch_size' here"),
        ("training.max_seq_length=8", "It is called 'data.max_length' here"),
        ("training.mixed_precision=bf16", "It is called 'training.bf16' here"),
        ("training.bf16=outo", "'outo' is no valid value of 'training.bf16' .*Did you mean 'auto'"),
        ("training={bf16: true, fp16: true}", "'training' in .* is not valid: 'bf16' and 'fp16' are both true"),
        ("objective.logits.T=4", "It is called 'objective.logits.temperature' here"),
        ("teacher_model=x", "It is called 'teacher.model' here"),
        ("training.optim=sgd", "Set it as a field of .*TrainingArguments: training.arguments.optim"),
        (
            "training.arguments.seed=7",
            "'training.arguments' in .* is not valid: 'seed' has a key of its own. Set 'seed' in the training section",
        ),
        ("teacher.training.arguments.lr_scheduler_type=cosine", "'teacher.training.arguments' .*Set 'schedule' in"),
        ("training.arguments.output_dir=x", "A run decides 'output_dir' by itself. .*--output"),
        ("objective.features.0.loss=procrustez", "'procrustez' is no valid value of .*Did you mean 'procrustes'"),
        (
            "objective.features.0.loss=null",
            "'objective.features.0.loss' in .* is not valid: Input should be a valid string",
        ),
        ("objective.features.0.rows=token", "'token' is no valid value of .*rows'.*Did you mean 'tokens'"),
        ("objective.features.0.layers=unifrom", "'unifrom' is no valid value of .*layers'.*Did you mean 'uniform'"),
        (
            "objective.features.0.normalize=row",
            "'row' is no valid value of .*Did you mean 'rows'. Valid: rows, true, false",
        ),
        ("objective.features.0.layers=[[1, 2, 3]]", "'objective.features.0.layers.0' in .* is not valid: Tuple"),
        ("objective.features.0.layers=[[1, word]]", "'objective.features.0.layers.0.1' in .* is not valid"),
        ("objective.features.0.layers=3", "'objective.features.0.layers' in .* is not valid: .*valid list"),
        ("compare.variants={my-own: 3}", "'compare.variants.my-own' in .* is not valid"),
        ("compare.seeds=[]", "'compare.seeds' in .* is not valid"),
        ("student.initialization=pac", "Did you mean 'pca'"),
        (
            "training.epochs=-1",
            "'training.epochs' in .* is not valid: Input should be greater than or equal to 0. It was -1",
        ),
        ("training.epochs=many", "'training.epochs' .*should be a valid number"),
        ("student.teacher_layers=2", "give exactly one of"),
        ("objective.features=gram", "'objective.features' .*valid list"),
        (
            "teacher_objective={features: [{loss: grom}]}",
            "'grom' is no valid value of 'teacher_objective.features.0.loss' .*Did you mean 'gram'",
        ),
        ("training.rates={'*.bias': 0}", "'training.rates.*bias' in .* is not valid: Input should be greater than 0"),
        ("student=null", "'student' in .* is not valid"),
    ],
)
def test_a_mistake_is_named_with_its_place(path: Path, override: str, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        load_recipe(path, [override])


def test_a_missing_key_is_named() -> None:
    with pytest.raises(GeodistillError, match="The key 'objective' is missing in the recipe"):
        check_recipe({"student": {"width": 1, "layers": 1}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no mapping"),
        (b"- a\n- b\n", "holds no mapping"),
        (b"a: [1, 2\n", "is not valid YAML"),
        (b"a: \xff\xfe\n", "is not valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
        (
            b"1: 2\nstudent: {width: 1, layers: 1}\nobjective: {label: {}}\n",
            "'1' in .* is not valid: Keys should be strings",
        ),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(GeodistillError, match=message):
        load_recipe(path)


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(GeodistillError, match="There is no recipe file"):
            load_recipe(path)


def test_an_item_of_an_empty_list_cannot_be_set() -> None:
    with pytest.raises(GeodistillError, match=r"item '0' of a list of 0. Set the whole list"):
        set_dotted({"stages": []}, "stages.0.name", "warm")


def test_merge_replaces_an_objective_and_joins_other_sections() -> None:
    base = {"training": {"epochs": 1, "seed": 2}, "objective": {"label": {}, "logits": {}}, "stages": [1]}
    partial = {"training": {"epochs": 5}, "objective": {"label": {"weight": 2}}, "stages": []}
    merged = merge(base, partial)
    assert merged == {"training": {"epochs": 5, "seed": 2}, "objective": {"label": {"weight": 2}}, "stages": []}
    assert base["objective"] == {"label": {}, "logits": {}}
    merged["training"]["epochs"] = 0
    assert partial["training"] == {"epochs": 5}
    learning = {"teacher_objective": {"label": {}}}
    assert merge(learning, {"teacher_objective": {"logits": {}}}) == {"teacher_objective": {"logits": {}}}


@pytest.mark.parametrize(
    ("ways", "left"),
    [({"teacher_layers": 2}, {"teacher_layers": 2}), ({"width": 32}, {"width": 32, "layers": 2})],
)
def test_merge_lays_a_student_over_another(ways: dict[str, Any], left: dict[str, Any]) -> None:
    base = check_recipe({"student": {"width": 64, "layers": 2}, "objective": {"label": {}}}).model_dump()
    recipe = check_recipe(merge(base, {"student": ways}))
    named = recipe.student.model_dump(include={"model", "teacher_layers", "width", "layers"}, exclude_none=True)
    assert named == left


def test_exact_accumulation_of_rows_that_do_not_add_up_is_refused_before_anything_is_trained() -> None:
    content: dict[str, Any] = {
        "task": "images",
        "student": {"model": "new:resnet8"},
        "objective": {"features": [{"loss": "pcka", "patch": 4}]},
        "training": {"exact_accumulation": True, "gradient_accumulation": 2},
    }
    with pytest.raises(
        GeodistillError, match=r"'training.exact_accumulation' in .* the rows 'map' that 'pcka' compares"
    ):
        check_recipe(content)
    stage = {
        "name": "first",
        "data": {},
        "objective": {"features": [{"loss": "rcka"}]},
        "training": content["training"],
    }
    changed = {**content, "stages": [stage], "training": {}}
    with pytest.raises(GeodistillError, match=r"'stages.0.training.exact_accumulation' .*'samples' that 'rcka'"):
        check_recipe(changed)
    check_recipe({**content, "training": {"exact_accumulation": True}})


def test_default_rows_follow_another_loss_and_chosen_rows_stay() -> None:
    def rows(another: str, **term: str) -> str | None:
        content = {"task": "images", "student": {"model": "new:resnet8"}, "objective": {"features": [term]}}
        recipe = load_recipe(check_recipe(content), {"objective.features.0.loss": another})
        return recipe.objective.features[0].rows

    assert rows("pcka", loss="cka") == "map"
    assert rows("gram", loss="rcka") == "positions"
    assert rows("gram", loss="cka", rows="pooled") == "pooled"
    with pytest.raises(GeodistillError, match="'pooled', which 'pcka' does not compare"):
        rows("pcka", loss="cka", rows="pooled")


def test_logits_of_tokens_are_not_compared_as_those_of_examples() -> None:
    content = {"task": "instructions", "student": {"teacher_layers": 1}}
    with pytest.raises(GeodistillError, match=r"'objective.features.0.loss' in .* is 'rcka', .* are of tokens"):
        check_recipe({**content, "objective": {"features": [{"loss": "rcka", "rows": "mean"}]}})
