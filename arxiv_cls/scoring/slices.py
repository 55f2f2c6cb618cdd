"""Slices of an evaluation: where does the model do worse than on the whole?"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from arxiv_cls.scoring.metrics import confusion_matrix, f1_from_counts
from arxiv_cls.scoring.plots import wilson_interval
from arxiv_cls.scoring.scored_papers import ScoredPapers

# Below this many papers an accuracy says little (its 95% interval is over 0.3 wide): years are pooled.
SMALLEST_SLICE = 30
WORD_EDGES = (100, 150, 200, 250)


def slice_metrics(scored: ScoredPapers, chosen: np.ndarray) -> dict[str, Any]:
    """Size, accuracy with its Wilson interval, and macro-F1 of some of the papers.

    Args:
        scored: the papers.
        chosen: (n,) mask with at least one paper.
    """
    labels, predicted = scored.labels[chosen], scored.predicted[chosen]
    matrix = confusion_matrix(labels, predicted, len(scored.label_names))
    hits = np.diagonal(matrix)
    low, high = wilson_interval(hits.sum(), matrix.sum())
    macro_f1 = f1_from_counts(hits, matrix.sum(axis=1), matrix.sum(axis=0))["macro_f1"]
    return {
        "n": len(labels),
        "accuracy": float(hits.sum() / len(labels)),
        "accuracy_interval": [float(low), float(high)],
        "macro_f1": float(macro_f1),
    }


def pooled_years(years: np.ndarray, smallest: int = SMALLEST_SLICE) -> list[tuple[int, int]]:
    """Runs of years, first and last, of at least `smallest` papers each where there are so many.

    Earliest first; a rest that is too small joins the run before it.
    """
    found, counts = np.unique(years, return_counts=True)
    runs: list[tuple[int, int]] = []
    first, papers = None, 0
    for year, count in zip(found.tolist(), counts.tolist(), strict=True):
        first = year if first is None else first
        papers += count
        if papers >= smallest:
            runs.append((first, year))
            first, papers = None, 0
    if first is not None:
        last = int(found[-1])
        runs = [*runs[:-1], (runs[-1][0], last)] if runs else [(first, last)]
    return runs


def slices_by_year(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """`slice_metrics` of each run of years, earliest first; keys such as `1993-2001` and `2015`.

    Papers without a date are in none.
    """
    return {
        str(first) if first == last else f"{first}-{last}": slice_metrics(
            scored, (scored.years >= first) & (scored.years <= last)
        )
        for first, last in pooled_years(scored.years[scored.years > 0])
    }


def slices_by_words(scored: ScoredPapers) -> dict[str, dict[str, Any]]:
    """`slice_metrics` by the number of words of title and abstract; lengths without papers are left out."""
    place = np.searchsorted(WORD_EDGES, scored.words, side="right")
    names = [
        f"under {WORD_EDGES[0]}",
        *(f"{low} to {high - 1}" for low, high in itertools.pairwise(WORD_EDGES)),
        f"{WORD_EDGES[-1]} and more",
    ]
    return {
        name: slice_metrics(scored, place == number)
        for number, name in enumerate(names)
        if (place == number).any()
    }
