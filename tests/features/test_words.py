from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from geodistill.data.bundled.models import resolve_model
from geodistill.features import NO_WORD, align_words, count_word_tokens, select_rows, token_words

TEXTS = st.lists(st.text("abé \n", max_size=14), min_size=1, max_size=2)


@st.composite
def tokenizations(draw, texts):
    """Cut texts into tokens anywhere, spaces and several words included, drop some within and some at the ends."""
    offsets, owners = [(0, 0)], [None]
    for number, text in enumerate(texts):
        cuts = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=10))})
        kept = [span for span in pairwise(cuts) if draw(st.integers(0, 9))]
        kept = kept[draw(st.integers(0, 1)) : len(kept) - draw(st.integers(0, 2))]
        offsets += [*kept, (0, 0)]
        owners += [*[number] * len(kept), None]
    return offsets, owners


def slow_alignment(texts, sides):
    """Character by character: what a word or a token holds together is one component of a graph."""
    places = [(number, place) for number, text in enumerate(texts) for place in range(len(text)) if text[place].strip()]
    component = {place: place for place in places}

    def merge(group):
        for first, second in pairwise(place for place in group if place in component):
            old, new = component[second], component[first]
            component.update({place: new for place, owner in component.items() if owner == old})

    for number, place in places:
        merge([(number, place), (number, place + 1)])
    words = {}  # before tokens join them
    for place in places:
        words.setdefault(component[place], []).append(place)
    words = list(words.values())
    for offsets, owners in sides:
        for (start, end), owner in zip(offsets, owners, strict=True):
            merge([(owner, place) for place in range(start, end)])

    def has_whole(offsets, owners, word):
        own = [span for span, owner in zip(offsets, owners, strict=True) if owner == word[0][0] and span[0] < span[1]]
        touched = any((word[0][0], place) in word for span in own for place in range(*span))
        return touched and min(own)[0] <= word[0][1] and word[-1][1] < max(end for _, end in own)

    lacking = {component[word[0]] for word in words if not all(has_whole(*side, word) for side in sides)}
    names = list(dict.fromkeys(component[place] for place in places if component[place] not in lacking))
    return [
        [
            next(
                (names.index(c) for p in range(*span) if (c := component.get((owner, p))) in names),
                NO_WORD,
            )
            for span, owner in zip(offsets, owners, strict=True)
        ]
        for offsets, owners in sides
    ]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 3), st.data())
def test_words_are_those_of_the_slow_way(texts, count, data):
    sides = [data.draw(tokenizations(texts)) for _ in range(count)]
    found = align_words(*(token_words(texts, *side) for side in sides))
    assert found == slow_alignment(texts, sides)
    numbers = [sorted(set(side) - {NO_WORD}) for side in found]
    assert all(each == list(range(len(each))) for each in numbers)
    assert all(each == numbers[0] for each in numbers)


def aligned(text, *sides):
    return align_words(*(token_words([text], offsets, [0] * len(offsets)) for offsets in sides))


def test_the_space_that_a_token_begins_with_is_of_no_word():
    assert aligned("one two", [(0, 3), (4, 7)], [(0, 2), (2, 3), (3, 4), (3, 7)]) == [[0, 1], [0, 0, -1, 1]]


def test_words_that_a_token_covers_together_are_one():
    assert aligned("of the old man", [(0, 6), (6, 10), (10, 14)], [(0, 2), (3, 6), (7, 10), (11, 14)]) == [
        [0, 1, 2],
        [0, 0, 1, 2],
    ]
    # Chained over both sides, all four are one.
    assert aligned("a b c d", [(0, 3), (4, 7)], [(0, 1), (2, 5), (6, 7)]) == [[0, 0], [0, 0, 0]]


@pytest.mark.parametrize("cut", [[(0, 3)], [(0, 3), (4, 6)]])
def test_a_word_that_was_cut_is_of_no_side(cut):
    """Neither the half word nor the word that it would have been one with has a row, on the other side either."""
    whole = [(0, 3), (4, 6), (6, 7), (8, 11)]
    assert aligned("one two six", cut, whole) == [[0, *[-1] * (len(cut) - 1)], [0, -1, -1, -1]]
    assert aligned("one two six", [(0, 3), (3, 6)], [(0, 7), (8, 11)]) == [[-1, -1], [-1, -1]]


def test_what_a_tokenizer_drops_within_a_word_does_not_cut_it():
    assert aligned("e\u0301te\u0301 bo\u0301n mo", [(0, 1), (2, 4), (6, 8), (9, 10), (11, 13)]) == [[0, 0, 1, 1, 2]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pair", [None, "was the naïve façade, of a café, n\u0303 😀 real?"])
def test_a_wordpiece_and_a_bpe_tokenizer_agree_on_the_words(side, pair):
    models = ("bundled:minilm-l6", "bundled:smollm2-135m")
    tokenizers = [AutoTokenizer.from_pretrained(resolve_model(name)) for name in models]
    text = "Who  was\tthe first 1st-class  unbelievably naïve\nastronaut 😀 in Übersee, 東京 ?"
    texts = [text] if pair is None else [text, pair]
    for limit in (512, 40, 30, 17, 9, 5):
        sides, spelt = [], []
        for tokenizer in tokenizers:
            tokenizer.truncation_side = side
            encoded = tokenizer(*texts, truncation=True, max_length=limit, return_offsets_mapping=True)
            sides.append(token_words(texts, encoded["offset_mapping"], encoded.sequence_ids()))
            spelt.append((encoded["offset_mapping"], encoded.sequence_ids()))
        both = align_words(*sides)
        words = [word for each in texts for word in each.split()]
        kept = sides[0].whole & sides[1].whole
        assert max(map(max, both)) + 1 == len(kept) <= len(words)
        assert limit < 512 or len(kept) == len(words)
        for ids, (offsets, owners) in zip(both, spelt, strict=True):
            for number, word in enumerate(sorted(kept)):
                own = [place for place, each in enumerate(ids) if each == number]
                start, end = offsets[own[0]][0], offsets[own[-1]][1]
                # WordPiece drops an accent that is a separate character.
                assert texts[owners[own[0]]][start:end].strip().rstrip("\u0303") == words[word].rstrip("\u0303")


def test_a_word_row_holds_the_same_text_on_both_sides():
    """Hidden states that are each token's characters: the words' rows differ by how the characters are cut alone."""
    text = "Which astronaut was unbelievably the first?"
    models = ("bundled:minilm-l6", "bundled:smollm2-135m")
    sides = [AutoTokenizer.from_pretrained(resolve_model(name))(text, return_offsets_mapping=True) for name in models]
    both = align_words(*(token_words([text], side["offset_mapping"], side.sequence_ids()) for side in sides))
    characters = []
    for side, ids in zip(sides, both, strict=True):
        counts = [len(text[start:end].replace(" ", "")) for start, end in side["offset_mapping"]]
        word_ids = torch.tensor([ids])
        hidden = torch.tensor(counts, dtype=torch.float64).view(1, -1, 1)
        rows, mask = select_rows(hidden, {"word_ids": word_ids}, kind="words")
        assert mask.all()
        characters.append((rows[0, :, 0] * count_word_tokens(word_ids)[0]).tolist())
    assert characters[0] == characters[1] == [len(word) for word in text.split()]
