"""A loss for SentenceTransformerTrainer: the student's embeddings in the shape of the teacher's, whatever their widths.

loss = GeometryLoss(student)                      # the label column holds the teacher's embeddings
loss = GeometryLoss(student, teacher_model=teacher)     # the teacher runs beside; no labels are needed
trainer = SentenceTransformerTrainer(model=student, train_dataset=train_dataset, loss=loss)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geodistill.errors import GeodistillError, require_package, suggest
from geodistill.losses import FeatureLoss, ProcrustesLoss

ROWS = ("sentences", "tokens")
OUTPUTS = ("token_embeddings", "all_layer_embeddings", "cls_token_embeddings", "sentence_embedding")
"""What a SentenceTransformer's modules write into the features of a column."""


class GeometryLoss(nn.Module):
    """A feature loss between the embeddings of a batch and the teacher's: one cloud of all sentences of all columns.

    The geometry is taken over the batch, so a batch should hold at least a few dozen sentences; with several ranks the
    default loss takes it over the batches of all ranks. Wrapper losses work around it: `MatryoshkaLoss`,
    `AdaptiveLayerLoss`, `Matryoshka2dLoss`. They call it several times a batch, and a teacher then runs as often;
    labels cost nothing. The teacher is changed: it is put into eval mode, and its parameters ask for no gradient.

    Args:
        model: the SentenceTransformer that is trained.
        loss: any feature loss; by default `ProcrustesLoss(global_batch=True)`. The weights of a `ProjectionLoss` are
            trained, but a checkpoint of SentenceTransformerTrainer does not hold them.
        teacher_model: a SentenceTransformer with the student's tokenizer, run on the same tokens in eval mode and
            without gradient. Without one, the labels are its embeddings.
        rows: "sentences", or "tokens" for the token embeddings before pooling, padding left out; these need a teacher.

    Called with the features of each text column and with labels, either (b, d_t), the same for each column, or
    (b, columns, d_t), as `sentence_transformers.losses.MSELoss` takes them.

    Returns:
        A scalar.

    Raises:
        GeodistillError: there are neither teacher nor labels, labels do not fit, or the teacher has another tokenizer.

    Example:
        loss = GeometryLoss(student_embedder, teacher_model=teacher_embedder, rows="tokens")
    """

    def __init__(
        self,
        model: nn.Module,
        loss: FeatureLoss | None = None,
        *,
        teacher_model: nn.Module | None = None,
        rows: Literal["sentences", "tokens"] = "sentences",
    ) -> None:
        super().__init__()
        require_package("sentence_transformers", "sentence-transformers", "GeometryLoss compares SentenceTransformers")
        if rows not in ROWS:
            raise GeodistillError(f"Unknown kind of rows '{rows}'.", suggest(rows, ROWS))
        if rows == "tokens" and teacher_model is None:
            raise GeodistillError(
                "The rows 'tokens' need the teacher itself: labels hold one embedding a sentence.",
                "Give teacher_model=, or choose rows='sentences'.",
            )
        if teacher_model is not None:
            check_tokenizers(model, teacher_model)
            teacher_model.eval().requires_grad_(False)
        self.model = model
        self.loss = ProcrustesLoss(global_batch=True) if loss is None else loss
        self.teacher_model = teacher_model
        self.rows = rows

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        columns = list(sentence_features)
        # The student writes its outputs into what it is given, where a wrapper such as AdaptiveLayerLoss reads them.
        inputs = [{name: column[name] for name in column if name not in OUTPUTS} for column in columns]
        student, mask = self._join([self.model(column) for column in columns])
        if self.teacher_model is None:
            return self.loss(student, self._embeddings(labels, len(columns)), mask)
        with torch.no_grad():
            teacher, _ = self._join([self.teacher_model.eval()(column) for column in inputs])
        return self.loss(student, teacher, mask)

    def _join(self, outputs: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor | None]:
        if self.rows == "sentences":
            return torch.cat([output["sentence_embedding"] for output in outputs]), None
        rows = torch.cat([output["token_embeddings"].flatten(0, 1) for output in outputs])
        return rows, torch.cat([output["attention_mask"].flatten() != 0 for output in outputs])

    def _embeddings(self, labels: Tensor | None, columns: int) -> Tensor:
        if labels is None:
            raise GeodistillError(
                "GeometryLoss has neither a teacher nor labels to compare with.",
                "Give teacher_model=, or a column 'label' with the teacher's embeddings, as for MSELoss.",
            )
        if labels.ndim == 2:
            return labels.repeat(columns, 1)
        if labels.ndim == 3 and labels.shape[1] == columns:
            return labels.transpose(0, 1).flatten(0, 1)
        raise GeodistillError(
            f"Labels of shape {tuple(labels.shape)} are no embeddings of {columns} text columns.",
            f"Give (batch, width) or (batch, {columns}, width).",
        )

    def get_config_dict(self) -> dict[str, Any]:
        """What the trainer writes about the loss into the model card."""
        return {"loss": repr(self.loss), "rows": self.rows}


def check_tokenizers(student: Any, teacher: Any) -> None:
    """Refuse a teacher that would read the student's token ids as other words."""
    if student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise GeodistillError(
            "The teacher's tokenizer has another vocabulary than the student's.",
            "Leave teacher_model= out, encode the texts with the teacher before, and give its embeddings as labels.",
        )
