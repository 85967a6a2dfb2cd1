from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
)

from geodistill.distillation.students.embeddings import find_embeddings, rotate_embeddings

WORDS = 60


def bert(width, spectrum=False):
    torch.manual_seed(width)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            max_position_embeddings=16,
        )
    ).eval()
    if spectrum:
        give_a_spectrum(model)
    return model


def gpt2(width):
    torch.manual_seed(width)
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=WORDS, n_embd=width, n_layer=1, n_head=1, n_positions=16, pad_token_id=0)
    ).eval()


def give_a_spectrum(model):
    """Trained tables are far from white, and a trained LayerNorm is neither one nor zero."""
    embeddings = model.bert.embeddings
    width = embeddings.word_embeddings.embedding_dim
    mixing = torch.linalg.qr(torch.randn(width, width)).Q * torch.arange(1.0, width + 1) ** -1.0
    with torch.no_grad():
        for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
            table.weight.copy_(torch.randn(table.weight.shape) @ mixing)
        embeddings.position_embeddings.weight.mul_(0.2)
        embeddings.LayerNorm.weight.uniform_(0.5, 1.5)
        embeddings.LayerNorm.bias.normal_(std=0.2)


def batch(high=WORDS):
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, high, (32, 10), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1::2, 6:] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def embedded(model, inputs):
    """The embedding layer's output on the attended tokens, float64."""
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states[0]
    return hidden[inputs["attention_mask"].bool()].double()


def gram(rows):
    return rows @ rows.T


def test_of_equal_width_the_embedding_layer_is_the_teachers():
    teacher, student = bert(12, spectrum=True), bert(12)
    rotate_embeddings(student, teacher)
    word = teacher.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(gram(student.bert.embeddings.word_embeddings.weight), gram(word))
    torch.testing.assert_close(embedded(student, batch()), embedded(teacher, batch()))


def test_a_wider_layer_is_the_teachers_with_zeros_appended():
    teacher, student = bert(12, spectrum=True), bert(20)
    rotate_embeddings(student, teacher)
    rows = embedded(student, batch())
    torch.testing.assert_close(rows[:, :12], embedded(teacher, batch()), rtol=1e-4, atol=1e-5)
    assert rows[:, 12:].abs().max() < 1e-5


