"""Real steps of SentenceTransformerTrainer, the teacher the bundled MiniLM cut to two layers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from geodistill import GeodistillError, GramLoss, ProcrustesLoss, ProjectionLoss
from geodistill.integrations.sentence_transformers import GeometryLoss

SUBJECTS = ("The river", "A painter", "Her letter", "This engine", "Our harbour", "The planet")
ENDS = ("is near the island.", "was never seen again.", "came back in spring.", "is larger than we thought.")
TEXTS = [f"{subject} {end}" for subject in SUBJECTS for end in ENDS]
OTHERS = [f"{end[:-1]}, {subject.lower()}" for subject in SUBJECTS for end in ENDS]
Train = Callable[..., list[float]]


def sentence_transformer(folder: Path) -> SentenceTransformer:
    encoder = Transformer(str(folder), max_seq_length=16)
    return SentenceTransformer(modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu")


@pytest.fixture(scope="module")
def teacher(encoder: Path) -> SentenceTransformer:
    return sentence_transformer(encoder)


@pytest.fixture
def student(encoder: Path, tmp_path: Path) -> SentenceTransformer:
    """One layer of another width, with the same tokenizer."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.from_pretrained(encoder, **sizes)).save_pretrained(tmp_path / "small")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "small")
    return sentence_transformer(tmp_path / "small")


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def run(loss: Any, data: dict[str, Any], steps: int = 8) -> list[float]:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "run"),
            max_steps=steps,
            per_device_train_batch_size=24,
            learning_rate=1e-2,
            logging_steps=1,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(
            model=loss.model, args=arguments, train_dataset=Dataset.from_dict(data), loss=loss
        )
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    return run


def features(model: SentenceTransformer, texts: list[str]) -> dict[str, Tensor]:
    return dict(model.preprocess(texts))


def test_embeddings_as_labels(train: Train, student: SentenceTransformer, teacher: SentenceTransformer) -> None:
    labels = teacher.encode(TEXTS, convert_to_tensor=True)
    before = ProcrustesLoss()(student.encode(TEXTS, convert_to_tensor=True), labels).item()
    found = train(GeometryLoss(student), {"text": TEXTS, "label": labels.tolist()})
    after = ProcrustesLoss()(student.encode(TEXTS, convert_to_tensor=True), labels).item()
    assert len(found) == 8
    assert after < 0.7 * before
    assert student.get_embedding_dimension() == 48 and labels.shape == (24, 384)


