"""A new student's embeddings: the teacher's, rotated into their principal directions and cut to the student's width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.errors import GeodistillError
from geodistill.features import Capture, evaluation_mode, select_rows

# The share that the word table keeps in the second moment beside a sample, so that words that the sample lacks keep
# some room, and a small sample still has a full set of directions. Its choice matters little: from 0.03 to 0.3 D_P² of
# MiniLM-L6's embedding layer on other sentences moved by 0.011 at most, at widths 64 and 128.
TABLE_SHARE = 0.1


@dataclass(frozen=True)
class EmbeddingLayer:
    """The tables whose rows are summed for each token, and the LayerNorm that follows the sum, if one does."""

    path: str
    word: nn.Embedding
    tables: dict[str, nn.Embedding]
    norm: nn.LayerNorm | None

    @property
    def width(self) -> int:
        return self.word.embedding_dim


def rotate_embeddings(
    student: PreTrainedModel, teacher: PreTrainedModel, sample: Iterable[Mapping[str, Tensor]] = ()
) -> None:
    """Overwrite the student's word, position and token-type tables with the teacher's, by one common linear map.

    d_t and d_s are the widths of the tables, X is any of them, and V holds the leading eigenvectors of the second
    moment C of the teacher's embedding layer, d_t × d_t, uncentred.

    - No LayerNorm after the sum of the tables (GPT-2, OPT, Llama): X ← X V with d_s directions.
    - A LayerNorm with weight γ and bias β (BERT and its kin). It centres each token over its coordinates and fixes its
      length before γ and β act, so a plain X V would lose a direction to it, and γ would be forgotten. Hence
      X ← X A V Bᵀ: A centres the coordinates and scales them by γ / rms(γ); V has d_s - 1 directions; the columns of
      B (d_s × d_s - 1) are an orthonormal basis of the vectors whose coordinates sum to zero, which the student's
      LayerNorm leaves unchanged. Its weight becomes √(tr C / d_s), its bias β V Bᵀ. But for what the cut loses,
      every token then points where it does after the teacher's LayerNorm, rotated, at the teacher's mean length.
    - d_s = d_t: tables and LayerNorm are copied. d_s > d_t: zeros are appended, coordinates centred first and γ scaled
      by √(d_t / d_s), so that the layer is the teacher's with zeros appended.

    C is E[z zᵀ] of the embedding layer's output z (β taken off), each word of the vocabulary alone and counting the
    same; then Z V Vᵀ Zᵀ is the best approximation of that rank to their Gram matrix Z Zᵀ (Eckart and Young 1936).
    With `sample`, batches of `input_ids` and `attention_mask` as a tokenizer makes them, z are the attended tokens of
    that text instead, plus a tenth of the word table's moment. Text is far from uniform over the vocabulary: for
    MiniLM-L6 cut from 384 to 128, on CoLA's validation part, D_P² of the embedding layer is 0.362 from the
    words alone and 0.218 with 1,024 training sentences, where no layer of that width could fall below 0.185.

    Tables of another width than the words' are left unchanged, such as the positions of OPT-350M.
    """
    source, target = find_embeddings(teacher), find_embeddings(student)
    with torch.no_grad():
        if target.width >= source.width:
            _pad(source, target)
        else:
            _cut(source, target, _second_moment(source, teacher, sample))


def find_embeddings(model: PreTrainedModel) -> EmbeddingLayer:
    """Find the word table of a model, the tables of its width beside it, and the LayerNorm of their sum."""
    word = cast(nn.Embedding, model.get_input_embeddings())
    for path, parent in model.named_modules():
        children = dict(parent.named_children())
        if not any(child is word for child in children.values()):
            continue
        tables = {
            name: child
            for name, child in children.items()
            if isinstance(child, nn.Embedding) and child.embedding_dim == word.embedding_dim
        }
        # If the blocks lie beside the tables, as in GPT-2, a LayerNorm beside them is the final one.
        beside_blocks = any(isinstance(child, nn.ModuleList) for child in children.values())
        norms = [
            child
            for child in children.values()
            if isinstance(child, nn.LayerNorm) and child.normalized_shape == (word.embedding_dim,)
        ]
        return EmbeddingLayer(path, word, tables, norms[0] if norms and not beside_blocks else None)
    raise GeodistillError(
        f"The embedding tables of {type(model).__name__} were not found.", "Set 'initialization' to 'random'."
    )


def _second_moment(layer: EmbeddingLayer, teacher: PreTrainedModel, sample: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """The C of `rotate_embeddings`; its trace is the mean squared length of a token."""
    words = _without_bias(layer.word.weight if layer.norm is None else layer.norm(layer.word.weight), layer)
    table = words.T @ words / len(words)
    total, count = torch.zeros_like(table), 0
    for batch in sample:
        inputs = {name: batch[name].to(teacher.device) for name in ("input_ids", "attention_mask")}
        rows, mask = select_rows(_embed(layer, teacher, inputs), inputs, kind="tokens")
        if rows.shape[-1] != layer.width:  # a projection lies between the tables and the first block
            return table
        assert mask is not None
        tokens = _without_bias(rows[mask], layer)
        total += tokens.T @ tokens
        count += len(tokens)
    if not count:
        return table
    mean = total / count
    return (mean + TABLE_SHARE * table * mean.trace() / table.trace()) / (1 + TABLE_SHARE)


def _embed(layer: EmbeddingLayer, teacher: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """The teacher's embedding layer (b, t, d) on a batch; the blocks need not run if it is a separate module."""
    with evaluation_mode(teacher):
        if layer.norm is not None:
            return teacher.get_submodule(layer.path)(input_ids=inputs["input_ids"])
        return Capture(teacher, [0])(**inputs)[1][0]


