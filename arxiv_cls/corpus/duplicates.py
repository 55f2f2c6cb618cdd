"""Exact duplicates: papers under different ids whose normalised title and abstract are the same.

Normalised means Unicode NFKC, case folded, every run of characters that are neither letters nor digits
(punctuation, white space, underscores) one space, none at the ends. A text with nothing left is taken as it
stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Duplicate:
    """A paper to drop and the copy that stays: positions in the arrays that were searched."""

    dropped: int
    kept: int


def normalise(text: str) -> str:
    """The form in which texts are compared, see the module's docstring."""
    if text.isascii():
        folded = text.lower()  # NFKC changes nothing there, and folding is this.
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _NO_LETTER_OR_DIGIT.sub(" ", folded).strip() or text


def find_duplicates(
    titles: pa.ChunkedArray, abstracts: pa.ChunkedArray, base_ids: Sequence[str], splits: np.ndarray
) -> list[Duplicate]:
    """Which papers to drop so that no text is there twice.

    The copy in test stays, else the one in validation: a test set must not change because its texts turn up
    in a training set. Within one split the first by base id stays.

    Args:
        titles: (papers,) strings.
        abstracts: (papers,) strings.
        base_ids: (papers,) base ids.
        splits: (papers,) int, number of the split, test the highest.

    Returns:
        The copies to drop, ascending by position.
    """
    # Only papers that share their title can be duplicates, and titles are a tenth of the text.
    by_title: dict[str, list[int]] = defaultdict(list)
    for position, title in enumerate(titles.to_pylist()):
        by_title[normalise(title)].append(position)
    found = []
    for positions in by_title.values():
        if len(positions) == 1:
            continue
        by_abstract: dict[str, list[int]] = defaultdict(list)
        for position in positions:
            by_abstract[normalise(abstracts[position].as_py())].append(position)
        for copies in by_abstract.values():
            kept, *others = sorted(copies, key=lambda copy: (-int(splits[copy]), base_ids[copy]))
            found += [Duplicate(other, kept) for other in others]
    return sorted(found, key=lambda duplicate: duplicate.dropped)
