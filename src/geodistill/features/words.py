"""The words that the tokens of different tokenizers have in common, so that rows of models without one can be paired.

Words are what white space separates. A token belongs to the words whose characters it covers, by the character offsets
of a fast tokenizer; the space that a BPE token begins with counts for nothing. If a token covers several words, on
any side, those words are one. Words that a side lacks, or has not from end to end, are left out on all sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

NO_WORD = -1  # of a token that belongs to no word, such as a special one or padding
Span = tuple[int, int]
"""A half-open range, of characters or of words; an empty one is nowhere."""


class TokenWords(NamedTuple):
    """What one tokenizer made of a text.

    Args:
        spans: for each token, the half-open range of the words that it covers; an empty range covers none.
        whole: the numbers of the words that the tokenizer has from end to end.

    Example:
        token_words(["one word"], [(0, 3), (3, 8)], [0, 0]).spans  # [(0, 1), (1, 2)]
    """

    spans: list[Span]
    whole: frozenset[int]


def token_words(texts: Sequence[str], offsets: Sequence[Span], owners: Sequence[int | None]) -> TokenWords:
    """Return the words that each token covers, from the characters that it covers.

    A word is whole if it has a token and lies between the first and the last character of its text that have one.
    Tokenizers truncate at the ends; what they drop within a word, such as an accent, does not cut it.

    Args:
        texts: one text, or the two texts of a pair. Their words are numbered through.
        offsets: a fast tokenizer's `offset_mapping` of one example.
        owners: the `sequence_ids()` of the same example: the text of each token, None for a token that was added.

    Returns:
        The words of each token, and the words that are whole.

    Example:
        encoded = tokenizer(text, return_offsets_mapping=True)
        token_words([text], encoded["offset_mapping"], encoded.sequence_ids())
    """
    spans: list[Span] = [(0, 0)] * len(offsets)
    whole: list[int] = []
    before = 0
    for number, text in enumerate(texts):
        words = [match.span() for match in re.finditer(r"\S+", text)]
        word_at = [NO_WORD] * len(text)
        for word, (start, end) in enumerate(words):
            word_at[start:end] = [before + word] * (end - start)
        own = [place for place, owner in enumerate(owners) if owner == number and offsets[place][0] < offsets[place][1]]
        present: set[int] = set()
        for place in own:
            covered = [word for word in word_at[slice(*offsets[place])] if word != NO_WORD]
            if covered:
                spans[place] = (covered[0], covered[-1] + 1)
                present.update(range(*spans[place]))
        first = min((offsets[place][0] for place in own), default=0)
        last = max((offsets[place][1] for place in own), default=0)
        whole += [
            before + word
            for word, (start, end) in enumerate(words)
            if before + word in present and first <= start and end <= last
        ]
        before += len(words)
    return TokenWords(spans, frozenset(whole))


def align_words(*sides: TokenWords) -> list[list[int]]:
    """Number the words that all sides have, and say for each token which of them it belongs to.

    All sides number the same words alike, 0, 1, 2, … in the order of the text, and each word has a token on every side.
    Words that one token covers together, on any side, are one word.

    Args:
        *sides: what each tokenizer made of the same text.

    Returns:
        For each side, the word of each token, −1 for a token without one.

    Example:
        student_ids, teacher_ids = align_words(student_words, teacher_words)
    """
    spans = [span for side in sides for span in side.spans if span[0] < span[1]]
    count = max((end for _, end in spans), default=0)
    joined = [False] * count  # whether a word is one with the next
    for start, end in spans:
        joined[start : end - 1] = [True] * (end - 1 - start)
    shared = frozenset.intersection(*(side.whole for side in sides))
    number_of = [NO_WORD] * count
    start = found = 0
    for word in range(count):
        if joined[word]:
            continue
        run = range(start, word + 1)
        if shared.issuperset(run):
            number_of[start : word + 1] = [found] * len(run)
            found += 1
        start = word + 1
    return [[number_of[start] if start < end else NO_WORD for start, end in side.spans] for side in sides]
