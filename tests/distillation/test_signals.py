from __future__ import annotations

from typing import Any

import pytest
import torch
from training import counted
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from geodistill.distillation import signals as teacher_module
from geodistill.distillation.signals import FeatureRequest, Teacher, bfloat16_is_faster, model_inputs, teacher_view
from geodistill.errors import GeodistillError

MODULE = "bert.encoder.layer.0.attention"


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=3, **sizes))


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    attention = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    special = torch.tensor([[1, 0, 0, 0, 0, 1], [1, 0, 0, 1, 1, 1]])
    return {
        "input_ids": torch.randint(1, 50, (2, 6), generator=generator) * attention,
        "attention_mask": attention,
        "token_type_ids": torch.zeros_like(attention),
        "special_tokens_mask": special,
        "labels": torch.tensor([0, 2]),
        "example_id": torch.tensor([7, 8]),
    }


def hidden_states(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model.eval()(**model_inputs(model, inputs), output_hidden_states=True).hidden_states


def test_it_runs_in_evaluation_mode_without_gradients(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    model.train()
    teacher = Teacher(model, [FeatureRequest(-1, "tokens")], precision="float32")
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    first, second = teacher(inputs), teacher(inputs)
    assert torch.equal(first.logits, second.logits)
    for tensor in (first.logits, *(rows.values for rows in first.features.values())):
        assert not tensor.requires_grad


def test_it_is_no_module() -> None:
    assert not issubclass(Teacher, torch.nn.Module)


def test_rows_are_the_ones_asked_for(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    requests = [
        FeatureRequest(-1, "tokens"),
        FeatureRequest(1, "cls"),
        FeatureRequest(0, "last"),
        FeatureRequest(2, "mean"),
        FeatureRequest(2, "mean", special_tokens=False),
        FeatureRequest(MODULE, "cls"),
    ]
    signals = Teacher(model, requests, precision="float32")(inputs)
    hidden = hidden_states(model, inputs)
    attended = inputs["attention_mask"].bool().unsqueeze(-1)
    torch.testing.assert_close(signals.features[requests[0]].values, hidden[3] * attended)
    torch.testing.assert_close(signals.features[requests[1]].values, hidden[1][:, 0])
    torch.testing.assert_close(signals.features[requests[2]].values, torch.stack([hidden[0][0, 5], hidden[0][1, 3]]))
    means = torch.stack([hidden[2][0].mean(0), hidden[2][1, :4].mean(0)])
    torch.testing.assert_close(signals.features[requests[3]].values, means)
    inner = torch.stack([hidden[2][0, 1:5].mean(0), hidden[2][1, 1:3].mean(0)])
    torch.testing.assert_close(signals.features[requests[4]].values, inner)
    captured: list[torch.Tensor] = []
    handle = model.get_submodule(MODULE).register_forward_hook(lambda *call: captured.append(call[2][0]))
    hidden_states(model, inputs)
    handle.remove()
    torch.testing.assert_close(signals.features[requests[5]].values, captured[0][:, 0])
    assert list(signals.features) == requests


def test_repeated_requests_are_answered_once(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    teacher = Teacher(model, [FeatureRequest(1, "cls"), FeatureRequest(1, "cls")])
    assert teacher.requests == [FeatureRequest(1, "cls")]
    assert list(teacher(inputs).features) == teacher.requests


def test_logits_are_the_models(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    signals = Teacher(model, precision="float32")(inputs)
    with torch.no_grad():
        expected = model(**model_inputs(model, inputs)).logits
    torch.testing.assert_close(signals.logits, expected, rtol=0, atol=0)
    assert signals.features == {}


def test_it_reads_what_is_its_own(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    teacher = Teacher(model, [FeatureRequest(-1, "tokens")], precision="float32")
    own = {f"teacher_{name}": value for name, value in inputs.items()}
    students = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3)}
    assert teacher_view(inputs) is inputs
    assert teacher_view({**students, **own}) == inputs
    found, expected = teacher({**students, **own}), teacher(inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(counted(found.features[teacher.requests[0]]), counted(expected.features[teacher.requests[0]]))


def test_some_inputs_of_its_own_without_tokens_are_refused(inputs: dict[str, torch.Tensor]) -> None:
    with pytest.raises(GeodistillError, match="'teacher_token_type_ids' for the teacher and no 'teacher_input_ids'"):
        teacher_view({**inputs, "teacher_token_type_ids": inputs["token_type_ids"]})


def test_precision_is_its_own_whatever_autocast_surrounds_it(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    request = FeatureRequest(MODULE + ".output.dense", "tokens")
    outside = {name: Teacher(model, [request], precision=name)(inputs) for name in ("float32", "bfloat16")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = {name: Teacher(model, [request], precision=name)(inputs) for name in ("float32", "bfloat16")}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        assert outside[name].features[request].values.dtype == inside[name].features[request].values.dtype == dtype
        assert outside[name].logits.dtype == dtype
        assert torch.equal(outside[name].logits, inside[name].logits)
    exact, rounded = outside["float32"].logits, outside["bfloat16"].logits.float()
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("faster", [True, False])
def test_auto_takes_bfloat16_where_it_is_faster(
    model: Any, inputs: dict[str, torch.Tensor], faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "bfloat16_is_faster", lambda device: faster)
    expected = Teacher(model, precision="bfloat16" if faster else "float32")(inputs).logits
    assert torch.equal(Teacher(model)(inputs).logits, expected)


def test_bfloat16_is_faster_where_the_processor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for capabilities, faster in (({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert bfloat16_is_faster(device) is faster
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert bfloat16_is_faster(device) is False
    assert bfloat16_is_faster(torch.device("meta")) is False


def test_model_inputs_are_those_the_family_takes(inputs: dict[str, torch.Tensor]) -> None:
    config = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=3)
    distilbert = DistilBertForSequenceClassification(config)
    assert set(model_inputs(distilbert, inputs)) == {"input_ids", "attention_mask"}
    assert set(model_inputs(distilbert, inputs, labels=True)) == {"input_ids", "attention_mask", "labels"}
    assert Teacher(distilbert, [FeatureRequest(1, "cls")])(inputs).logits.shape == (2, 3)


def test_model_inputs_of_a_module_that_names_none_are_all_that_a_tokenizer_makes(
    inputs: dict[str, torch.Tensor],
) -> None:
    class Anything(torch.nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            return inputs["input_ids"].float()

    read = {"input_ids", "attention_mask", "token_type_ids"}
    assert set(model_inputs(Anything(), inputs)) == read
    assert set(model_inputs(Anything(), inputs, labels=True)) == {*read, "labels"}


def test_a_teacher_computes_no_loss() -> None:
    names = ("input_ids", "start_positions", "end_positions")
    inputs = {name: torch.ones(1, 2, dtype=torch.long) for name in names}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForQuestionAnswering(BertConfig(vocab_size=50, **sizes))
    assert set(model_inputs(model, inputs)) == {"input_ids"}
    assert set(model_inputs(model, inputs, labels=True)) == set(names)


@pytest.mark.parametrize("point", [4, -5, "bert.encoder.layer.9"])
def test_a_point_that_does_not_exist_is_refused(model: Any, point: int | str) -> None:
    with pytest.raises(GeodistillError):
        Teacher(model, [FeatureRequest(point, "cls")])


def test_a_decoder_keeps_no_keys_and_values_of_a_text_that_is_read_at_once() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes))
    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    assert model(**inputs).past_key_values is not None
    assert model(**model_inputs(model, inputs)).past_key_values is None
