"""Bootstrap intervals of all metrics at once (Efron and Tibshirani, 1993), without a loop over resamples.

A resample is a row of weights: how often each paper was drawn. Accuracy, F1, log-loss and Brier score
follow from sums over papers, so a block of resamples is one product of weights and columns; the calibration
error follows from cumulative sums in the order of the scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from arxiv_cls.scoring.calibration import ECE_BINS, equal_mass_cuts
from arxiv_cls.scoring.metrics import brier_scores, check_scores, f1_from_counts, log_losses, true_label_ranks

RESAMPLES = 1000
_CELLS_AT_A_TIME = 300_000  # weights held at once; few enough to stay in the cache


class Difference(NamedTuple):
    """One metric of model B less that of model A on the same papers."""

    difference: float
    low: float
    high: float
    p_value: float  # two-sided, from the share of resamples on either side of zero


def resample_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[np.ndarray]:
    """Multinomial weights in blocks of rows, the same for the same arguments.

    Args:
        count: papers, n.
        resamples: rows in all blocks together.
        seed: of the random numbers.

    Yields:
        (rows, n) integers; each row adds up to n.
    """
    generator = np.random.default_rng(seed)
    at_a_time = max(1, _CELLS_AT_A_TIME // count)
    for first in range(0, resamples, at_a_time):
        rows = min(at_a_time, resamples - first)
        drawn = generator.integers(0, count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


class _Resampler:
    """Turns weights into metrics for one model's predictions."""

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]) -> None:
        labels, probabilities = check_scores(labels, probabilities)
        self.label_names = label_names
        count, self.classes = probabilities.shape
        predicted = probabilities.argmax(axis=1)
        ranks = true_label_ranks(labels, probabilities)
        # Three counts a class: right, there, predicted. Sparse, since a paper is in three at most, and many
        # papers of many classes would not fit otherwise.
        papers = np.arange(count)
        right = papers[ranks == 0]
        rows = np.concatenate([labels[right], self.classes + labels, 2 * self.classes + predicted])
        places = np.concatenate([right, papers, papers])
        self.counts = csr_array((np.ones(len(rows)), (rows, places)), shape=(3 * self.classes, count))
        self.means = np.column_stack(
            [ranks < 2, ranks < 3, log_losses(labels, probabilities), brier_scores(labels, probabilities)]
        )
        confidence = probabilities.max(axis=1)
        self.order = np.argsort(confidence, kind="stable")
        confidence = confidence[self.order]
        self.gaps = (ranks == 0)[self.order] - confidence
        self.first_of_tie = np.searchsorted(confidence, confidence, side="left")
        self.cuts = equal_mass_cuts(count, ECE_BINS)

    def metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """{metric: (rows,)} of (rows, n) weights."""
        count = weights.shape[1]
        weights_as_float = weights.astype(np.float64)
        sums = (self.counts @ weights_as_float.T).T
        hits, actual, predicted = (
            sums[:, part * self.classes : (part + 1) * self.classes] for part in range(3)
        )
        scores = f1_from_counts(hits, actual, predicted)
        per_class = scores.pop("per_class")
        top_2, top_3, log_loss, brier = (weights_as_float @ self.means).T / count
        return {
            "accuracy": hits.sum(axis=1) / count,
            **scores,
            "top_2_accuracy": top_2,
            "top_3_accuracy": top_3,
            "log_loss": log_loss,
            "brier_score": brier,
            "expected_calibration_error": self._calibration_errors(weights),
            **{f"f1/{name}": per_class[:, index] for index, name in enumerate(self.label_names)},
        }

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


def bootstrap_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    label_names: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, np.ndarray]:
    """The metrics of every resample.

    Args:
        labels: (n,) true class numbers.
        probabilities: (n, k).
        label_names: the k class names; given, `f1/<name>` of each class is returned too.
        seed: of the resampling.
        resamples: how many.

    Returns:
        {metric: (resamples,)} for all `SCALAR_METRICS`.

    Raises:
        ValueError: as `compute_metrics`.
    """
    resampler = _Resampler(labels, probabilities, label_names)
    blocks = [resampler.metrics(weights) for weights in resample_weights(len(labels), resamples, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


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
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals; the calibration error's is centred on the measured value (never below 0).

    Args:
        labels: (n,) true class numbers.
        probabilities: (n, k).
        label_names: the k class names; given, `f1/<name>` of each class has its interval too.
        seed: of the resampling.
        resamples: how many.
        confidence: share of resamples inside.

    Returns:
        {metric: (low, high)} for all `SCALAR_METRICS`.
    """
    drawn = bootstrap_metrics(labels, probabilities, label_names, seed, resamples)
    measured = _measured(_Resampler(labels, probabilities, label_names), len(labels))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals = {}
    for name, values in drawn.items():
        low, high = np.quantile(_centred(name, values, measured[name]), ends)
        intervals[name] = (max(0.0, float(low)), float(high))
    return intervals


def _measured(resampler: _Resampler, count: int) -> dict[str, float]:
    once = resampler.metrics(np.ones((1, count), dtype=np.int64))
    return {name: float(values[0]) for name, values in once.items()}


def paired_bootstrap(
    labels: np.ndarray,
    probabilities_a: np.ndarray,
    probabilities_b: np.ndarray,
    label_names: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> dict[str, Difference]:
    """Metrics of B less those of A on the same papers and the same resamples.

    Args:
        labels: (n,) true class numbers.
        probabilities_a: (n, k) of the first model.
        probabilities_b: (n, k) of the second.
        label_names: the k class names; given, `f1/<name>` of each class is compared too.
        seed: of the resampling.
        resamples: how many.
        confidence: share of resamples inside the interval.

    Returns:
        {metric: Difference}; p-values are never below 2 / (resamples + 1).
    """
    models = [_Resampler(labels, given, label_names) for given in (probabilities_a, probabilities_b)]
    blocks = [
        tuple(model.metrics(weights) for model in models)
        for weights in resample_weights(len(labels), resamples, seed)
    ]
    before, after = (_measured(model, len(labels)) for model in models)
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    found = {}
    for name in before:
        estimate = after[name] - before[name]
        drawn = _centred(name, np.concatenate([b[name] - a[name] for a, b in blocks]), estimate)
        low, high = np.quantile(drawn, ends)
        on_one_side = min((drawn <= 0).sum(), (drawn >= 0).sum())
        p_value = min(1.0, 2 * (on_one_side + 1) / (resamples + 1))
        found[name] = Difference(estimate, float(low), float(high), float(p_value))
    return found


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test (McNemar, 1947): do two models err equally often on the same papers?

    Args:
        correct_a: (n,) whether A is right on each paper.
        correct_b: (n,) whether B is.

    Returns:
        Papers only A has right, papers only B has right, two-sided binomial p-value.
    """
    from scipy.stats import binomtest

    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    if only_a + only_b == 0:
        return 0, 0, 1.0
    return only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue)
