"""Is a window of texts like the reference? Five groups of tests, one p-value, one verdict.

scores    Kolmogorov-Smirnov on each score and the highest one, Bonferroni
labels    chi-square of two samples on the predicted labels
text      Kolmogorov-Smirnov on each text feature, Bonferroni
unusual   share of texts outside the reference's range in any feature, one-sided Fisher
scope     share of texts out of scope, one-sided Fisher

Together p = min(1, groups x smallest): Bonferroni again, so that the rule holds whatever the groups have in
common. An alarm is p < 0.001, or p < 0.02 in two windows running: on 9,000 windows of real papers with no
shift 0.1% are alarms, and 3.3% of runs of 30 windows have one (5.0% with 0.05 twice, for no more power).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import chdtrc
from scipy.stats import hypergeom, kstwo

from arxiv_cls.models.text_features import TEXT_FEATURES
from arxiv_cls.scoring.reference import FEATURES, Reference, Rows

WINDOW = 300
FEWEST = 100
ALARM_P, TWICE_P, WATCH_P = 0.001, 0.02, 0.05
OK, WATCH, ALARM, TOO_FEW = "ok", "watch", "alarm", "too_few"
# Ranges of one half of the reference, counts of the other: in-sample ranges alarm falsely twice as often.
USUAL_QUANTILES = (0.002, 0.998)
SMALLEST_EXPECTED = 5
TOP_SCORE = "highest score"
_BINS = 20


def verdict_of(p: float, p_before: float | None) -> str:
    """The verdict on a window, from its p-value and that of the window before it (None: there is none)."""
    if p < ALARM_P or (p < TWICE_P and p_before is not None and p_before < TWICE_P):
        return ALARM
    return WATCH if p < WATCH_P else OK


def worst(verdicts: Sequence[str]) -> str:
    """The most severe of some verdicts; "too_few" of none."""
    return max(verdicts, key=(TOO_FEW, OK, WATCH, ALARM).index, default=TOO_FEW)


class WindowTest(NamedTuple):
    """What the tests say of n rows."""

    p: float  # of all groups together
    groups: dict[str, float]  # p-value of each group that could be tested
    out_of_scope: np.ndarray | None  # (n,) mask; None for a model without the rule
    unusual: np.ndarray  # (n,) mask


class DriftTest:
    """Tests windows against one reference, whose columns are sorted once.

    `beside` is how many kinds of windows are tested beside each other: p is corrected for them (Bonferroni).
    """

    def __init__(self, reference: Reference, beside: int = 1) -> None:
        self.reference, self.beside, rows = reference, beside, reference.rows
        self._sorted = _sorted_columns(rows)
        self._labels = self._label_counts(rows)
        # A fixed half: every other paper of a test split, whose order knows nothing of the texts.
        ranged, counted = rows.features[::2, : len(TEXT_FEATURES)], rows.take(np.arange(1, len(rows), 2))
        self._low, self._high = np.quantile(ranged, USUAL_QUANTILES, axis=0)
        known = ~np.isnan(rows.in_scope)
        # Texts of the reference that are so, of how many.
        self._unusual = int(self._is_unusual(counted).sum()), len(counted)
        self._outside = int((rows.in_scope == 0).sum()), int(known.sum())
        pairs = {"out_of_scope": self._outside, "unusual": self._unusual}
        self.shares = {name: hits / n if n else None for name, (hits, n) in pairs.items()}

    def _label_counts(self, rows: Rows) -> np.ndarray:
        return np.bincount(rows.scores.argmax(axis=1), minlength=len(self.reference.labels))

    def _is_unusual(self, rows: Rows) -> np.ndarray:
        values = rows.features[:, : len(TEXT_FEATURES)]
        return ((values < self._low) | (values > self._high)).any(axis=1)

    def __call__(self, rows: Rows) -> WindowTest:
        """Tests n rows, n > 0."""
        columns, scores = _sorted_columns(rows), len(self.reference.labels) + 1
        unusual = self._is_unusual(rows)
        groups = {
            "scores": _smallest_p(self._sorted[:scores], columns[:scores]),
            "labels": chi_square_p(self._label_counts(rows), self._labels),
            "text": _smallest_p(self._sorted[scores:], columns[scores:]),
            "unusual": fisher_p(int(unusual.sum()), len(rows), *self._unusual),
        }
        known, outside = int((~np.isnan(rows.in_scope)).sum()), None
        if self._outside[1] and known:
            outside = rows.in_scope == 0
            groups["scope"] = fisher_p(int(outside.sum()), known, *self._outside)
        return WindowTest(
            min(1.0, self.beside * len(groups) * min(groups.values())), groups, outside, unusual
        )

    def describe(self, rows: Rows) -> list[dict[str, Any]]:
        """What each column says, largest change first: means, medians and histograms of both sides.

        `p` is uncorrected, `distance` that of Kolmogorov and Smirnov, `direction` up, down or none, `effect`
        the difference of means in standard deviations of the reference.
        """
        labels, found = self.reference.labels, []
        names = [*labels, TOP_SCORE, *FEATURES]
        for name, before, now in zip(names, self._sorted, _sorted_columns(rows), strict=True):
            if not len(now) or not len(before):
                continue
            distance = ks_distance(before, now)
            spread, change = float(before.std()), float(now.mean() - before.mean())
            low, high = np.quantile(before, (0.005, 0.995))
            edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
            found.append(
                {
                    "column": name,
                    "group": "text" if name in FEATURES else "scores",
                    "p": ks_p(distance, len(now), len(before)),
                    "distance": distance,
                    "direction": "none" if change == 0 else "up" if change > 0 else "down",
                    "effect": change / spread if spread else None,
                    "reference": {"mean": float(before.mean()), "median": float(np.median(before))},
                    "window": {"mean": float(now.mean()), "median": float(np.median(now))},
                    "edges": edges.tolist(),
                    "reference_shares": _shares(before, edges),
                    "window_shares": _shares(now, edges),
                }
            )
        return sorted(found, key=lambda column: (column["p"], -column["distance"]))

    def label_mix(self, rows: Rows) -> list[dict[str, Any]]:
        """{label, reference, window} with the share of texts that each label was predicted for."""
        shares = self._labels / self._labels.sum(), self._label_counts(rows) / len(rows)
        return [
            {"label": label, "reference": float(before), "window": float(now)}
            for label, before, now in zip(self.reference.labels, *shares, strict=True)
        ]


def _sorted_columns(rows: Rows) -> list[np.ndarray]:
    """Scores, highest score and features, each sorted and without NaN."""
    columns = np.column_stack([rows.scores, rows.scores.max(axis=1), rows.features]).T
    return [np.sort(values[~np.isnan(values)]) for values in columns]


def ks_distance(before: np.ndarray, now: np.ndarray) -> float:
    """The largest distance between the distribution functions of two sorted samples; 0 for an empty one."""
    if not len(before) or not len(now):
        return 0.0
    # Between two values of the window its function is constant and the other only rises: the ends suffice.
    left = np.searchsorted(now, now) / len(now) - np.searchsorted(before, now) / len(before)
    right = np.searchsorted(now, now, "right") / len(now) - np.searchsorted(before, now, "right") / len(
        before
    )
    return float(max(np.abs(left).max(), np.abs(right).max()))


def ks_p(distance: float, now: int, before: int) -> float:
    """The two-sided p-value of a distance, as `scipy.stats.ks_2samp(method="asymp")` has it."""
    if min(now, before) == 0:
        return 1.0
    return float(np.clip(kstwo.sf(distance, max(1, round(now * before / (now + before)))), 0, 1))


def _smallest_p(before: list[np.ndarray], now: list[np.ndarray]) -> float:
    """Bonferroni over columns; of those with equal counts only the largest distance is looked up."""
    largest: dict[tuple[int, int], float] = {}
    for old, new in zip(before, now, strict=True):
        sizes = len(new), len(old)
        largest[sizes] = max(largest.get(sizes, 0.0), ks_distance(old, new))
    return min(1.0, len(before) * min(ks_p(distance, *sizes) for sizes, distance in largest.items()))


def chi_square_p(now: np.ndarray, before: np.ndarray) -> float:
    """The p-value of two samples' counts; classes with an expectation below 5 in the window are one class."""
    n, m = int(now.sum()), int(before.sum())
    if not n or not m:
        return 1.0
    rare = (now + before) * n / (n + m) < SMALLEST_EXPECTED
    table = np.array([[*part[~rare], part[rare].sum()] for part in (now, before)])
    table = table[:, table.sum(axis=0) > 0]
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / (n + m)
    # `scipy.stats.chi2_contingency` takes a quarter of a window's time to say the same.
    statistic = ((table - expected) ** 2 / expected).sum()
    return float(chdtrc(table.shape[1] - 1, statistic)) if table.shape[1] > 1 else 1.0


def fisher_p(hits: int, n: int, hits_before: int, m: int) -> float:
    """One-sided exact test: is the share hits / n larger than hits_before / m?"""
    return float(hypergeom.sf(hits - 1, n + m, hits + hits_before, n)) if hits and m else 1.0


def _shares(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """Shares of the bins; what lies outside counts in the first and the last."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return (counts / len(values)).round(5).tolist()
