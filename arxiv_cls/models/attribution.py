"""Which words decided for a category, in the model's own terms.

A linear baseline is a sum over its terms, so each word's part in the log-odds is exact. Any other model is
asked again with a phrase left out: what the label's log-odds lose is what the phrase gave (occlusion; Zeiler
and Fergus, 2014, on images, Li, Monroe and Jurafsky, 2016, on words). That needs nothing but scores, so it
is the same for torch, ONNX and boosted trees.

A phrase is as short as the time allows: one word in a title or a short text, some words in a long abstract.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import Predictor, check_texts

if TYPE_CHECKING:
    from arxiv_cls.models.tfidf import TermFeatures, TfidfModel

TOKEN_BUDGET = 6400
"""Tokens of all variants together: 0.9 s of one CPU core for MiniLM-L6 on ONNX Runtime in float32."""
FEWEST_PHRASES, MOST_PHRASES = 8, 200
TITLE_SHARE = 0.4
SMALLEST = 1e-9

_PIECE = re.compile(r"\S+\s*")
_SENTENCE_END = re.compile(r"[.!?;:][\"')\]]*\s*$")
_BLANK_LINE = re.compile(r"\n\s*\n\s*$")


def attribute(predictor: Predictor, text: str, label: str | None = None) -> list[tuple[str, float]]:
    """What each word or phrase of a text adds to a label's log-odds.

    For a linear baseline the weights add up to the label's logit above the mean logit of all labels (its
    logit alone in a multi-label model), less what that is for a text without any known word.

    Args:
        predictor: any kind of model.
        text: title, blank line, abstract.
        label: the category; None for the one that the model names.

    Returns:
        (words, weight) in the order of the text; joined, the words are the text without the white space
        around it. Weights are natural logarithms: above 0 is for the label, below 0 against it. What the
        model does not read (the end of a long text) weighs 0.

    Raises:
        UserError: an empty text, or a label that the model does not know.
    """
    check_texts([text])
    if label is None:
        label = predictor.predict([text])[0].label
    if label not in predictor.labels:
        raise UserError(f"no label {label!r}", hint=f"the model knows {', '.join(predictor.labels)}")
    column = predictor.labels.index(label)
    pieces = _PIECE.findall(text.strip())
    if predictor.kind == "tfidf" and predictor.model.booster is None:
        return _linear(predictor.model, pieces, column)
    return _occlusion(predictor, pieces, column)


def _linear(model: TfidfModel, pieces: list[str], column: int) -> list[tuple[str, float]]:
    centred = model.combination_of(column)
    row = model.terms.transform(["".join(pieces)])
    effects = model.linear.weights[:, row.indices].T.astype(np.float64) @ centred.astype(np.float64)
    temperature = model.temperature if model.calibration is None else 1 / model.calibration[0, column]
    parts = dict(zip(row.indices.tolist(), (row.data * effects / temperature).tolist(), strict=True))
    weights = [0.0] * len(pieces)
    for term_column, places in _term_places(model.terms, pieces).items():
        # A term that occurs twice is one number to the model; each place and each of its words bears a share.
        share = parts.get(term_column, 0.0) / len(places)
        for place in places:
            for piece in place:
                weights[piece] += share / len(place)
    return list(zip(pieces, weights, strict=True))


def _term_places(terms: TermFeatures, pieces: list[str]) -> dict[int, list[tuple[int, ...]]]:
    """Column of each known term to its places; a place is the pieces that its words stand in."""
    words = _words(terms.text, pieces)
    blocks = [(terms.text, words, 0)]
    if terms.title is not None:
        # A text without a blank line has no title, as `title_of` has it.
        end = _title_length(pieces)
        blocks.append((terms.title, _words(terms.title, pieces[:end]), terms.text_terms))
    places: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for vectorizer, found, offset in blocks:
        for length in range(1, vectorizer.ngram_range[1] + 1):
            for start in range(len(found) - length + 1):
                window = found[start : start + length]
                known = vectorizer.vocabulary_.get(" ".join(word for word, _ in window))
                if known is not None:
                    places[int(known) + offset].append(tuple(piece for _, piece in window))
    return places


def _words(vectorizer: Any, pieces: list[str]) -> list[tuple[str, int]]:
    # Per piece, because lower case can change the length of a text; no word crosses white space.
    tokenize = vectorizer.build_tokenizer()
    return [(word, number) for number, piece in enumerate(pieces) for word in tokenize(piece.lower())]


def _title_length(pieces: list[str]) -> int:
    """Pieces before the first blank line; 0 without one."""
    ends = (number for number, piece in enumerate(pieces[:-1], start=1) if _BLANK_LINE.search(piece))
    return next(ends, 0)


def _occlusion(predictor: Predictor, pieces: list[str], column: int) -> list[tuple[str, float]]:
    read, tokens = _read_by(predictor, pieces)
    phrases = _phrases(pieces[:read], TOKEN_BUDGET // max(tokens, 1))
    whole = "".join(pieces[:read])
    # A text of one word has nothing left without it: every label is then as likely as the others, or as not.
    others = 1 if predictor.multi_label else len(predictor.labels) - 1
    variants = [_without(pieces[:read], phrase) for phrase in phrases] if len(phrases) > 1 else []
    clipped = np.clip(predictor.predict_proba([whole, *variants])[:, column], SMALLEST, 1 - SMALLEST)
    log_odds = np.log(clipped) - np.log1p(-clipped)
    without = log_odds[1:] if variants else np.asarray([-math.log(others)])
    found = [
        ("".join(pieces[phrase.start : phrase.stop]), float(weight))
        for phrase, weight in zip(phrases, log_odds[0] - without, strict=True)
    ]
    return found + ([("".join(pieces[read:]), 0.0)] if read < len(pieces) else [])


def _read_by(predictor: Predictor, pieces: list[str]) -> tuple[int, int]:
    """How many pieces from the start the model reads whole, and the tokens of those."""
    encoded = predictor.encode(["".join(pieces)])[0]
    if not encoded.truncated:
        return len(pieces), encoded.tokens

    def is_cut(count: int) -> bool:
        return predictor.encode(["".join(pieces[:count])])[0].truncated

    return 1 + bisect_left(range(2, len(pieces)), True, key=is_cut), encoded.tokens


def _phrases(pieces: list[str], affordable: int) -> list[range]:
    """Ranges of pieces, about as many as are affordable; they break where the title and sentences end."""
    count = min(max(affordable, FEWEST_PHRASES), MOST_PHRASES)
    if count >= len(pieces):
        return [range(number, number + 1) for number in range(len(pieces))]
    title = _title_length(pieces)
    in_title = min(title, round(count * TITLE_SHARE)) if title else 0
    phrases = _cut(range(title), in_title) if title else []
    length = (len(pieces) - title) / (count - in_title)
    start = title
    for stop in range(title + 1, len(pieces) + 1):
        # A sentence shorter than a phrase goes with the next one: else short sentences would cost the most.
        ends = stop == len(pieces) or (_SENTENCE_END.search(pieces[stop - 1]) and stop - start >= length / 2)
        if ends:
            phrases += _cut(range(start, stop), max(1, round((stop - start) / length)))
            start = stop
    return phrases


def _cut(span: range, parts: int) -> list[range]:
    edges = [span.start + round(len(span) * part / parts) for part in range(parts + 1)]
    return [range(start, stop) for start, stop in pairwise(edges) if stop > start]


def _without(pieces: list[str], phrase: range) -> str:
    # The blank line stays when the last words of the title go: it is what makes the rest an abstract.
    kept = "\n\n" if _BLANK_LINE.search(pieces[phrase.stop - 1]) else ""
    return "".join(pieces[: phrase.start]) + kept + "".join(pieces[phrase.stop :])
