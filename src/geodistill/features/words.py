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
    """What one tokenizer made of a text: the words that each token covers, and which words it has from end to end."""

    spans: list[Span]
    whole: frozenset[int]


def token_words(texts: Sequence[str], offsets: Sequence[Span], owners: Sequence[int | None]) -> TokenWords:
    """Return the words that each token covers, from the characters that it covers; the words are numbered through.

    `offsets` are a fast tokenizer's `offset_mapping` of one example, a text or a pair of `texts`, and `owners` its
    `sequence_ids()`, which say what text a token is of, None if it was added to it.

    A word is whole when it has a token and lies between the first and the last character of its text that have one:
    tokenizers truncate at the ends, and what they drop within a word, such as an accent, does not cut it.
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
    """Return, for each side, the number of the word that each token belongs to, −1 where it belongs to none.

    All sides number the same words alike, 0, 1, 2, … in the order of the text, and each word has a token on every side.
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
