"""Intervals: the bootstrap of all metrics at once, Wilson's of a share, McNemar's test of two models.

The bootstrap (Efron and Tibshirani, 1993) goes without a loop over resamples. A resample is a row of weights:
how often each paper was drawn. Counts and means follow from sums over papers, so a block of resamples is one
product of weights and columns; the calibration error follows from cumulative sums in the order of the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from arxiv_cls.scoring.calibration import ECE_BINS, equal_mass_cuts
from arxiv_cls.scoring.metrics import METRICS, check_scores, f1_per_class, true_label_ranks

RESAMPLES = 1000
CONFIDENCE = 0.95
_ENDS = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
_CELLS_AT_A_TIME = 300_000  # weights held at once; few enough to stay in the cache


class Difference(NamedTuple):
    """One metric of model B less that of model A on the same papers."""

    difference: float
    low: float
    high: float
    p_value: float  # two-sided, from the share of resamples on either side of zero


def resample_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Multinomial weights in blocks of (rows, count) integers, the same for the same arguments.

    Each row adds up to `count`, the number of papers; all blocks together have `resamples` rows.
    """
    generator = np.random.default_rng(seed)
    at_a_time = max(1, _CELLS_AT_A_TIME // count)
    for first in range(0, resamples, at_a_time):
        rows = min(at_a_time, resamples - first)
        drawn = generator.integers(0, count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


class Resampler:
    """The metrics of (n,) labels and (n, k) probabilities of k classes, named or not, as `check_scores`."""

    def __init__(
        self, labels: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str] = ()
    ) -> None:
        labels, probabilities = check_scores(labels, probabilities)
        self.label_names = label_names
        self.count, self.classes = count, _ = probabilities.shape
        is_right = true_label_ranks(labels, probabilities) == 0
        # Three counts a class: right, there, predicted. Sparse, since a paper is in three at most, and many
        # papers of many classes would not fit otherwise.
        papers = np.arange(count)
        right = papers[is_right]
        predicted = 2 * self.classes + probabilities.argmax(axis=1)
        rows = np.concatenate([labels[right], self.classes + labels, predicted])
        places = np.concatenate([right, papers, papers])
        self.counts = csr_array((np.ones(len(rows)), (rows, places)), shape=(3 * self.classes, count))
        of_papers = {name: metric.of_papers for name, metric in METRICS.items() if metric.of_papers}
        self.mean_names = list(of_papers)
        self.means = np.column_stack([of(labels, probabilities) for of in of_papers.values()])
        confidence = probabilities.max(axis=1)
        self.order = np.argsort(confidence, kind="stable")
        confidence = confidence[self.order]
        self.gaps = is_right[self.order] - confidence
        self.first_of_tie = np.searchsorted(confidence, confidence, side="left")
        self.cuts = equal_mass_cuts(count, ECE_BINS)

    def measured(self) -> dict[str, float]:
        """{metric: value} of the papers as they are."""
        once = self._metrics(np.ones((1, self.count), dtype=np.int64))
        return {name: float(values[0]) for name, values in once.items()}

    def drawn(self, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, np.ndarray]:
        """{metric: (resamples,)} of all `METRICS`, and of `f1/<name>` of named classes."""
        blocks = [self._metrics(weights) for weights in resample_weights(self.count, resamples, seed)]
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    def _metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """{metric: (rows,)} of (rows, n) weights."""
        weights_as_float = weights.astype(np.float64)
        sums = (self.counts @ weights_as_float.T).T
        hits, actual, predicted = np.split(sums, 3, axis=1)
        counts = hits, actual, predicted
        means = dict(zip(self.mean_names, (weights_as_float @ self.means).T / len(self.order), strict=True))
        found = {}
        for name, metric in METRICS.items():
            if metric.of_counts is not None:
                found[name] = metric.of_counts(counts)
            else:
                found[name] = means[name] if name in means else self._calibration_errors(weights)
        per_class = f1_per_class(counts)
        return found | {f"f1/{name}": per_class[:, index] for index, name in enumerate(self.label_names)}

    def _calibration_errors(self, weights: np.ndarray) -> np.ndarray:
        rows, count = weights.shape
        weights = weights[:, self.order]
        gap_sums = np.zeros((rows, count + 1))
        np.cumsum(weights * self.gaps, axis=1, out=gap_sums[:, 1:])
        # Every row holds `count` draws, so one running count over all rows finds each row's cuts at once.
        row = np.arange(rows)[:, None]
        drawn = np.cumsum(weights.ravel())
        at_cut = np.searchsorted(drawn, self.cuts + row * count, side="right") - row * count
        starts = np.append(self.first_of_tie[at_cut], np.full((rows, 1), count), axis=1)
        bin_sums = np.diff(np.take_along_axis(gap_sums, starts, axis=1), axis=1)
        return np.abs(bin_sums).sum(axis=1) / count


def _centred(name: str, values: np.ndarray, estimate: float) -> np.ndarray:
    # Resampling adds noise to every bin and an absolute value cannot average it out: bootstrap calibration
    # errors lie above the measured one by construction. Moved onto it, they show its spread.
    if name != "expected_calibration_error":
        return values
    return values + (estimate - values.mean())


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """{metric: (low, high)}: 95% percentile intervals of what the `Resampler` of these arguments draws."""
    return intervals_of(Resampler(labels, probabilities, label_names), seed, resamples)


def intervals_of(
    resampler: Resampler, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """`bootstrap_intervals` of the metrics of a resampler."""
    measured = resampler.measured()
    intervals = {}
    for name, values in resampler.drawn(seed, resamples).items():
        # A resample without a paper of a rare label says nothing of it.
        low, high = np.nanquantile(_centred(name, values, measured[name]), _ENDS)
        intervals[name] = (max(0.0, float(low)), float(high))
    return intervals


def paired_bootstrap(
    labels: np.ndarray,
    probabilities_a: np.ndarray,
    probabilities_b: np.ndarray,
    label_names: Sequence[str] = (),
) -> dict[str, Difference]:
    """{metric: Difference}: B less A on the same papers and the same resamples, with 95% intervals.

    Arguments as of `Resampler`; p-values are never below 2 / (`RESAMPLES` + 1).
    """
    return paired_differences(
        *(Resampler(labels, given, label_names) for given in (probabilities_a, probabilities_b))
    )


def paired_differences(model_a: Resampler, model_b: Resampler) -> dict[str, Difference]:
    """`paired_bootstrap` of two resamplers of the same papers."""
    before, after = model_a.measured(), model_b.measured()
    # The seed alone decides the weights: both models are drawn on the same resamples.
    drawn_a, drawn_b = model_a.drawn(), model_b.drawn()
    found = {}
    for name in before:
        estimate = after[name] - before[name]
        drawn = _centred(name, drawn_b[name] - drawn_a[name], estimate)
        low, high = np.nanquantile(drawn, _ENDS)
        on_one_side = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p_value = min(1.0, 2 * (on_one_side + 1) / (RESAMPLES + 1))
        found[name] = Difference(estimate, float(low), float(high), float(p_value))
    return found


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927), sound for small counts and shares near 0 or 1; count > 0."""
    from scipy.stats import binomtest

    ends = binomtest(int(hits), int(count)).proportion_ci(CONFIDENCE, method="wilson")
    return float(ends.low), float(ends.high)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test (McNemar, 1947) of two (n,) masks of right answers.

    Papers that only A has right, only B, and the two-sided p-value of both erring equally often.
    """
    from scipy.stats import binomtest

    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
