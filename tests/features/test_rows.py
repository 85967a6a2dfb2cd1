from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from geodistill.errors import GeodistillError
from geodistill.features import (
    IGNORED_LABEL,
    KINDS,
    NO_WORD,
    Rows,
    count_word_tokens,
    counted_rows,
    find_special_tokens,
    match_rows,
    response_logits_mask,
    row_width,
    select_rows,
)

OF_TEXTS = [name for name, kind in KINDS.items() if not kind.of_maps]
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


def padded(sentences, length, side, filling=float("nan")):
    """Lay sentences of token vectors into one batch; every padding position holds `filling`."""
    hidden = torch.full((len(sentences), length, sentences[0].shape[1]), filling)
    mask = torch.zeros(len(sentences), length, dtype=torch.long)
    special = torch.ones(len(sentences), length, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        start = 0 if side == "right" else length - len(sentence)
        hidden[row, start : start + len(sentence)] = sentence
        mask[row, start : start + len(sentence)] = 1
        special[row, start + 1 : start + len(sentence) - 1] = 0  # the first and the last token are special
    return hidden, mask, special


def respond(mask):
    """Labels under which the first half of each sentence's tokens, rounded up, is its prompt."""
    prompt = mask.cumsum(1) <= (mask.sum(1, keepdim=True) + 1) // 2
    return torch.where(prompt | (mask == 0), IGNORED_LABEL, 7)


def spell(mask):
    """Words of two tokens each, from the second token of each sentence on."""
    ids = (mask.cumsum(1) - 2).div(2, rounding_mode="floor")
    return torch.where(mask == 0, NO_WORD, ids)


def draw(lengths, width=5):
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, width, generator=generator) for length in lengths]


def slow_rows(sentences, kind, special_tokens):
    """The obvious definition, one sentence at a time, with no padding anywhere."""
    rows = []
    for sentence in sentences:
        inner = sentence if special_tokens else sentence[1:-1]
        if kind == "cls":
            rows.append(sentence[:1])
        elif kind == "last":
            rows.append(sentence[-1:])
        elif kind == "mean":
            rows.append((inner if len(inner) else sentence).mean(dim=0, keepdim=True))
        elif kind == "response":
            rows.append(sentence[(len(sentence) + 1) // 2 :])
        elif kind == "words":
            words = [sentence[start : start + 2].mean(dim=0) for start in range(1, len(sentence), 2)]
            rows.append(torch.stack(words) if words else sentence[:0])
        else:
            rows.append(inner)
    return torch.cat(rows)


@settings(deadline=None, max_examples=60)
@given(
    LENGTHS,
    st.integers(0, 5),
    st.sampled_from(["left", "right"]),
    st.sampled_from(OF_TEXTS),
    st.booleans(),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 7.0]),
)
def test_padding_changes_neither_values_nor_gradients(lengths, extra, side, kind, special_tokens, filling):
    sentences = draw(lengths)
    hidden, mask, special = padded(sentences, max(lengths) + extra, side, filling)
    hidden.requires_grad_()
    rows, rows_mask = select_rows(
        hidden,
        {"attention_mask": mask, "special_tokens_mask": special, "labels": respond(mask), "word_ids": spell(mask)},
        kind=kind,
        special_tokens=special_tokens,
    )
    kept = rows if rows_mask is None else rows[rows_mask]
    expected = slow_rows(sentences, kind, special_tokens)
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(rows).all()

    rows.square().sum().backward()
    assert torch.isfinite(hidden.grad).all()
    assert (hidden.grad[mask == 0] == 0).all()
    if len(expected):
        assert hidden.grad[mask == 1].abs().max() > 0


def test_tokens_come_with_a_boolean_mask_and_zeros_outside_it():
    hidden, mask, special = padded(draw([4, 2]), 5, "right")
    rows, rows_mask = select_rows(
        hidden, {"attention_mask": mask, "special_tokens_mask": special}, kind="tokens", special_tokens=False
    )
    assert rows.shape == hidden.shape
    assert rows_mask.tolist() == [[False, True, True, False, False], [False] * 5]
    assert (rows[~rows_mask] == 0).all()


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.sampled_from(["left", "right"]), st.sampled_from([float("nan"), float("inf"), 7.0]))
def test_what_a_prompt_holds_changes_neither_values_nor_gradients(lengths, side, filling):
    hidden, mask, _ = padded(draw(lengths), max(lengths) + 1, side, 0.0)
    labels = respond(mask)
    spoiled = torch.where((labels == IGNORED_LABEL).unsqueeze(-1), filling, hidden).requires_grad_()
    hidden.requires_grad_()
    found = []
    for each in (hidden, spoiled):
        rows, kept = select_rows(each, {"attention_mask": mask, "labels": labels}, kind="response")
        assert torch.equal(kept, labels != IGNORED_LABEL)
        rows.pow(3).sum().backward()
        found.append(rows)
    assert torch.equal(*found) and torch.equal(hidden.grad, spoiled.grad)
    assert (hidden.grad[labels == IGNORED_LABEL] == 0).all()


