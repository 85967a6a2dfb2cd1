"""Real steps of lightning.Trainer, alone and in two processes, which the tests start from this file itself."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from geodistill import FeatureTerm, GeodistillError, ProcrustesLoss
from geodistill.distillation.signals import Teacher
from geodistill.features import Capture
from geodistill.integrations.learned import bind_terms
from geodistill.integrations.lightning import GeometryCallback, with_terms

TERM = FeatureTerm(loss="procrustes", layers="uniform", weight=2.0)
PROJECTION = FeatureTerm(loss="projection", rows="mean", layers=[(-1, -1)])
STEPS, BATCH = 3, 8


def classifier(layers: int, width: int, seed: int) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 2 * width}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, num_attention_heads=2, max_position_embeddings=16, **sizes, **dropout)
    )


def examples(count: int = STEPS * BATCH) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (count, 9), generator=draw)
    lengths = torch.randint(3, 10, (count, 1), generator=draw)
    mask = (torch.arange(9) < lengths).long()
    return [{"input_ids": i * m, "attention_mask": m, "labels": i[0] % 2} for i, m in zip(ids, mask, strict=True)]


class Module(lightning.LightningModule):
    """What a user has: it knows nothing of a teacher."""

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.model = classifier(2, 16, seed=0)
        self.rate = rate
        self.losses: list[float] = []

    def training_step(self, batch: dict[str, Tensor], index: int) -> Any:
        output = self.model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
        self.losses.append(output.loss.item())
        return output.loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.rate)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)]


class Dictionary(Module):
    def training_step(self, batch: dict[str, Tensor], index: int) -> Any:
        loss = super().training_step(batch, index)
        return None if index == 1 else {"loss": loss, "mine": loss.detach()}


class Manual(Module):
    automatic_optimization = False


class Elsewhere(Module):
    def training_step(self, batch: dict[str, Tensor], index: int) -> Any:
        return self.model.classifier(torch.ones(2, 16)).sum()


class Recorder(lightning.Callback):
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.logged.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def geometry(*terms: FeatureTerm, **options: Any) -> GeometryCallback:
    return GeometryCallback(classifier(4, 32, seed=1), terms or [TERM], **options)


def fit(
    folder: Path, module: Module, *callbacks: Any, rank: int = 0, ranks: int = 1, resume: Any = None, **options: Any
) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    given = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_checkpointing": False, **quiet, **options}
    trainer = lightning.Trainer(default_root_dir=folder, callbacks=list(callbacks), **given)
    trainer.fit(module, DataLoader(examples()[rank::ranks], batch_size=BATCH // ranks), ckpt_path=resume)
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def by_hand(features: bool, rate: float = 0.1) -> tuple[dict[str, Tensor], list[float]]:
    """The same steps in a loop that anyone can read."""
    student = classifier(2, 16, seed=0).train()
    teacher = classifier(4, 32, seed=1).eval()
    optimizer = torch.optim.SGD(student.parameters(), rate)
    values = []
    for inputs in DataLoader(examples(), batch_size=BATCH):
        output = student(**inputs, output_hidden_states=True)
        with torch.no_grad():
            targets = teacher(inputs["input_ids"], attention_mask=inputs["attention_mask"], output_hidden_states=True)
        s, t, mask = output.hidden_states, targets.hidden_states, inputs["attention_mask"]
        pairs = [ProcrustesLoss()(s[m], t[2 * m], mask=mask) for m in (1, 2)]
        values.append(pairs[1].item())
        optimizer.zero_grad()
        (output.loss + features * 2.0 * sum(pairs) / 2).backward()
        optimizer.step()
    return weights(student), values


@pytest.fixture
def exact_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_exact(monkeypatch)


def keep_exact(patch: pytest.MonkeyPatch) -> None:
    """Keep the teacher in float32 on machines that would run it in bfloat16."""
    patch.setattr("geodistill.distillation.signals.bfloat16_is_faster", lambda device: False)


class WithoutTypes(Module):
    """A student that takes no types of tokens, whose batch has them."""

    def __init__(self) -> None:
        super().__init__()
        config = DistilBertConfig(
            vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=16
        )
        self.model = DistilBertForSequenceClassification(config)


@pytest.mark.usefixtures("exact_teacher")
def test_what_the_batch_says_of_the_tokens_reaches_the_teacher() -> None:
    batch = next(iter(DataLoader(examples(), batch_size=BATCH)))
    batch |= {"token_type_ids": batch["attention_mask"].clone(), "weights": torch.ones(BATCH)}
    module, teacher = WithoutTypes(), classifier(4, 32, seed=1)
    nn.init.normal_(teacher.bert.embeddings.token_type_embeddings.weight)
    given: list[Any] = []
    teacher.register_forward_pre_hook(lambda model, args, inputs: given.append(set(inputs)), with_kwargs=True)
    objective = bind_terms([TERM], module.model, teacher, seed=0)
    source = Teacher(teacher, objective.requests)
    given.clear()
    module.log_dict = lambda terms: None
    capture = Capture(module.model, objective.student_points)
    with_terms(module, module.model, capture, source, objective)(batch, 0)
    (names,) = given
    assert {"input_ids", "attention_mask", "token_type_ids"} <= names and not {"labels", "weights"} & names


def test_steps_are_those_of_a_loop_by_hand(tmp_path: Path, exact_teacher: None) -> None:
    module, seen = Module(), Recorder()
    fit(tmp_path, module, geometry(), seen)
    expected, values = by_hand(features=True)
    torch.testing.assert_close(weights(module.model), expected, rtol=1e-4, atol=1e-6)
    assert [entry["procrustes_2_4"] for entry in seen.logged] == pytest.approx(values, rel=1e-4)
    without, _ = by_hand(features=False)
    assert max((without[name] - value).abs().max() for name, value in expected.items()) > 1e-3


def test_the_module_is_as_before_afterwards(tmp_path: Path) -> None:
    module = Module()
    names = set(module.state_dict())
    fit(tmp_path, module, geometry(TERM, PROJECTION))
    assert set(module.state_dict()) == names
    assert "training_step" not in vars(module)
    assert not any(each._forward_pre_hooks for each in module.modules())
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, module, geometry(), Failing())
    assert "training_step" not in vars(module)


class Failing(lightning.Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        raise ZeroDivisionError


def test_a_step_may_return_a_dictionary_or_nothing(tmp_path: Path, exact_teacher: None) -> None:
    module = Dictionary()
    before = weights(module)
    fit(tmp_path, module, geometry())
    assert len(module.losses) == STEPS
    assert not torch.equal(before["model.classifier.weight"], weights(module)["model.classifier.weight"])


def test_adapters_are_trained_by_the_terms(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    module = Module()
    module.model = peft.get_peft_model(module.model, peft.LoraConfig(target_modules="all-linear", task_type="SEQ_CLS"))
    before, seen = weights(module), Recorder()
    fit(tmp_path, module, geometry(), seen)
    changed = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name or "modules_to_save" in name for name in changed)
    assert 0 < seen.logged[-1]["procrustes_1_2"] < 2


def test_a_projection_is_trained_and_resumed(tmp_path: Path) -> None:
    options = {"max_epochs": 2, "enable_checkpointing": True}
    saving = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, every_n_epochs=1, save_top_k=-1, filename="{epoch}")
    whole, module = geometry(TERM, PROJECTION), Module()
    fit(tmp_path, module, whole, saving, **options)
    first = geometry(TERM, PROJECTION)
    resumed, again = geometry(TERM, PROJECTION), Module()
    fit(tmp_path, Module(), first, max_epochs=1)
    fit(tmp_path, again, resumed, resume=tmp_path / "epoch=0.ckpt", max_epochs=2)
    torch.testing.assert_close(weights(again), weights(module), rtol=0, atol=0)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    (learned,), (halfway,) = whole.state_dict().values(), first.state_dict().values()
    assert not torch.equal(learned, halfway)


def test_a_teacher_is_in_no_checkpoint(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Module(), geometry(PROJECTION))
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == Module().state_dict().keys()
    assert [list(each) for each in saved["callbacks"].values()] == [["features.0.losses.0.weight"]]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Manual, {}, "optimises by hand"),
        (Elsewhere, {}, "layer 1 did not run"),
        (Module, {"model": "modell"}, "no module 'modell'.*'model'"),
        (Module, {"model": "model.classifier"}, "is a Linear"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, module: type[Module], options: dict[str, str], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        fit(tmp_path, module(), geometry(**options))


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "geodistill.integrations.lightning")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GeodistillError, match=r"geodistill\[lightning\]"):
        importlib.import_module("geodistill.integrations.lightning")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What one process finds, and each of two that share its batches."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    with subprocess.Popen([sys.executable, __file__, str(folder)], env=shared, stderr=subprocess.PIPE) as process:
        work(folder, 0, 1)
        complaints = process.communicate(timeout=120)[1]
    assert process.returncode == 0, complaints.decode()
    whole, *parts = (torch.load(folder / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    return whole, parts


def test_two_ranks_take_the_steps_of_one(ranks: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """In float32 the sums of two ranks differ in their last bits, and a step multiplies that a little."""
    whole, parts = ranks
    for part in parts:
        torch.testing.assert_close(part["weights"], whole["weights"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(part["projection"], whole["projection"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(parts[0]["projection"], parts[1]["projection"], rtol=0, atol=0)
    gap = max((part["local"][name] - value).abs().max() for part in parts for name, value in whole["weights"].items())
    assert gap > 1e-3  # without global_batch the steps are others, so the above can fail


def work(folder: Path, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    options: dict[str, Any] = {}
    if ranks > 1:
        options = {"devices": ranks, "strategy": "ddp", "plugins": [LightningEnvironment()]}
        options |= {"rank": rank, "ranks": ranks, "use_distributed_sampler": False}
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        keep_exact(patch)
        for name, global_batch in (("weights", True), ("local", False)):
            module, added = Module(), geometry(TERM, PROJECTION, global_batch=global_batch)
            fit(folder, module, added, **options)
            found[name] = weights(module.model)
            found.setdefault("projection", added.state_dict())
    torch.save(found, folder / f"{ranks}-{rank}.pt")


def be_one_of_two(rank: int, folder: Path) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    work(folder, rank, 2)


if __name__ == "__main__":
    # A forked process need not import the libraries again.
    start_processes(be_one_of_two, (Path(sys.argv[1]),), 2, start_method="fork")
