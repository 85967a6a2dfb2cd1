from __future__ import annotations

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    OPTConfig,
    Qwen2Config,
    RobertaConfig,
)

from geodistill.distillation.students.build import build_student
from geodistill.errors import GeodistillError
from geodistill.features import hidden_size, layer_count
from geodistill.recipe import StudentRecipe

LABELS = {0: "dull", 1: "fair", 2: "fine"}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 24}
HEAD = {
    "vocab_size": 40,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "id2label": LABELS,
    "label2id": {name: label for label, name in LABELS.items()},
    "problem_type": "single_label_classification",
}
CONFIGS = {
    "bert": BertConfig(**HEAD, **SHAPE),
    "distilbert": DistilBertConfig(**HEAD, dim=16, n_layers=4, n_heads=4, hidden_dim=24),
    "roberta": RobertaConfig(**HEAD, **SHAPE),
    "electra": ElectraConfig(**HEAD, **SHAPE, embedding_size=8),
    "deberta-v2": DebertaV2Config(**HEAD, **SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "mpnet": MPNetConfig(**HEAD, **SHAPE),
    "gpt2": GPT2Config(**HEAD, n_embd=16, n_layer=4, n_head=4, n_positions=64),
    "opt": OPTConfig(
        **HEAD, hidden_size=16, num_hidden_layers=4, num_attention_heads=4, ffn_dim=24, max_position_embeddings=64
    ),
    "llama": LlamaConfig(**HEAD, **SHAPE, num_key_value_heads=2),
    "qwen2": Qwen2Config(
        **HEAD, **SHAPE, num_key_value_heads=2, use_sliding_window=True, sliding_window=8, max_window_layers=2
    ),
}
FAMILIES = list(CONFIGS)


def teacher(family="bert"):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[family]).eval()


def batch():
    input_ids = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 11, 12, 3, 0, 0]])
    return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long()}


def hidden_states(model):
    with torch.no_grad():
        return model(**batch(), output_hidden_states=True).hidden_states