def test_a_label_on_padding_makes_no_row():
    mask = torch.tensor([[1, 1, 0]])
    kept = select_rows(
        torch.ones(1, 3, 2), {"attention_mask": mask, "labels": torch.tensor([[-100, 5, 5]])}, kind="response"
    )
    assert kept[1].tolist() == [[False, True, False]]


def test_a_response_needs_a_label_for_each_token():
    with pytest.raises(GeodistillError, match="need a label for each token"):
        select_rows(torch.zeros(2, 4, 3), {}, kind="response")
    with pytest.raises(GeodistillError, match=r"shape of the labels is \(2,\)"):
        select_rows(torch.zeros(2, 4, 3), {"labels": torch.tensor([0, 1])}, kind="response")


def slow_words(hidden, word_ids, attention_mask):
    """The means over each word's tokens, one number at a time in float64; hidden (b, t, d) as nested lists."""
    found = []
    for sentence, ids, attended in zip(hidden, word_ids, attention_mask, strict=True):
        tokens = [
            (word, token) for word, token, seen in zip(ids, sentence, attended, strict=True) if seen and word >= 0
        ]
        words = [[token for word, token in tokens if word == number] for number in sorted({word for word, _ in tokens})]
        found += [[sum(column) / len(word) for column in zip(*word, strict=True)] for word in words]
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-1, 3), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 9))
def test_words_and_their_gradient_are_those_of_a_loop_in_float64(word_ids, seed):
    generator = torch.Generator().manual_seed(seed)
    names = [sorted(set(ids) - {NO_WORD}) for ids in word_ids]
    ids = torch.tensor(
        [
            [each.index(word) if word >= 0 else NO_WORD for word in row]
            for row, each in zip(word_ids, names, strict=True)
        ]
    )
    mask = torch.ones_like(ids)
    hidden = torch.randn(*ids.shape, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    spoiled = torch.where((ids == NO_WORD).unsqueeze(-1), float("nan"), hidden)
    rows, kept = select_rows(spoiled, {"attention_mask": mask, "word_ids": ids}, kind="words")
    expected = slow_words(hidden.tolist(), ids.tolist(), mask.tolist())
    assert rows.shape == (len(ids), max(1, *map(len, names), 1), 3)
    assert kept.sum(1).tolist() == [len(each) for each in names]
    torch.testing.assert_close(rows[kept], torch.tensor(expected, dtype=torch.float64).view(-1, 3))
    assert not rows[~kept].any()
    weights = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    (rows * weights).sum().backward()
    gradient = torch.zeros_like(hidden)
    for sentence in range(len(ids)):
        for token, word in enumerate(ids[sentence].tolist()):
            if word >= 0:
                gradient[sentence, token] = weights[sentence, word] / ids[sentence].tolist().count(word)
    torch.testing.assert_close(hidden.grad, gradient)


def test_words_of_low_precision_are_averaged_in_float32():
    hidden = torch.randn(1, 300, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows, _ = select_rows(hidden, {"word_ids": torch.zeros(1, 300, dtype=torch.long)}, kind="words")
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, hidden.double().mean(1, keepdim=True).float())


def test_a_batch_without_words_has_none():
    ids = torch.full((2, 3), NO_WORD)
    assert count_word_tokens(ids).tolist() == [[0], [0]]
    rows, kept = select_rows(torch.full((2, 3, 4), torch.nan), {"word_ids": ids}, kind="words")
    assert rows.shape == (2, 1, 4) and not rows.any() and not kept.any()


def test_words_need_the_word_of_each_token():
    with pytest.raises(GeodistillError, match="need the word of each token"):
        select_rows(torch.zeros(2, 4, 3), {}, kind="words")
    with pytest.raises(GeodistillError, match=r"shape of the word_ids is \(2, 3\)"):
        select_rows(torch.zeros(2, 4, 3), {"word_ids": torch.zeros(2, 3).long()}, kind="words")


def test_without_a_mask_every_token_counts():
    hidden = torch.randn(2, 3, 4)
    assert torch.equal(select_rows(hidden, {}, kind="cls")[0], hidden[:, 0])
    assert torch.equal(select_rows(hidden, {}, kind="last")[0], hidden[:, 2])
    torch.testing.assert_close(select_rows(hidden, {}, kind="mean")[0], hidden.mean(1))
    rows, mask = select_rows(hidden, {}, kind="tokens")
    assert torch.equal(rows, hidden)
    assert mask is None


def test_boolean_and_float_masks_mean_the_same():
    hidden, mask, _ = padded(draw([3, 1]), 4, "left")
    for kind in OF_TEXTS:
        expected, _ = select_rows(
            hidden, {"attention_mask": mask, "labels": respond(mask), "word_ids": spell(mask)}, kind=kind
        )
        for other in (mask.bool(), mask.float()):
            found, _ = select_rows(
                hidden, {"attention_mask": other, "labels": respond(mask), "word_ids": spell(mask)}, kind=kind
            )
            assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", ["cls", "last", "mean"])
def test_a_sentence_without_attended_tokens_gives_zeros(kind):
    hidden = torch.full((2, 3, 4), float("nan"))
    hidden[0] = 1.0
    hidden.requires_grad_()
    rows, _ = select_rows(hidden, {"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]])}, kind=kind)
    assert torch.equal(rows, torch.tensor([[1.0], [0.0]]).expand(2, 4))
    rows.sum().backward()
    assert torch.isfinite(hidden.grad).all()


def test_the_mean_of_low_precision_is_taken_in_float32():
    hidden = torch.randn(2, 300, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    rows, _ = select_rows(hidden, {}, kind="mean")
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, hidden.double().mean(1).float())


def test_a_mistyped_kind_is_met_with_the_nearest():
    with pytest.raises(GeodistillError, match="Did you mean 'tokens'"):
        select_rows(torch.zeros(1, 2, 3), {}, kind="token")


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(GeodistillError, match=r"attention_mask is \(2, 5\)"):
        select_rows(torch.zeros(2, 4, 3), {"attention_mask": torch.ones(2, 5)}, kind="cls")


def test_leaving_special_tokens_out_needs_to_know_them():
    with pytest.raises(GeodistillError, match="return_special_tokens_mask=True"):
        select_rows(torch.zeros(2, 4, 3), {}, kind="mean", special_tokens=False)


def tokenizer(**special):
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "a": 4, "b": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", **special)


def test_special_tokens_found_from_ids_agree_with_the_tokenizer():
    words = tokenizer(cls_token="[CLS]", sep_token="[SEP]")
    encoded = words(
        ["a b a", "nonsense b"], padding=True, return_special_tokens_mask=True, return_tensors="pt"
    )  # "nonsense" becomes the unknown word, which is text
    found = find_special_tokens(encoded["input_ids"], words)
    assert torch.equal(found, encoded["special_tokens_mask"].bool())


def test_an_unknown_word_that_doubles_as_end_of_text_is_special():
    words = tokenizer(eos_token="[UNK]")
    assert find_special_tokens(torch.tensor([[4, 3]]), words).tolist() == [[False, True]]


def test_scored_logits_are_those_before_a_label():
    labels = torch.tensor([[-100, -100, 7, 8, 9], [-100, 4, -100, 5, -100], [-100] * 5, [3, 4, 5, -100, -100]])
    scored = [[1, 2, 3], [0, 2], [], [0, 1]]
    assert [row.nonzero().flatten().tolist() for row in response_logits_mask(labels)] == scored


def test_padding_on_the_left_is_not_scored_though_a_label_follows_it():
    labels = torch.tensor([[-100, -100, 7, 8]])
    assert response_logits_mask(labels, torch.tensor([[0, 0, 1, 1]])).tolist() == [[False, False, True, False]]
    assert response_logits_mask(labels[:, :1]).tolist() == [[False]]


def test_scored_logits_are_those_that_a_causal_model_takes_its_loss_from():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()
    ids = torch.randint(0, 20, (3, 7))
    labels = ids.where(torch.tensor([[0, 0, 1, 1, 1, 0, 0], [1] * 7, [0] * 6 + [1]]) > 0, -100)
    output = model(ids, labels=labels)
    mask = response_logits_mask(labels)
    targets = ids.roll(-1, 1)[mask]
    torch.testing.assert_close(output.loss, functional.cross_entropy(output.logits[mask], targets))


# Two sides


@settings(deadline=None, max_examples=40)
@given(
    LENGTHS, st.sampled_from(["left", "right"]), st.sampled_from(["left", "right"]), st.integers(0, 3), st.booleans()
)
def test_rows_meet_in_their_order_whatever_the_padding_of_each_side(lengths, one, other, extra, special_tokens):
    sides = []
    for side, length, width in ((one, max(lengths), 5), (other, max(lengths) + extra, 3)):
        hidden, mask, special = padded(draw(lengths, width), length, side)
        batch = {"attention_mask": mask, "special_tokens_mask": special}
        sides.append(select_rows(hidden, batch, kind="tokens", special_tokens=special_tokens))
    student, teacher = counted_rows(*match_rows(*sides))
    for found, width in ((student, 5), (teacher, 3)):
        expected = torch.cat([each if special_tokens else each[1:-1] for each in draw(lengths, width)])
        assert torch.equal(found, expected)


def test_a_pair_counts_where_both_sides_have_a_row():
    values = torch.arange(8.0).view(2, 4, 1)
    student = Rows(values, torch.tensor([[True, True, True, False], [False, True, False, True]]))
    teacher = Rows(-values, torch.tensor([[False, True, True, False], [True, True, True, True]]))
    found = counted_rows(*match_rows(student, teacher))
    assert [side.flatten().tolist() for side in found] == [[0, 1, 5, 7], [-1, -2, -4, -5]]
    everywhere = counted_rows(*match_rows(student, Rows(-values)))
    assert everywhere[1].flatten().tolist() == [0, -1, -2, -4, -5]


def test_rows_of_other_inputs_are_refused():
    with pytest.raises(GeodistillError, match=r"rows \(2, 3\), and the teacher \(4, 3\)"):
        match_rows(Rows(torch.zeros(2, 3)), Rows(torch.zeros(4, 3)))
    with pytest.raises(GeodistillError, match="a row for each token"):
        match_rows(Rows(torch.zeros(2, 4, 3), torch.ones(2, 4, dtype=torch.bool)), Rows(torch.zeros(2, 3)))


# Maps


def test_rows_of_maps():
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    positions, mask = select_rows(maps, {}, kind="positions")
    assert mask is None and positions.shape == (2, 4, 5, 3)
    assert torch.equal(positions[1, 2, 3], maps[1, :, 2, 3])
    torch.testing.assert_close(select_rows(maps, {}, kind="pooled").values, maps.mean((2, 3)))
    assert torch.equal(select_rows(maps, {}, kind="samples").values, maps.flatten(1))
    assert select_rows(maps, {}, kind="map").values is maps
    assert [row_width(maps, kind) for kind in ("positions", "pooled", "samples", "map")] == [3, 3, 60, 3]


@pytest.mark.parametrize("special", [0, 1, 2])
def test_patch_tokens_are_a_square_map(special):
    tokens = torch.randn(2, 9 + special, 6, generator=torch.Generator().manual_seed(0))
    positions = select_rows(tokens, {}, kind="positions").values
    assert positions.shape == (2, 3, 3, 6)
    assert torch.equal(positions.flatten(1, 2), tokens[:, special:])
    torch.testing.assert_close(select_rows(tokens, {}, kind="pooled").values, tokens[:, special:].mean(1))


@pytest.mark.parametrize("kind", ["positions", "map"])
@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 4)])
def test_vectors_are_no_maps(kind, shape):
    with pytest.raises(GeodistillError, match=f"rows '{kind}' need feature maps"):
        select_rows(torch.zeros(shape), {}, kind=kind)


def test_maps_have_no_tokens():
    with pytest.raises(GeodistillError, match="have no tokens"):
        select_rows(torch.zeros(2, 3, 4, 4), {}, kind="tokens")


@pytest.mark.parametrize("student, teacher", [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((6, 4), (3, 8)), ((5, 5), (2, 2))])
def test_grids_meet_on_the_coarser_one_by_average_pooling(student, teacher):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, *grid, generator=generator) for grid in (student, teacher)]
    *found, mask = match_rows(*(select_rows(each, {}, kind="positions") for each in maps))
    grid = [min(sides) for sides in zip(student, teacher, strict=True)]
    assert mask is None
    for rows, original in zip(found, maps, strict=True):
        expected = torch.nn.functional.adaptive_avg_pool2d(original, grid).permute(0, 2, 3, 1)
        torch.testing.assert_close(rows, expected)
