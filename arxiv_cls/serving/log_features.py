"""What the request log says of a text instead of the text itself: the features that drift is seen in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

_WORD = re.compile(r"\w+")


def text_features(text: str, tokens: int) -> dict[str, Any]:
    """Counts and shares of one text.

    Args:
        text: as it was scored, not blank.
        tokens: how many of them the model read, after truncation.

    Returns:
        characters, words, tokens, mean_word_length (characters), non_ascii_share and digit_share (of the
        characters, 0 to 1), upper_case_share (of the letters), line_breaks.
    """
    words = _WORD.findall(text)
    # One pass in C, then a look at each of the few characters that occur: this thread shares the interpreter
    # with those that answer.
    counts = Counter(text)
    letters = _sum_of(counts, str.isalpha)
    return {
        "characters": len(text),
        "words": len(words),
        "tokens": tokens,
        "mean_word_length": round(sum(map(len, words)) / max(1, len(words)), 3),
        "non_ascii_share": round((len(text) - _sum_of(counts, str.isascii)) / len(text), 5),
        "digit_share": round(_sum_of(counts, str.isdigit) / len(text), 5),
        "upper_case_share": round(_sum_of(counts, str.isupper) / max(1, letters), 5),
        "line_breaks": text.count("\n"),
    }


def _sum_of(counts: Counter[str], belongs: Callable[[str], bool]) -> int:
    return sum(count for character, count in counts.items() if belongs(character))
