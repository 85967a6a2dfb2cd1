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
# some room, and a small sample still has a full set of directions. Between 0.03 and 0.3 nothing measured depends on it.
TABLE_SHARE = 0.1


@dataclass(frozen=True)
class EmbeddingLayer:
    """The tables whose rows are summed for each token, and the LayerNorm that follows the sum, where one does."""

    path: str
    word: nn.Embedding
    tables: dict[str, nn.Embedding]
    norm: nn.LayerNorm | None
    norm_path: str

    @property
    def width(self) -> int:
        return self.word.embedding_dim


def rotate_embeddings(
    student: PreTrainedModel, teacher: PreTrainedModel, sample: Iterable[Mapping[str, Tensor]] = ()
) -> None:
    """Overwrite the student's word, position and token-type tables with the teacher's, by one common linear map.

    With d_t and d_s the widths of the tables, V the leading eigenvectors of a second moment C, and X any table:

    - no LayerNorm after the sum (GPT-2, OPT, Llama): X ← X V, with d_s directions. X Xᵀ of the word table becomes its
      best approximation of that rank when C is the word table's own second moment.
    - a LayerNorm with weight γ and bias β (BERT and its kin): it centres each token over its coordinates and sets its
      length, and only then are γ and β applied. So that the student's LayerNorm undoes nothing of the rotation and the
      geometry kept is that *after* the teacher's LayerNorm, X ← X A V Bᵀ, where A centres the coordinates and scales
      them by γ̄ = γ / rms(γ), V holds d_s - 1 directions, and the columns of B (d_s × d_s - 1) are an orthonormal basis
      of the vectors whose coordinates sum to zero. The student's LayerNorm gets the weight rms(γ) √(d_t / d_s) and the
      bias β V Bᵀ. Up to what the cut loses, the student's embedding layer is then the teacher's, rotated.
    - d_s = d_t: tables and LayerNorm are copied. d_s > d_t: they are padded with zeros, coordinates centred first and
      the weight scaled by √(d_t / d_s), so that the layer is the teacher's with zeros appended.

    C is uncentred. It comes from the word table, every word counting the same, or, with `sample`, from the teacher's
    embedding layer on its attended tokens (β taken off), plus a tenth of the word table's. Real text is far from
    uniform over the vocabulary: a thousand sentences of it keep much more of the geometry than the table alone.

    `sample` holds batches with `input_ids` and `attention_mask`, as a tokenizer makes them. Tables of another width
    than the words' are left as they are, such as OPT-350M's positions; a table that already fits is a copy.
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
        # Where the blocks lie beside the tables, as in GPT-2, a LayerNorm beside them is the final one.
        beside_blocks = any(isinstance(child, nn.ModuleList) for child in children.values())
        norms = {
            name: child
            for name, child in children.items()
            if isinstance(child, nn.LayerNorm) and child.normalized_shape == (word.embedding_dim,)
        }
        name = next(iter(norms), None)
        if name is None or beside_blocks:
            return EmbeddingLayer(path, word, tables, None, "")
        return EmbeddingLayer(path, word, tables, norms[name], f"{path}.{name}" if path else name)
    raise GeodistillError(
        f"The embedding tables of {type(model).__name__} were not found.", "Set 'initialization' to 'random'."
    )


def _second_moment(layer: EmbeddingLayer, teacher: PreTrainedModel, sample: Iterable[Mapping[str, Tensor]]) -> Tensor:
    words = _before_rotation(layer.word.weight, layer)
    moment = words.T @ words
    sampled = torch.zeros_like(moment)
    point = layer.norm_path or 0
    capture = Capture(teacher, [point])
    bias = _bias(layer)
    for batch in sample:
        inputs = {name: batch[name].to(teacher.device) for name in ("input_ids", "attention_mask")}
        with evaluation_mode(teacher):
            _, features = capture(**inputs)
        rows, mask = select_rows(features[point], kind="tokens", attention_mask=inputs["attention_mask"])
        if rows.shape[-1] != layer.width:  # a projection lies between the tables and the first block
            return moment
        tokens = rows[mask].double().cpu() - bias
        sampled += tokens.T @ tokens
    if not sampled.any():
        return moment
    return sampled / sampled.trace() + TABLE_SHARE * moment / moment.trace()


def _cut(source: EmbeddingLayer, target: EmbeddingLayer, moment: Tensor) -> None:
    width = target.width
    rank = width if source.norm is None else width - 1
    rotation = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :rank]
    if source.norm is not None:
        rotation = rotation @ _zero_sum_basis(width).T
    for table, own in _shared(source, target):
        own.weight.copy_(_before_rotation(table.weight, source) @ rotation)
    if source.norm is not None and target.norm is not None:
        scale = _root_mean_square(source.norm.weight.double().cpu()) * (source.width / width) ** 0.5
        target.norm.weight.fill_(scale)
        if target.norm.bias is not None:
            target.norm.bias.copy_(_bias(source) @ rotation)


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
    rows = table.detach().double().cpu()
    if layer.norm is None:
        return rows
    weight = layer.norm.weight.detach().double().cpu()
    return (rows - rows.mean(dim=1, keepdim=True)) * (weight / _root_mean_square(weight))


def _zero_sum_basis(width: int) -> Tensor:
    """An orthonormal basis, in its columns, of the vectors of so many coordinates that sum to zero."""
    ones = torch.ones(width, 1, dtype=torch.float64)
    return torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, 1:]], dim=1)).Q[:, 1:]


def _bias(layer: EmbeddingLayer) -> Tensor:
    if layer.norm is None or layer.norm.bias is None:
        return torch.zeros(layer.width, dtype=torch.float64)
    return layer.norm.bias.detach().double().cpu()


def _root_mean_square(weight: Tensor) -> float:
    return weight.square().mean().sqrt().item()
