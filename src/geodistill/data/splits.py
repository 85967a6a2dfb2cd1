"""Cutting rows into parts, the same on every machine and in any order of the rows: the text's hash decides."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any


def text_key(text: str, pair: str = "") -> str:
    """What two texts share when they differ in case and white space only."""
    return "\n".join(map(normalized, (text, pair)))


def normalized(text: str) -> str:
    """The text in small letters, with one space wherever it has white space."""
    return " ".join(text.casefold().split())


def cut(keys: Sequence[str], strata: Sequence[Any], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Indices of the parts named in `shares`, and of the rest as `train`, in the order of the rows.

    Each stratum (a class) is shared out by itself, and at least one of its texts stays in `train`. Rows with the same
    key are one text and go to one part, so no text is both trained on and reported on.
    """
    texts: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        texts.setdefault(key, []).append(index)
    by_stratum: dict[Hashable, list[str]] = {}
    for key, indices in texts.items():
        by_stratum.setdefault(strata[indices[0]], []).append(key)
    parts: dict[str, list[int]] = {name: [] for name in ("train", *shares)}
    for members in by_stratum.values():
        rest = sorted(members, key=lambda key: _rank(key, f"cut {seed}"))
        for name, share in shares.items():
            count = min(round(share * len(members)), len(rest) - 1)
            parts[name] += [index for key in rest[:count] for index in texts[key]]
            rest = rest[count:]
        parts["train"] += [index for key in rest for index in texts[key]]
    return {name: sorted(indices) for name, indices in parts.items()}


def sample(keys: Sequence[str], limit: int, seed: int) -> list[int]:
    """At most `limit` indices in the order of the rows; those of a smaller limit are among those of a larger one."""
    if limit >= len(keys):
        return list(range(len(keys)))
    return sorted(sorted(range(len(keys)), key=lambda index: (_rank(keys[index], f"limit {seed}"), index))[:limit])


def _rank(key: str, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}\n{key}".encode()).digest()