def assert_same_head(student, source):
    assert type(student) is type(source)
    assert student.config.id2label == LABELS
    assert student.config.label2id == source.config.label2id
    assert student.config.problem_type == "single_label_classification"
    assert student(**batch()).logits.shape == (2, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_student_has_the_shape_asked_for(family):
    source = teacher(family)
    student = build_student(StudentRecipe(width=8, layers=2, heads=2), source, seed=1, sample=[batch()])
    assert_same_head(student, source)
    assert hidden_size(student.config) == 8
    assert layer_count(student.config) == 2
    assert student.config.num_attention_heads == 2
    assert [states.shape[-1] for states in hidden_states(student)] == [8, 8, 8]
    assert not student.training
    assert CONFIGS[family].num_hidden_layers == 4  # the teacher's config does not change


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_of_the_teacher_compute_what_they_did(family):
    source = teacher(family)
    student = build_student(StudentRecipe(teacher_layers=2), source, seed=1)
    assert_same_head(student, source)
    assert layer_count(student.config) == 2
    ours, theirs = hidden_states(student), hidden_states(source)
    assert len(ours) == 3
    for layer in (0, 1):  # a final norm may follow the student's last layer
        torch.testing.assert_close(ours[layer], theirs[layer])
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_layers_take_new_places(family):
    source = teacher(family)
    student = build_student(StudentRecipe(teacher_layers=[2, -1]), source, seed=1)
    own = dict(student.named_parameters())
    moved = 0
    for name, weight in source.named_parameters():
        for old, new in ((1, 0), (3, 1)):
            if f".{old}." in name:
                assert torch.equal(own[name.replace(f".{old}.", f".{new}.")], weight)
                moved += 1
    assert moved > 8
    numbers = {module.layer_idx for module in student.modules() if isinstance(getattr(module, "layer_idx", None), int)}
    assert numbers <= {0, 1}
    assert student(**batch()).logits.isfinite().all()


def test_layer_types_follow_the_layers():
    source = teacher("qwen2")
    assert source.config.layer_types == ["full_attention"] * 2 + ["sliding_attention"] * 2
    student = build_student(StudentRecipe(teacher_layers=[1, 4]), source, seed=1)
    assert student.config.layer_types == ["full_attention", "sliding_attention"]


def test_all_layers_are_the_teacher_itself_but_share_no_memory():
    source = teacher()
    source.requires_grad_(False)
    student = build_student(StudentRecipe(teacher_layers=4), source, seed=1)
    assert torch.equal(student(**batch()).logits, source(**batch()).logits)
    with torch.no_grad():
        for parameter in student.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert source(**batch()).logits.abs().max() > 0


def test_a_low_precision_teacher_has_a_float32_student():
    source = teacher().bfloat16()
    for recipe in (StudentRecipe(teacher_layers=1), StudentRecipe(width=8, layers=1)):
        student = build_student(recipe, source, seed=1)
        assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


@pytest.mark.parametrize("layers, named", [(5, "no layer 5"), ([1, 0], "no layer 0"), ([-5], "no layer -5"), (0, "no")])
def test_a_layer_that_the_teacher_lacks_is_refused(layers, named):
    with pytest.raises(GeodistillError, match=named) as error:
        build_student(StudentRecipe(teacher_layers=layers), teacher(), seed=1)
    assert "layers 1 to 4" in error.value.remedy


def test_shared_blocks_cannot_be_cut_but_can_be_built_anew():
    torch.manual_seed(0)
    source = AutoModelForSequenceClassification.from_config(AlbertConfig(**HEAD, **SHAPE, embedding_size=8)).eval()
    with pytest.raises(GeodistillError, match="cannot be told apart"):
        build_student(StudentRecipe(teacher_layers=2), source, seed=1)
    assert_same_head(build_student(StudentRecipe(width=8, layers=2), source, seed=1), source)


def test_an_encoder_decoder_is_refused():
    config = BartConfig(
        **HEAD, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2
    )
    with pytest.raises(GeodistillError, match="family 'bart'"):
        build_student(StudentRecipe(width=8, layers=1), BartForSequenceClassification(config), seed=1)


def test_sizes_have_their_defaults():
    student = build_student(StudentRecipe(width=128, layers=1), teacher(), seed=1)
    assert student.config.num_attention_heads == 2
    assert student.config.intermediate_size == 512
    assert build_student(StudentRecipe(width=8, layers=1), teacher(), seed=1).config.num_attention_heads == 1
    given = build_student(StudentRecipe(width=8, layers=1, intermediate=12), teacher(), seed=1)
    assert given.config.intermediate_size == 12


@pytest.mark.parametrize("heads, groups", [(4, 2), (2, 1), (1, 1)])
def test_grouped_heads_keep_their_groups_where_they_can(heads, groups):
    student = build_student(StudentRecipe(width=16, layers=1, heads=heads), teacher("llama"), seed=1)
    assert student.config.num_key_value_heads == groups
    assert student.config.head_dim == 16 // heads


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(GeodistillError, match="does not divide into 3 heads") as error:
        build_student(StudentRecipe(width=32, layers=1, heads=3), teacher(), seed=1)
    assert "1, 2, 4" in error.value.remedy


@pytest.mark.parametrize("initialization", ["pca", "random"])
def test_the_seed_decides_and_the_global_state_is_left_alone(initialization):
    recipe, source = StudentRecipe(width=8, layers=1, initialization=initialization), teacher()
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build_student(recipe, source, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again, other = build_student(recipe, source, seed=1), build_student(recipe, source, seed=2)
    for name, weight in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(other.state_dict()[query], first.state_dict()[query])
    words = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(other.state_dict()[words], first.state_dict()[words]) == (initialization == "pca")


def test_a_pretrained_student_of_another_family_takes_the_teachers_head(tmp_path):
    torch.manual_seed(3)
    pretrained = AutoModelForSequenceClassification.from_config(
        DistilBertConfig(vocab_size=40, dim=8, n_layers=1, n_heads=2, hidden_dim=12, num_labels=5)
    )
    pretrained.bfloat16().save_pretrained(tmp_path)
    student = build_student(StudentRecipe(model=str(tmp_path)), teacher(), seed=1)
    assert student.config.model_type == "distilbert"
    assert student.config.id2label == LABELS
    assert student.config.problem_type == "single_label_classification"
    assert student(**batch()).logits.shape == (2, 3)
    words = student.distilbert.embeddings.word_embeddings.weight
    assert torch.equal(words, pretrained.distilbert.embeddings.word_embeddings.weight.float())
    again = build_student(StudentRecipe(model=str(tmp_path)), teacher(), seed=1)
    assert torch.equal(again.classifier.weight, student.classifier.weight)


def test_a_pretrained_decoder_learns_the_teachers_padding_token(tmp_path):
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=3)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    student = build_student(StudentRecipe(model=str(tmp_path)), teacher("gpt2"), seed=1)
    assert student(**batch()).logits.shape == (2, 3)


def test_a_language_model_has_a_language_model_for_a_student(tmp_path):
    source = LlamaForCausalLM(CONFIGS["llama"])
    student = build_student(StudentRecipe(width=8, layers=1, heads=2), source, seed=1)
    assert type(student) is LlamaForCausalLM
    student.save_pretrained(tmp_path)
    assert type(build_student(StudentRecipe(model=str(tmp_path)), source, seed=1)) is LlamaForCausalLM


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(GeodistillError, match="cannot be loaded"):
        build_student(StudentRecipe(model=str(tmp_path)), teacher(), seed=1)


def test_damaged_weights_are_refused(tmp_path):
    teacher().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(GeodistillError, match="cannot be loaded"):
        build_student(StudentRecipe(model=str(tmp_path)), teacher(), seed=1)


def test_an_unknown_bundled_student_is_met_with_the_nearest():
    with pytest.raises(GeodistillError, match="bundled:minilm-l3"):
        build_student(StudentRecipe(model="bundled:minilm-l33"), teacher(), seed=1)


def test_a_bare_encoder_has_a_bare_encoder(tmp_path):
    source = BertModel(BertConfig(vocab_size=40, **SHAPE))
    BertForSequenceClassification(BertConfig(vocab_size=40, **SHAPE)).save_pretrained(tmp_path)
    assert type(build_student(StudentRecipe(model=str(tmp_path)), source, seed=1)) is BertModel
