"""Numbers and names as they are printed."""

from __future__ import annotations

import math
import unicodedata

ABSENT = "–"
NOT_FINITE = "not finite"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point; one that is not finite, which is null in JSON, in words."""
    return NOT_FINITE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def p_value(p: float | None) -> str:
    return ABSENT if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float) -> str:
    """22,713,216 → 22.7 M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def one_line(text: str) -> str:
    """A name as it may be printed: no line breaks, no control or formatting characters."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text)).split())


def unit(value: float | None, name: str) -> str:
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}{name}"
    return f"{value:.{2 if value < 10 else 1}f}{name}" if math.isfinite(value) else ABSENT
