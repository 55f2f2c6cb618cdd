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
from scipy.stats import chi2, hypergeom, kstwo

from arxiv_cls.models.text_features import TEXT_FEATURES
from arxiv_cls.scoring.reference import FEATURES, Reference, Rows

WINDOW = 300
FEWEST = 100
ALARM_P, TWICE_P, WATCH_P = 0.001, 0.02, 0.05
OK, WATCH, ALARM, TOO_FEW = "ok", "watch", "alarm", "too_few"
SEVERITY = (TOO_FEW, OK, WATCH, ALARM)
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


class WindowTest(NamedTuple):
    """What the tests say of n rows.

    Attributes:
        p: of all groups together.
        groups: p-value of each group that could be tested.
        out_of_scope: (n,) mask; None for a model without the rule.
        unusual: (n,) mask.
    """

    p: float
    groups: dict[str, float]
    out_of_scope: np.ndarray | None
    unusual: np.ndarray


class DriftTest:
    """Tests windows against one reference, whose columns are sorted once.

    Args:
        reference: the papers that the same half answered.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        rows = reference.rows
        self.labels = reference.labels
        self.columns = [*self.labels, TOP_SCORE, *FEATURES]
        self._sorted = [_sorted(column) for column in self._values(rows).T]
        self.label_counts = np.bincount(rows.scores.argmax(axis=1), minlength=len(self.labels))
        # A fixed half: every other paper of a test split, whose order knows nothing of the texts.
        ranged, counted = rows.features[::2], rows.features[1::2]
        places = [FEATURES.index(name) for name in TEXT_FEATURES]
        self.low, self.high = np.quantile(ranged[:, places], USUAL_QUANTILES, axis=0)
        self._places = places
        self.usual_counts = int(self.unusual(counted).sum()), len(counted)
        known = ~np.isnan(rows.in_scope)
        self.scope_counts = int((rows.in_scope[known] == 0).sum()), int(known.sum())

    @staticmethod
    def _values(rows: Rows) -> np.ndarray:
        return np.column_stack([rows.scores, rows.scores.max(axis=1), rows.features])

    def unusual(self, features: np.ndarray) -> np.ndarray:
        """(n,) mask of the texts outside the usual range in any feature."""
        values = features[:, self._places]
        return ((values < self.low) | (values > self.high)).any(axis=1)

    def __call__(self, rows: Rows) -> WindowTest:
        """Tests n rows, n > 0."""
        statistics, counts, totals = self._distances(rows)
        k = len(self.labels) + 1
        groups = {
            "scores": _smallest_p(statistics[:k], counts[:k], totals[:k]),
            "labels": chi_square_p(self._window_counts(rows), self.label_counts),
            "text": _smallest_p(statistics[k:], counts[k:], totals[k:]),
        }
        unusual = self.unusual(rows.features)
        groups["unusual"] = fisher_p(int(unusual.sum()), len(rows), *self.usual_counts)
        known = ~np.isnan(rows.in_scope)
        outside = None
        if self.scope_counts[1] and known.any():
            outside = rows.in_scope == 0
            groups["scope"] = fisher_p(int(outside.sum()), int(known.sum()), *self.scope_counts)
        return WindowTest(min(1.0, len(groups) * min(groups.values())), groups, outside, unusual)

    def _window_counts(self, rows: Rows) -> np.ndarray:
        return np.bincount(rows.scores.argmax(axis=1), minlength=len(self.labels))

    def _distances(self, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance, window size and reference size of each column."""
        found = []
        for before, values in zip(self._sorted, self._values(rows).T, strict=True):
            now = _sorted(values)
            found.append((ks_distance(before, now), len(now), len(before)))
        distances, counts, totals = zip(*found, strict=True)
        return np.array(distances), np.array(counts), np.array(totals)

    def describe(self, rows: Rows) -> list[dict[str, Any]]:
        """What each column says, largest change first.

        Returns:
            Per column {column, group, p (uncorrected), distance (0 to 1, Kolmogorov-Smirnov), direction (up,
            down or none), reference and window {mean, median}, effect (difference of means in standard
            deviations of the reference), edges, reference_shares, window_shares (of a histogram)}.
        """
        distances, counts, totals = self._distances(rows)
        found = []
        for at, (name, values) in enumerate(zip(self.columns, self._values(rows).T, strict=True)):
            before, now = self._sorted[at], _sorted(values)
            if not len(now) or not len(before):
                continue
            spread, change = float(before.std()), float(now.mean() - before.mean())
            edges = _edges(before)
            found.append(
                {
                    "column": name,
                    "group": "scores" if at <= len(self.labels) else "text",
                    "p": float(ks_p(distances[at], counts[at], totals[at])),
                    "distance": float(distances[at]),
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
        now = self._window_counts(rows)
        before = self.label_counts / self.label_counts.sum()
        return [
            {"label": label, "reference": float(before[at]), "window": float(now[at] / len(rows))}
            for at, label in enumerate(self.labels)
        ]


def _sorted(values: np.ndarray) -> np.ndarray:
    return np.sort(values[~np.isnan(values)])


def ks_distance(before: np.ndarray, now: np.ndarray) -> float:
    """The largest distance between the distribution functions of two sorted samples; 0 for an empty one."""
    if not len(before) or not len(now):
        return 0.0
    # Between two values of the window its function is constant and the other only rises: the ends suffice.
    at = np.searchsorted(before, now, side="right") / len(before)
    below = np.searchsorted(before, now, side="left") / len(before)
    own = np.searchsorted(now, now, side="right") / len(now)
    own_below = np.searchsorted(now, now, side="left") / len(now)
    return float(max(np.abs(own - at).max(), np.abs(own_below - below).max()))


def ks_p(distance: float | np.ndarray, now: float, before: float) -> Any:
    """The two-sided p-value of a distance, as `scipy.stats.ks_2samp(method="asymp")` has it."""
    if min(now, before) == 0:
        return 1.0
    return np.clip(kstwo.sf(distance, max(1, np.round(now * before / (now + before)))), 0, 1)


def _smallest_p(distances: np.ndarray, now: np.ndarray, before: np.ndarray) -> float:
    """Bonferroni over columns; of those with equal counts only the largest distance is looked up."""
    smallest = 1.0
    for pair in {*zip(now.tolist(), before.tolist(), strict=True)}:
        same = (now == pair[0]) & (before == pair[1])
        smallest = min(smallest, float(ks_p(distances[same].max(), *pair)))
    return min(1.0, smallest * len(distances))


def chi_square_p(now: np.ndarray, before: np.ndarray) -> float:
    """The p-value of two samples' counts; classes with an expectation below 5 in the window are one class."""
    n, m = int(now.sum()), int(before.sum())
    if not n or not m:
        return 1.0
    rare = (now + before) * n / (n + m) < SMALLEST_EXPECTED
    table = np.array([[*part[~rare], part[rare].sum()] for part in (now, before)], dtype=np.float64)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(chi2.sf(((table - expected) ** 2 / expected).sum(), table.shape[1] - 1))


def fisher_p(hits: int, n: int, hits_before: int, m: int) -> float:
    """One-sided exact test: is the share hits / n larger than hits_before / m?"""
    if not hits or not m:
        return 1.0
    return float(hypergeom.sf(hits - 1, n + m, hits + hits_before, n))


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, (0.005, 0.995))
    return np.linspace(low, high if high > low else low + 1, _BINS + 1)


def _shares(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """Shares of the bins; what lies outside counts in the first and the last."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return [round(float(share), 5) for share in counts / len(values)]


def worst(verdicts: Sequence[str]) -> str:
    """The most severe of some verdicts; "too_few" of none."""
    return max(verdicts, key=SEVERITY.index, default=TOO_FEW)
