"""From text to a sparse tf-idf row: words and word pairs of the whole text, then those of its title again.

A title says more per word than an abstract, so its terms get columns of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfVectorizer

TITLE_PREFIX = "title:"
_BLANK_LINE = re.compile(r"\n\s*\n")


def title_of(text: str) -> str:
    """The part before the first blank line; an empty string when there is none."""
    parts = _BLANK_LINE.split(text.strip(), maxsplit=1)
    return parts[0].strip() if len(parts) == 2 else ""


@dataclass
class TermFeatures:
    """The vocabulary and weights of both blocks of columns.

    Attributes:
        text: fitted vectoriser of the whole text.
        title: fitted vectoriser of the title; None when titles get no columns of their own.
        title_weight: factor on the title's columns; each block's rows have length 1 before it.
    """

    text: TfidfVectorizer
    title: TfidfVectorizer | None
    title_weight: float

    @classmethod
    def fit(
        cls, texts: Sequence[str], *, ngram_max: int, min_df: int, title_weight: float
    ) -> tuple[TermFeatures, sp.csr_matrix]:
        """Learns vocabulary and idf from the training texts.

        Args:
            texts: n training texts.
            ngram_max: longest term, in words.
            min_df: a term must occur in this many texts.
            title_weight: see the class; 0 leaves the titles out.

        Returns:
            The features and the (n, features) float32 rows of the texts.

        Raises:
            ValueError: when no term is frequent enough.
        """
        blocks = []
        text = _vectorizer(ngram_range=(1, ngram_max), min_df=min_df)
        blocks.append(text.fit_transform(texts))
        title = None
        titles = [title_of(text_) for text_ in texts]
        if title_weight > 0 and any(titles):
            title = _vectorizer(ngram_range=(1, ngram_max), min_df=min_df)
            try:
                blocks.append(title.fit_transform(titles) * np.float32(title_weight))
            except ValueError:
                # So few titles that no term repeats: the whole text has to do.
                title = None
        return cls(text, title, title_weight), sp.hstack(blocks, format="csr")

    def transform(self, texts: Sequence[str]) -> sp.csr_matrix:
        """(n, features) float32 rows; terms outside the vocabulary are left out."""
        blocks = [self.text.transform(texts)]
        if self.title is not None:
            titles = self.title.transform([title_of(text) for text in texts])
            blocks.append(titles * np.float32(self.title_weight))
        return sp.hstack(blocks, format="csr")

    @property
    def text_terms(self) -> int:
        """Number of columns of the whole text; the title's follow."""
        return len(self.text.idf_)

    @property
    def width(self) -> int:
        """Number of columns, those of titles among them."""
        return self.text_terms + (0 if self.title is None else len(self.title.idf_))

    def names(self) -> list[str]:
        """The term of each column; those of titles start with `title:`."""
        names = list(self.text.get_feature_names_out())
        if self.title is not None:
            names += [TITLE_PREFIX + name for name in self.title.get_feature_names_out()]
        return names

    def state(self) -> dict[str, Any]:
        """Plain arrays and numbers from which `from_state` makes the same features."""
        return {
            "text": _vectorizer_state(self.text),
            "title": None if self.title is None else _vectorizer_state(self.title),
            "title_weight": float(self.title_weight),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> TermFeatures:
        """The features that `state` was taken from.

        Raises:
            ValueError: the terms are not as many as their idf.
        """
        title = state["title"]
        return cls(
            _vectorizer_from_state(state["text"]),
            None if title is None else _vectorizer_from_state(title),
            state["title_weight"],
        )


def _vectorizer(**settings: Any) -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **settings)


def _vectorizer_state(vectorizer: TfidfVectorizer) -> dict[str, Any]:
    # One array of bytes instead of a dictionary of 200,000 entries: skops writes a node per entry.
    joined = "\n".join(vectorizer.get_feature_names_out())
    return {
        "terms": np.frombuffer(joined.encode("utf-8"), dtype=np.uint8),
        "idf": np.asarray(vectorizer.idf_, dtype=np.float32),
        "ngram_max": int(vectorizer.ngram_range[1]),
    }


def _vectorizer_from_state(state: dict[str, Any]) -> TfidfVectorizer:
    terms = state["terms"].tobytes().decode("utf-8").split("\n")
    vocabulary = {term: column for column, term in enumerate(terms)}
    if not len(vocabulary) == len(terms) == len(state["idf"]):
        raise ValueError(f"{len(vocabulary)} different terms among {len(terms)}, {len(state['idf'])} of idf")
    vectorizer = _vectorizer(ngram_range=(1, state["ngram_max"]), vocabulary=vocabulary)
    vectorizer.idf_ = state["idf"]
    return vectorizer
