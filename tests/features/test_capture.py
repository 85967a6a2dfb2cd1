from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
)

from geodistill.errors import GeodistillError
from geodistill.features import (
    Capture,
    find_module,
    hidden_size,
    input_names,
    layer_count,
    map_layers,
    model_config,
    row_widths,
    select_rows,
)

LAYERS = 2
WIDTH = 16
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
IDS = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


def configs() -> dict[str, PretrainedConfig]:
    return {
        "bert": BertConfig(**IDS, **SHAPE),
        "distilbert": DistilBertConfig(**IDS, dim=WIDTH, n_layers=LAYERS, n_heads=2, hidden_dim=24),
        "roberta": RobertaConfig(**IDS, **SHAPE),
        "electra": ElectraConfig(**IDS, **SHAPE, embedding_size=8),
        "deberta-v2": DebertaV2Config(**IDS, **SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
        "mpnet": MPNetConfig(**IDS, **SHAPE),
        "gpt2": GPT2Config(**IDS, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=64),
        "opt": OPTConfig(
            **IDS,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            ffn_dim=24,
            word_embed_proj_dim=8,
            max_position_embeddings=64,
        ),
        "llama": LlamaConfig(**IDS, **SHAPE, num_key_value_heads=2),
        "qwen2": Qwen2Config(**IDS, **SHAPE, num_key_value_heads=2),
    }


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(configs()[family]).eval()


def batch() -> dict[str, torch.Tensor]:
    """Two sentences, the second two tokens shorter."""
    input_ids = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 11, 12, 3, 0, 0]])
    return {"input_ids": input_ids, "attention_mask": (input_ids != 0).long()}


FAMILIES = list(configs())
BLOCK = {
    "bert": "bert.encoder.layer.0",
    "distilbert": "distilbert.transformer.layer.0",
    "roberta": "roberta.encoder.layer.0",
    "electra": "electra.encoder.layer.0",
    "deberta-v2": "deberta.encoder.layer.0",
    "mpnet": "mpnet.encoder.layer.0",
    "gpt2": "transformer.h.0",
    "opt": "model.decoder.layers.0",
    "llama": "model.layers.0",
    "qwen2": "model.layers.0",
}