def _cut(source: EmbeddingLayer, target: EmbeddingLayer, moment: Tensor) -> None:
    width = target.width
    rank = width if source.norm is None else width - 1
    rotation = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :rank]
    if source.norm is not None:
        rotation = rotation @ _zero_sum_basis(width).T
    for table, own in _shared(source, target):
        own.weight.copy_(_before_rotation(table.weight, source) @ rotation)
    if source.norm is not None and target.norm is not None:
        target.norm.weight.fill_((moment.trace() / width).sqrt().item())
        if target.norm.bias is not None and source.norm.bias is not None:
            target.norm.bias.copy_(source.norm.bias.cpu().double() @ rotation)


def _pad(source: EmbeddingLayer, target: EmbeddingLayer) -> None:
    wider = target.width > source.width
    for table, own in _shared(source, target):
        weight = table.weight
        if wider and source.norm is not None:
            weight = weight - weight.mean(dim=1, keepdim=True)
        own.weight.zero_()
        own.weight[:, : source.width] = weight
    if source.norm is not None and target.norm is not None:
        scale = (source.width / target.width) ** 0.5
        target.norm.weight.fill_(scale)
        target.norm.weight[: source.width] = source.norm.weight * scale
        if target.norm.bias is not None:
            target.norm.bias.zero_()
            target.norm.bias[: source.width] = source.norm.bias


def _shared(source: EmbeddingLayer, target: EmbeddingLayer) -> list[tuple[nn.Embedding, nn.Embedding]]:
    return [(table, target.tables[name]) for name, table in source.tables.items() if name in target.tables]


def _before_rotation(table: Tensor, layer: EmbeddingLayer) -> Tensor:
    """X A for a LayerNorm, X otherwise; float64 on the CPU, where eigenvectors are exact enough."""
    rows = table.cpu().double()
    if layer.norm is None:
        return rows
    weight = layer.norm.weight.cpu().double()
    return (rows - rows.mean(dim=1, keepdim=True)) * (weight / weight.square().mean().sqrt())


def _without_bias(rows: Tensor, layer: EmbeddingLayer) -> Tensor:
    rows = rows.cpu().double()
    return rows if layer.norm is None or layer.norm.bias is None else rows - layer.norm.bias.cpu().double()


def _zero_sum_basis(width: int) -> Tensor:
    """An orthonormal basis, in its columns, of the vectors of so many coordinates that sum to zero."""
    ones = torch.ones(width, 1, dtype=torch.float64)
    return torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, 1:]], dim=1)).Q[:, 1:]