def test_a_teacher_gives_what_its_labels_give(
    student: SentenceTransformer, teacher: SentenceTransformer, train: Train
) -> None:
    student.eval()
    columns = [features(student, TEXTS), features(student, OTHERS)]
    one, two = (teacher.encode(texts, convert_to_tensor=True) for texts in (TEXTS, OTHERS))
    embeddings = torch.cat([student.encode(texts, convert_to_tensor=True) for texts in (TEXTS, OTHERS)])
    expected = GramLoss()(embeddings, torch.cat([one, two]))
    run_beside = GeometryLoss(student, GramLoss(), teacher_model=teacher)(columns)
    given = GeometryLoss(student, GramLoss())(columns, torch.stack([one, two], dim=1))
    torch.testing.assert_close(run_beside, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-6)

    broadcast = GeometryLoss(student, GramLoss())(columns, one)
    torch.testing.assert_close(broadcast, GramLoss()(embeddings, torch.cat([one, one])), rtol=1e-4, atol=1e-6)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    found = train(GeometryLoss(student, teacher_model=teacher), {"one": TEXTS, "two": OTHERS})
    assert found[-1] < found[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_tokens_leave_the_padding_out(student: SentenceTransformer, teacher: SentenceTransformer, train: Train) -> None:
    student.eval()
    texts = ["The river.", "This engine is larger than we thought, by far."]
    together = GeometryLoss(student, teacher_model=teacher, rows="tokens")([features(student, texts)])
    rows = []
    for model in (student, teacher.eval()):
        alone = [model(features(model, [text]))["token_embeddings"][0] for text in texts]
        rows.append(torch.cat(alone))
    torch.testing.assert_close(together, ProcrustesLoss()(*rows), rtol=1e-4, atol=1e-6)
    found = train(GeometryLoss(student, teacher_model=teacher, rows="tokens"), {"text": TEXTS})
    assert found[-1] < found[0]


WRAPPERS: dict[str, Callable[[SentenceTransformer, GeometryLoss], torch.nn.Module]] = {
    "matryoshka": lambda model, loss: losses.MatryoshkaLoss(model, loss, [48, 24, 12]),
    "adaptive layers": lambda model, loss: losses.AdaptiveLayerLoss(model, loss, n_layers_per_step=-1),
    "both": lambda model, loss: losses.Matryoshka2dLoss(model, loss, [48, 24]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("rows", ["labels", "sentences", "tokens"])
def test_wrapper_losses_work_around_it(
    wrapper: str, rows: str, train: Train, student: SentenceTransformer, teacher: SentenceTransformer
) -> None:
    if rows == "labels":
        inner, extra = GeometryLoss(student), {"label": teacher.encode(TEXTS).tolist()}
    else:
        inner, extra = GeometryLoss(student, teacher_model=teacher, rows=rows), {}
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    found = train(WRAPPERS[wrapper](student, inner), {"text": TEXTS, **extra})
    assert len(found) == 8 and found[-1] < found[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_wrapper_adds_the_losses_of_its_widths(student: SentenceTransformer, teacher: SentenceTransformer) -> None:
    student.eval()
    column = features(student, TEXTS)
    targets = teacher.encode(TEXTS, convert_to_tensor=True)
    wrapped = losses.MatryoshkaLoss(student, GeometryLoss(student, GramLoss(), teacher_model=teacher), [48, 12])(
        [column], None
    )
    embeddings = student.encode(TEXTS, convert_to_tensor=True)
    parts = [torch.nn.functional.normalize(embeddings[:, :width], dim=-1) for width in (48, 12)]
    expected = sum(GramLoss()(part, targets) for part in parts)
    torch.testing.assert_close(wrapped, expected, rtol=1e-4, atol=1e-6)


def test_the_layers_of_a_wrapper_are_those_of_the_student(
    student: SentenceTransformer, teacher: SentenceTransformer
) -> None:
    """The teacher answers as it does without the wrapper, whatever the student left in the features."""
    student.eval()
    column = features(student, TEXTS)
    seen: list[Tensor] = []

    class Keep(GramLoss):
        def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
            seen.extend([student, teacher])
            return super().forward(student, teacher, mask)

    wrapped = losses.AdaptiveLayerLoss(
        student, GeometryLoss(student, Keep(), teacher_model=teacher), n_layers_per_step=-1
    )
    wrapped([column], None)
    students, teachers = seen[::2], seen[1::2]
    assert len(students) == 2 and not torch.allclose(*students)
    torch.testing.assert_close(*teachers, rtol=0, atol=0)


def test_any_number_but_zero_attends(student: SentenceTransformer, teacher: SentenceTransformer) -> None:
    student.eval()
    loss = GeometryLoss(student, teacher_model=teacher, rows="tokens")
    output = student(features(student, TEXTS))
    _, expected = loss._join([output])
    _, mask = loss._join([{**output, "attention_mask": output["attention_mask"] * 3}])
    assert mask is not None and torch.equal(mask, expected)


def test_a_projection_is_trained(student: SentenceTransformer, teacher: SentenceTransformer, train: Train) -> None:
    loss = GeometryLoss(student, ProjectionLoss(48, 384), teacher_model=teacher)
    before = loss.loss.weight.detach().clone()
    train(loss, {"text": TEXTS}, steps=2)
    assert not torch.equal(loss.loss.weight, before)


def test_the_model_card_names_the_loss(student: SentenceTransformer) -> None:
    assert GeometryLoss(student, GramLoss(center=False)).get_config_dict() == {
        "loss": "GramLoss(center=False, normalize=True, squared=True, global_batch=False)",
        "rows": "sentences",
    }


def test_mistakes_are_told(
    student: SentenceTransformer,
    teacher: SentenceTransformer,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    column = features(student, TEXTS)
    with pytest.raises(GeodistillError, match="neither a teacher nor labels"):
        GeometryLoss(student)([column])
    with pytest.raises(GeodistillError, match=r"shape \(24, 3, 8\).*2 text columns"):
        GeometryLoss(student)([column, column], torch.zeros(24, 3, 8))
    with pytest.raises(GeodistillError, match="need the teacher itself"):
        GeometryLoss(student, rows="tokens")
    with pytest.raises(GeodistillError, match="Did you mean 'tokens'"):
        GeometryLoss(student, teacher_model=teacher, rows="token")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.add_tokens(["unheard"])
    tokenizer.save_pretrained(tmp_path / "other")
    AutoModel.from_pretrained(encoder).save_pretrained(tmp_path / "other")
    with pytest.raises(GeodistillError, match="another vocabulary"):
        GeometryLoss(student, teacher_model=sentence_transformer(tmp_path / "other"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GeodistillError, match=r"geodistill\[sentence-transformers\]"):
        GeometryLoss(student)
