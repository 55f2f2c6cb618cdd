"""Counts of a text that tell what kind of texts a model is asked about, without keeping the text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

TEXT_FEATURES = (
    "characters",
    "words",
    "mean_word_length",
    "non_ascii_share",
    "digit_share",
    "upper_case_share",
    "line_breaks",
    "markup_share",
)
# What LaTeX, HTML and Markdown have many of, and prose nearly none.
MARKUP = frozenset("\\${}^_<>&#~|`*=")


def text_features(text: str) -> dict[str, float]:
    """Counts of one text, and shares from 0 to 1 of its characters (of its letters for capitals)."""
    words = re.findall(r"\w+", text)
    # One pass in C, then a look at each of the few characters that occur: the request log's thread shares the
    # interpreter with those that answer.
    counts = Counter(text)

    def number(belongs: Callable[[str], bool]) -> int:
        return sum(count for character, count in counts.items() if belongs(character))

    return {
        "characters": len(text),
        "words": len(words),
        "mean_word_length": round(sum(map(len, words)) / max(1, len(words)), 3),
        "non_ascii_share": round((len(text) - number(str.isascii)) / len(text), 5),
        "digit_share": round(number(str.isdigit) / len(text), 5),
        "upper_case_share": round(number(str.isupper) / max(1, number(str.isalpha)), 5),
        "line_breaks": text.count("\n"),
        "markup_share": round(number(MARKUP.__contains__) / len(text), 5),
    }
