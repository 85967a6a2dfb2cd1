"""The neural transformer: what it computes, and what must not change it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from geodistill.errors import GeodistillError
from geodistill.models import NeuralConfig, NeuralModel, new_neural_model, with_sessions
from geodistill.models.neural.layers import rotate

SESSIONS = {"monday": 5, "tuesday": 3}
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": 2,
    "mask_ratio": 0.5,
}


def make(modality: str = "spikes", **settings: Any) -> NeuralModel:
    torch.manual_seed(0)
    return NeuralModel(NeuralConfig(modality=modality, sessions=SESSIONS, **{**SMALL, **settings})).eval()


def draw(bins: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "values": torch.randint(0, 7, (3, bins, 5), generator=generator).float(),
        "session": torch.tensor([0, 1, 0]),
    }


@pytest.fixture(params=[("spikes", "mlp"), ("lfp", "mlp"), ("lfp", "convolution")], ids="-".join)
def model(request: pytest.FixtureRequest) -> NeuralModel:
    modality, embedding = request.param
    return make(modality, lfp_embedding=embedding)


def test_states_are_of_bins_and_logits_of_channels(model: NeuralModel) -> None:
    output = model(**draw(), output_hidden_states=True)
    assert [tuple(each.shape) for each in output.hidden_states] == [(3, 6, 16)] * 3
    assert output.logits.shape == (3, 6, 5)
    assert torch.equal(output.last_hidden_state, output.hidden_states[-1])


def test_padding_bins_change_nothing(model: NeuralModel) -> None:
    batch = draw()
    expected = model(**batch)
    padded = functional.pad(batch["values"], (0, 0, 0, 3), value=float("nan"))
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[:, 6:] = 0
    found = model(padded, batch["session"], attention_mask=mask)
    torch.testing.assert_close(found.last_hidden_state[:, :6], expected.last_hidden_state)
    assert (found.last_hidden_state[:, 6:] == 0).all()
    losses = [
        model(**batch, labels=batch["values"]).loss,
        model(padded, batch["session"], attention_mask=mask, labels=padded).loss,
    ]
    torch.testing.assert_close(losses[1], losses[0])


def test_missing_channels_change_nothing_whatever_they_hold(model: NeuralModel) -> None:
    batch = draw()
    mask = torch.ones_like(batch["values"], dtype=torch.bool)
    mask[:, :, 2] = False
    mask[0, 1] = False
    outputs = []
    for filler in (0.0, 3.0, float("nan"), float("inf")):
        values = batch["values"].masked_fill(~mask, filler).requires_grad_()
        output = model(values, batch["session"], value_mask=mask, labels=values)
        (gradient,) = torch.autograd.grad(output.last_hidden_state.sum() + output.loss, values, allow_unused=True)
        assert gradient is None or torch.isfinite(gradient).all()
        outputs.append(output)
    for output in outputs[1:]:
        assert torch.equal(output.last_hidden_state, outputs[0].last_hidden_state)
        assert torch.equal(output.loss, outputs[0].loss)


def test_channels_beyond_those_of_a_session_are_missing(model: NeuralModel) -> None:
    batch = draw()
    other = {**batch, "values": batch["values"].clone()}
    other["values"][1, :, 3:] = 99.0
    assert torch.equal(model(**other).last_hidden_state, model(**batch).last_hidden_state)


def test_loss_is_of_hidden_tokens_alone_in_training() -> None:
    model = make().train()
    batch = draw()
    torch.manual_seed(3)
    hidden = model._draw_hidden(batch["values"], 3)
    torch.manual_seed(3)
    output = model(**batch, labels=batch["values"])
    scored = hidden.repeat_interleave(2, dim=2)[..., :5] & torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])[
        batch["session"]
    ].bool().unsqueeze(1)
    each = output.logits.exp() - batch["values"] * output.logits
    torch.testing.assert_close(output.loss, each[scored].mean())


def test_the_loss_of_potentials_is_the_squared_error() -> None:
    model, batch = make("lfp"), draw()
    output = model(**batch, labels=batch["values"])
    there = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])[batch["session"]].bool().unsqueeze(1).expand(3, 6, 5)
    torch.testing.assert_close(output.loss, (output.logits - batch["values"]).square()[there].mean())


def test_counts_above_the_most_are_embedded_as_the_most() -> None:
    model, batch = make(max_count=3), draw()
    clamped = {**batch, "values": batch["values"].clamp(max=3)}
    assert torch.equal(model(**batch).last_hidden_state, model(**clamped).last_hidden_state)


def test_attention_depends_on_distances_in_time_alone() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.03])

    def product(first: int, second: int) -> Tensor:
        sides = [
            rotate(each, (place * frequencies)[None].cos(), (place * frequencies)[None].sin())
            for each, place in ((query, first), (key, second))
        ]
        return (sides[0] * sides[1]).sum()

    torch.testing.assert_close(product(2, 5), product(12, 15))


def test_a_causal_convolution_sees_no_later_bin() -> None:
    embedding = make("lfp").backbones[0].embedding
    values = torch.randn(1, 6, 3, 2)
    later = values.clone()
    later[:, 4:] += 1
    there = torch.ones_like(values, dtype=torch.bool)
    assert torch.equal(embedding(values, there)[:, :4], embedding(later, there)[:, :4])


def test_separate_sessions_share_nothing() -> None:
    model, batch = make("lfp", separate=True), draw()
    expected = model(**batch).last_hidden_state
    with torch.no_grad():
        for parameter in model.backbone_of("tuesday").parameters():  # type: ignore[union-attr]  # there is one
            parameter.add_(1.0)
    found = model(**batch).last_hidden_state
    assert torch.equal(found[[0, 2]], expected[[0, 2]]) and not torch.equal(found[1], expected[1])


def test_new_sessions_leave_known_ones_as_they_were() -> None:
    model, batch = make(), draw()
    wider = with_sessions(model, {"wednesday": 4})
    assert torch.equal(wider(**batch).last_hidden_state, model(**batch).last_hidden_state)
    assert len(wider.rows_of("wednesday")) == 2 and list(model.config.sessions or {}) == list(SESSIONS)
    with pytest.raises(GeodistillError, match="knows it with 5"):
        with_sessions(model, {"monday": 4})


def test_it_is_saved_and_loaded_by_its_auto_class(tmp_path: Path) -> None:
    model, batch = make("lfp"), draw()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_importing_the_package_is_enough_to_load_it(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    load = f"transformers.AutoModel.from_pretrained({str(tmp_path)!r})"
    code = f"import geodistill, transformers; print(type({load}).__name__)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "NeuralModel"


def test_bad_configs_are_refused() -> None:
    for settings, said in (
        ({"modality": "eeg"}, "modality 'eeg'"),
        ({"sessions": {"monday": 0}}, "'monday' has no spikes channels"),
        ({"hidden_size": 10, "num_attention_heads": 4}, "heads of even width"),
    ):
        with pytest.raises(GeodistillError, match=said):
            NeuralConfig(**settings)
    with pytest.raises(GeodistillError, match="No neural model is named 'lpf'"):
        new_neural_model("lpf", SESSIONS)


@pytest.mark.parametrize("separate", [False, True])
def test_a_saved_model_knows_which_weights_are_of_which_session(separate: bool, tmp_path: Path) -> None:
    """The names in a saved config are sorted, and weights are in the order in which a model learned of its sessions."""
    model = with_sessions(make("lfp", separate=separate), {"friday": 4})
    model.save_pretrained(tmp_path)
    loaded: NeuralModel = NeuralModel.from_pretrained(tmp_path).eval()
    names = ["monday", "tuesday", "friday"]
    assert list(loaded.config.sessions or {}) == list(model.config.sessions or {}) == names
    batch = {**draw(), "session": torch.tensor([0, 1, 2])}
    assert torch.equal(loaded(**batch).last_hidden_state, model(**batch).last_hidden_state)