def hook_count(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_come_from_the_config(family):
    config = configs()[family]
    assert hidden_size(config) == WIDTH
    assert layer_count(config) == LAYERS


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_modules_are_captured_in_every_family(family):
    model = build(family)
    outputs, features = Capture(model, [0, 1, -1, BLOCK[family]])(**batch())
    plain = model(**batch(), output_hidden_states=True)
    assert list(features) == [0, 1, -1, BLOCK[family]]
    for layer in (0, 1, -1):
        assert torch.equal(features[layer], plain.hidden_states[layer])
    assert torch.equal(features[BLOCK[family]], features[1])  # the first block's output is hidden state 1
    assert torch.equal(outputs.logits, plain.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_are_measured_without_a_trace(family):
    model = build(family).train()
    model.get_submodule(BLOCK[family]).eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    widths = row_widths(model, [0, -1, BLOCK[family]])
    assert widths == {0: WIDTH, -1: 8 if family == "opt" else WIDTH, BLOCK[family]: WIDTH}
    assert row_widths(model, [1])[1] == WIDTH
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_alone_ask_for_no_hidden_states():
    model = build("bert")
    outputs, features = Capture(model, ["bert.encoder.layer.1.attention"])(**batch())
    assert outputs.hidden_states is None
    assert features["bert.encoder.layer.1.attention"].shape == (2, 6, WIDTH)


def test_a_model_output_gives_its_first_tensor():
    model = build("bert")
    _, features = Capture(model, ["bert", -1])(**batch())
    assert torch.equal(features["bert"], features[-1])


def test_hooks_are_gone_after_a_call_and_after_an_exception():
    model = build("distilbert")
    capture = Capture(model, ["distilbert.transformer.layer.0", "distilbert.transformer.layer.1"])
    before = hook_count(model)
    capture(**batch())
    assert hook_count(model) == before
    with pytest.raises(IndexError):
        capture(input_ids=torch.tensor([[10_000]]))  # outside the vocabulary
    assert hook_count(model) == before


def test_teacher_and_student_of_different_families_share_rows():
    teacher, student = build("roberta"), build("distilbert").train()
    student_layer, teacher_layer = map_layers("last", LAYERS, LAYERS)[0]
    inputs = batch()
    with torch.no_grad():
        _, teacher_features = Capture(teacher, [teacher_layer])(**inputs)
    _, student_features = Capture(student, [student_layer])(**inputs)
    rows, mask = select_rows(
        student_features[student_layer], {"attention_mask": inputs["attention_mask"]}, kind="tokens"
    )
    targets, targets_mask = select_rows(
        teacher_features[teacher_layer], {"attention_mask": inputs["attention_mask"]}, kind="tokens"
    )
    assert torch.equal(mask, targets_mask)
    (rows[mask] - targets[mask]).square().sum().backward()
    assert student.distilbert.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("point", [1, "bert.encoder.layer.0", "bert.encoder.layer.0.output.dense"])
def test_gradient_checkpointing_gives_the_same_gradients(point):
    def gradients(checkpointing):
        model = build("bert")
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        _, features = Capture(model, [point])(**batch())
        features[point].square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)


def test_features_that_lost_their_gradient_are_refused():
    model = build("bert").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(GeodistillError, match="use_reentrant"):
        Capture(model, ["bert.encoder.layer.0.output.dense"])(**batch())


class Outer(nn.Module):
    """A student under a wrapper, as training code holds it."""

    def __init__(self, student):
        super().__init__()
        self.student = student
        self.capture = Capture(student, [-1, BLOCK["bert"]])

    def forward(self, **inputs):
        _, features = self.capture(**inputs)
        return features[-1].square().sum() + features[BLOCK["bert"]].square().sum()


def test_a_capture_registers_nothing_in_the_module_that_holds_it():
    outer = Outer(build("bert"))
    assert all(name.startswith("student.") for name in outer.state_dict())


def test_a_copy_captures_the_copied_model():
    outer = Outer(build("bert"))
    twin = copy.deepcopy(outer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert twin(**batch()) == 0
    assert outer(**batch()) > 0


def test_the_outer_module_may_be_wrapped_for_distribution(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        plain, wrapped = Outer(build("bert")), Outer(build("bert"))
        plain(**batch()).backward()
        distributed = nn.parallel.DistributedDataParallel(wrapped, find_unused_parameters=True)
        distributed(**batch()).backward()
        # Its end would otherwise come after the group's, and wait for the group's threads without letting go of Python.
        del distributed
        for left, right in zip(plain.parameters(), wrapped.parameters(), strict=True):
            if left.grad is not None:
                torch.testing.assert_close(left.grad, right.grad)
    finally:
        torch.distributed.destroy_process_group()


def test_a_layer_out_of_range_is_refused_early():
    with pytest.raises(GeodistillError, match="0 to 2, or -3 to -1") as error:
        Capture(build("bert"), [3])
    assert "0 is the embedding layer and -1 the last" in error.value.remedy


def test_an_unknown_path_is_met_with_the_nearest():
    with pytest.raises(GeodistillError, match=r"The nearest is 'bert\.encoder\.layer\.1'"):
        Capture(build("bert"), ["encoder.layer.1"])
    with pytest.raises(GeodistillError, match="no submodules"):
        find_module(nn.ReLU(), "encoder")


def test_layers_need_a_transformers_model_and_modules_do_not():
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(GeodistillError, match="Name modules by their path"):
        Capture(plain, [-1])
    _, features = Capture(plain, ["0"])(input=torch.randn(2, 5, 4))
    assert features["0"].shape == (2, 5, 3)


def test_a_module_that_does_not_run_is_told():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Linear(4, 3)
            self.idle = nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(GeodistillError, match="'idle' did not run"):
        Capture(Idle(), ["used", "idle"])(x=torch.randn(2, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_that_others_run_are_listened_to(family):
    """Whether they call the model or its backbone alone, and without a trace in what they get."""
    model = build(family)
    capture = Capture(model, [0, -1, BLOCK[family]])
    expected = capture(**batch())[1]
    for called in (model, model.base_model):
        with capture.listen(with_gradient=True) as found:
            outputs = called(**batch())
        assert outputs.hidden_states is None
        assert outputs.keys() == called(**batch()).keys()
        for point, feature in capture.complete(found).items():
            assert torch.equal(feature, expected[point])
            assert feature.requires_grad


def test_a_caller_that_asks_for_hidden_states_still_gets_them():
    model = build("llama")
    with Capture(model, [1]).listen(with_gradient=True) as found:
        outputs = model(**batch(), output_hidden_states=True)
    assert torch.equal(outputs.hidden_states[1], found[1])


def test_a_pass_that_nobody_ran_is_told():
    capture = Capture(build("bert"), [1, "bert.encoder"])
    with capture.listen(with_gradient=True) as found:
        pass
    with pytest.raises(GeodistillError, match="layer 1 did not run"):
        capture.complete(found)


def test_hooks_of_a_listener_are_gone_after_an_exception():
    model = build("llama")
    model(**batch(), output_hidden_states=True)  # the library leaves hooks
    before = hook_count(model)
    with pytest.raises(RuntimeError), Capture(model, [1, BLOCK["llama"]]).listen(with_gradient=True):
        raise RuntimeError
    assert hook_count(model) == before and not model.base_model._forward_pre_hooks


def test_input_names_are_those_of_the_forward() -> None:
    class Tokens(nn.Module):
        def forward(self, input_ids: torch.Tensor, *, scale: float = 1.0, **others: torch.Tensor) -> torch.Tensor:
            return input_ids * scale

    class Anything(nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return inputs["input_ids"]

    assert input_names(Tokens()) == {"input_ids", "scale"}
    assert input_names(Anything()) is None


def test_widths_of_a_module_that_takes_tokens_alone() -> None:
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 4))
    assert row_widths(model, ["0", "1"], {"input": torch.zeros(1, 2, dtype=torch.long)}) == {"0": 6, "1": 4}

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 6)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.embed(input_ids)

    assert row_widths(Tokens(), ["embed"]) == {"embed": 6}


def test_a_module_that_is_no_transformers_model_has_no_config() -> None:
    config = LlamaConfig(**IDS, **SHAPE)
    model = nn.Linear(2, 2)
    with pytest.raises(GeodistillError, match=r"Linear is not a transformers model"):
        model_config(model)
    model.config = config
    assert model_config(model) is config