def test_without_a_layer_norm_the_words_keep_the_best_gram_of_their_rank():
    teacher, student = gpt2(12), gpt2(5)
    rotate_embeddings(student, teacher)
    exact = gram(teacher.transformer.wte.weight.detach().double())
    values, vectors = torch.linalg.eigh(exact)
    best = (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T
    torch.testing.assert_close(gram(student.transformer.wte.weight.detach().double()), best, rtol=1e-5, atol=1e-8)
    # One map for all tables: products between words and positions follow the same cut.
    word, position = teacher.transformer.wte.weight.double(), teacher.transformer.wpe.weight.double()
    axes = torch.linalg.eigh(word.T @ word).eigenvectors[:, -5:]
    cut = student.transformer.wte.weight @ student.transformer.wpe.weight.T
    torch.testing.assert_close(cut.double(), word @ axes @ axes.T @ position.T, rtol=1e-5, atol=1e-8)


def test_with_a_layer_norm_the_tokens_point_where_the_teachers_best_cut_points():
    teacher, student = bert(12, spectrum=True), bert(6)
    with torch.no_grad():  # words alone are then what the layer sees
        teacher.bert.embeddings.position_embeddings.weight.zero_()
        teacher.bert.embeddings.token_type_embeddings.weight.zero_()
    rotate_embeddings(student, teacher)
    norm, own = teacher.bert.embeddings.LayerNorm, student.bert.embeddings.LayerNorm
    with torch.no_grad():
        words = (norm(teacher.bert.embeddings.word_embeddings.weight) - norm.bias).double()
        rows = (own(student.bert.embeddings.word_embeddings.weight) - own.bias).double()
    values, vectors = torch.linalg.eigh(gram(words))
    best = (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T  # five directions: the LayerNorm takes the sixth
    lengths = best.diagonal().sqrt()
    cosines = gram(rows) / rows.norm(dim=1).outer(rows.norm(dim=1))
    torch.testing.assert_close(cosines, best / lengths.outer(lengths), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows.square().sum(1).mean(), words.square().sum(1).mean(), rtol=1e-3, atol=0.0)


def test_the_layer_norm_undoes_nothing_of_the_rotation():
    student = bert(6)
    rotate_embeddings(student, bert(12, spectrum=True))
    embeddings = student.bert.embeddings
    for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
        assert table.weight.mean(dim=1).abs().max() < 1e-6
        assert table.weight.abs().max() > 1e-3


def centred_cosine(student, teacher):
    """Procrustes similarity of centred rows, 1 when a rotation carries one cloud onto the other."""
    student, teacher = student - student.mean(0), teacher - teacher.mean(0)
    return torch.linalg.svdvals(student.T @ teacher).sum() / (student.norm() * teacher.norm())


def test_a_sample_of_text_keeps_more_of_its_own_geometry():
    teacher, plain, sampled, random = bert(24, spectrum=True), bert(8), bert(8), bert(8)
    with torch.no_grad():  # frequent words lie in directions of their own
        word = teacher.bert.embeddings.word_embeddings.weight
        word[:12] = word[:12].flip(1)
    rotate_embeddings(plain, teacher)
    rotate_embeddings(sampled, teacher, [batch(high=12)])
    reference = embedded(teacher, batch(high=12))
    without, by_words, by_text = (
        centred_cosine(embedded(model, batch(high=12)), reference) for model in (random, plain, sampled)
    )
    assert without < by_words < by_text


def test_padding_in_the_sample_counts_for_nothing():
    teacher = bert(12, spectrum=True)
    shorter, longer = bert(6), bert(6)
    inputs = batch()
    rotate_embeddings(shorter, teacher, [inputs])
    padded = {
        "input_ids": torch.nn.functional.pad(inputs["input_ids"], (0, 4), value=3),
        "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (0, 4)),
    }
    rotate_embeddings(longer, teacher, [padded])
    torch.testing.assert_close(gram(embedded(longer, inputs)), gram(embedded(shorter, inputs)), rtol=1e-4, atol=1e-4)


def test_a_sample_may_come_in_batches_and_serves_decoders():
    teacher, whole, halves = gpt2(12), gpt2(5), gpt2(5)
    inputs = batch()
    rotate_embeddings(whole, teacher, [inputs])
    rotate_embeddings(halves, teacher, ({k: v[rows] for k, v in inputs.items()} for rows in (slice(16), slice(16, 32))))
    torch.testing.assert_close(gram(embedded(halves, inputs)), gram(embedded(whole, inputs)))


def test_the_teacher_is_left_as_it_was():
    teacher = bert(12, spectrum=True).train()
    before = copy.deepcopy(teacher.state_dict())
    rotate_embeddings(bert(6), teacher, [batch()])
    assert all(module.training for module in teacher.modules())
    for name, weight in teacher.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_factorised_embedding_that_fits_is_a_copy():
    def electra(width):
        torch.manual_seed(width)
        return ElectraForSequenceClassification(
            ElectraConfig(
                vocab_size=WORDS,
                embedding_size=4,
                hidden_size=width,
                num_hidden_layers=1,
                num_attention_heads=1,
                intermediate_size=8,
            )
        )

    teacher, student = electra(12), electra(8)
    rotate_embeddings(student, teacher, [batch()])
    words = [model.electra.embeddings.word_embeddings.weight for model in (student, teacher)]
    assert torch.equal(*words)


@pytest.mark.parametrize("projection", [4, 12])
def test_opt_with_and_without_a_projection(projection):
    def opt(width, words):
        torch.manual_seed(width)
        return OPTForCausalLM(
            OPTConfig(
                vocab_size=WORDS,
                hidden_size=width,
                word_embed_proj_dim=words,
                num_hidden_layers=1,
                num_attention_heads=1,
                ffn_dim=8,
                max_position_embeddings=16,
            )
        )

    teacher, student = opt(12, projection), opt(3, 3)
    rotate_embeddings(student, teacher, [batch()])
    exact = gram(teacher.model.decoder.embed_tokens.weight.detach().double())
    kept = gram(student.model.decoder.embed_tokens.weight.detach().double())
    assert torch.linalg.matrix_rank(kept) == 3
    assert (exact - kept).norm() < exact.norm()


def test_the_final_layer_norm_of_a_decoder_is_not_the_embeddings():
    layer = find_embeddings(gpt2(12))
    assert layer.norm is None
    assert set(layer.tables) == {"wte", "wpe"}
    encoder = bert(12)
    assert find_embeddings(encoder).norm is encoder.bert.embeddings.LayerNorm
