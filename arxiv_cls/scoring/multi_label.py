"""Multi-label models: metrics, intervals, calibration and thresholds, each label with a score of its own.

`listed` is everywhere (n, k) bool, the labels that each of n papers has, at least one; `scores` are (n, k)
from sigmoids. Definitions are scikit-learn's, but that macro F1 leaves out labels that occur in neither truth
nor answers, as `metrics.macro_f1` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from arxiv_cls.scoring.calibration import FEWEST_PAPERS, LARGEST_SCALE, binary_reliability
from arxiv_cls.scoring.intervals import Resampler
from arxiv_cls.scoring.metrics import Counts, Metric, f1_per_class, macro_f1

TASK = "multi_label"
DEFAULT_THRESHOLD = 0.5
METRICS: dict[str, Metric] = {
    "macro_f1": Metric("Macro F1", "mean F1 of the labels, each at its own threshold", True),
    "micro_f1": Metric("Micro F1", "F1 over all papers and labels at these thresholds", True),
    "lrap": Metric(
        "Label ranking average precision",
        "mean over right labels of the share of right ones among those that score as high, then over papers",
        True,
    ),
    "subset_accuracy": Metric(
        "Subset accuracy", "share of papers whose labels are all right, none missing", True
    ),
    "macro_average_precision": Metric(
        "Mean average precision", "mean over the labels, without thresholds", True
    ),
    "log_loss": Metric("Log-loss", "mean binary cross-entropy over papers and labels, in nats", False),
}


class LabelCalibration(NamedTuple):
    """What the validation split says of each label; three arrays of shape (k,)."""

    scale: np.ndarray  # the calibrated score is the sigmoid of logit * scale + shift
    shift: np.ndarray
    thresholds: np.ndarray  # score from which the label is given


def label_counts(listed: np.ndarray, given: np.ndarray) -> Counts:
    """The counts of (n, k) masks of right and of given labels."""
    return (listed & given).sum(axis=0), listed.sum(axis=0), given.sum(axis=0)


def micro_f1(counts: Counts) -> np.ndarray:
    """(...) F1 over all labels together; 0 where there is none."""
    hits, actual, given = (count.sum(axis=-1) for count in counts)
    return 2.0 * hits / np.maximum(actual + given, 1)


def ranking_precisions(listed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(n,) values whose mean is scikit-learn's label ranking average precision."""
    from scipy.stats import rankdata

    among_all = rankdata(-scores, method="max", axis=1)
    among_listed = rankdata(np.where(listed, -scores, np.inf), method="max", axis=1)
    return np.where(listed, among_listed / among_all, 0.0).sum(axis=1) / listed.sum(axis=1)


def _log_losses(listed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    epsilon = np.finfo(np.float64).eps
    right = np.where(listed, scores, 1 - scores)
    return -np.log(np.clip(right, epsilon, 1)).mean(axis=1)


class MultiLabelResampler(Resampler):
    """`METRICS`, and `f1/<name>` and `average_precision/<name>` of each label that a paper has."""

    def __init__(
        self, listed: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, label_names: Sequence[str]
    ) -> None:
        given = scores >= thresholds
        self.count, self.label_names = len(listed), label_names
        self.counts = csr_array(np.hstack([listed & given, listed, given]).T.astype(np.float64))
        exact = (listed == given).all(axis=1)
        self.means = np.column_stack([ranking_precisions(listed, scores), exact, _log_losses(listed, scores)])
        self.rankings = {
            name: self._ranking(listed[:, column], scores[:, column])
            for column, name in enumerate(label_names)
            if listed[:, column].any()
        }

    @staticmethod
    def _ranking(listed: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Papers by falling score, places of the right ones, and the last place of each one's equals."""
        order = np.argsort(-scores, kind="stable")
        right = np.flatnonzero(listed[order])
        ends = np.searchsorted(-scores[order], -scores[order][right], side="right") - 1
        return order, right, ends

    def _metrics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        weights = weights.astype(np.float64)
        hits, actual, given = np.split((self.counts @ weights.T).T, 3, axis=1)
        counts = hits, actual, given
        lrap, exact, log_loss = (weights @ self.means).T / self.count
        precisions = {}
        for name, (order, right, ends) in self.rankings.items():
            drawn = weights[:, order]
            of_right = np.cumsum(drawn[:, right], axis=1)
            reached = np.searchsorted(right, ends, side="right") - 1
            seen = np.cumsum(drawn, axis=1)[:, ends]
            # A resample may hold no paper of a rare label, and none that scores as high as a right one.
            precision = np.divide(of_right[:, reached], seen, out=np.zeros(seen.shape), where=seen > 0)
            total = of_right[:, -1]
            summed = (drawn[:, right] * precision).sum(axis=1)
            precisions[name] = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
        f1 = f1_per_class(counts)
        return {
            "macro_f1": macro_f1(counts),
            "micro_f1": micro_f1(counts),
            "lrap": lrap,
            "subset_accuracy": exact,
            "macro_average_precision": np.nanmean(list(precisions.values()), axis=0),
            "log_loss": log_loss,
            **{f"f1/{name}": f1[:, column] for column, name in enumerate(self.label_names)},
            **{f"average_precision/{name}": values for name, values in precisions.items()},
        }


def compute_metrics(
    listed: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, label_names: Sequence[str]
) -> dict[str, Any]:
    """`METRICS` as floats, `expected_calibration_error` (mean over the labels) and `per_class`.

    `per_class` is {name: {average_precision, precision, recall, f1, threshold, expected_calibration_error,
    support}}; the average precision of a label that no paper has is None.

    Raises:
        ValueError: shapes that do not fit, scores outside 0 to 1, or a paper without a label.
    """
    listed, scores = np.asarray(listed, dtype=bool), np.asarray(scores, dtype=np.float64)
    if listed.shape != scores.shape or scores.shape[1:] != np.shape(thresholds) or not len(scores):
        shapes = listed.shape, scores.shape, np.shape(thresholds)
        raise ValueError(f"shapes {shapes}: not (n, k), (n, k) and (k,) with n > 0")
    if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("a score lies outside 0 to 1")
    if not listed.any(axis=1).all():
        raise ValueError("a paper has none of the labels")
    found = MultiLabelResampler(listed, scores, thresholds, label_names).measured()
    counts = label_counts(listed, scores >= thresholds)
    recall, precision = (counts[0] / np.maximum(of, 1) for of in counts[1:])
    errors = calibration_errors(listed, scores)
    return {
        **{name: found[name] for name in METRICS},
        "expected_calibration_error": float(errors.mean()),
        "per_class": {
            name: {
                "average_precision": found.get(f"average_precision/{name}"),
                "precision": float(precision[column]),
                "recall": float(recall[column]),
                "f1": found[f"f1/{name}"],
                "threshold": float(thresholds[column]),
                "expected_calibration_error": float(errors[column]),
                "support": int(counts[1][column]),
            }
            for column, name in enumerate(label_names)
        },
    }


def calibration_errors(listed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(k,) mean distance between score and share of papers that have the label, in bins of equal mass."""
    bins = [binary_reliability(*pair) for pair in zip(scores.T, listed.T, strict=True)]
    return np.array([np.abs(b.accuracy - b.confidence) @ b.papers / b.papers.sum() for b in bins])


def calibrate(
    logits: np.ndarray, listed: np.ndarray, *, shifted: bool = True
) -> tuple[dict[str, Any], LabelCalibration, np.ndarray]:
    """Calibrates each label on (n, k) logits: the record for `run.json`, what was fitted, and (n, k) scores.

    Platt scaling (Platt, 1999): a logistic regression of the label on its logit, with his smoothed targets,
    which keep it finite where a label is told apart without an error. A label that no paper or every paper
    has, or whose logit tells nothing (a scale of 0 or less, or of 50 and more), stays as it is; with n below
    `FEWEST_PAPERS` what is fitted is shrunk by n / `FEWEST_PAPERS`, as a temperature is. The thresholds are
    then those of `fit_thresholds`.

    Args:
        logits: raw scores.
        listed: see the module.
        shifted: False fits a scale alone, for a last layer without a bias.

    Raises:
        ValueError: a logit is not finite.
    """
    from scipy.special import expit

    logits = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite: the labels cannot be calibrated")
    fitted = [_platt(*pair, shifted) for pair in zip(logits.T, listed.T, strict=True)]
    scale, shift = np.array(fitted).T
    scores = expit(logits * scale + shift)
    record = {
        "method": "Platt scaling of each label",
        "scale": scale.tolist(),
        "shift": shift.tolist(),
        "expected_calibration_error_before": float(calibration_errors(listed, expit(logits)).mean()),
        "expected_calibration_error_after": float(calibration_errors(listed, scores).mean()),
    }
    return record, LabelCalibration(scale, shift, fit_thresholds(listed, scores)), scores


def _platt(logits: np.ndarray, listed: np.ndarray, shifted: bool) -> tuple[float, float]:
    from sklearn.linear_model import LogisticRegression

    positive = int(listed.sum())
    negative = len(listed) - positive
    if not (positive and negative):
        return 1.0, 0.0
    target = np.where(listed, (positive + 1) / (positive + 2), 1 / (negative + 2))
    # A target between 0 and 1 is the same paper twice, with and without the label.
    fitted = LogisticRegression(C=np.inf, fit_intercept=shifted, tol=1e-8, max_iter=1000).fit(
        np.concatenate([logits, logits])[:, None],
        np.repeat([1, 0], len(logits)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    scale = float(fitted.coef_[0, 0])
    if not 0 < scale < LARGEST_SCALE:
        return 1.0, 0.0
    share = min(1.0, len(listed) / FEWEST_PAPERS)
    return scale**share, float(np.ravel(fitted.intercept_)[0]) * share


def fit_thresholds(listed: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(k,) thresholds that maximise the F1 of each label; 0.5 for a label that no paper has.

    Half-way between the lowest score that is given and the next one, so that rounding decides no paper.
    """
    thresholds = np.full(scores.shape[1], DEFAULT_THRESHOLD)
    for column in np.flatnonzero(listed.any(axis=0)):
        order = np.argsort(-scores[:, column], kind="stable")
        ranked = scores[order, column]
        hits = np.cumsum(listed[order, column])
        f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + hits[-1])
        # Papers of equal score are given together.
        f1[:-1][ranked[:-1] == ranked[1:]] = -1
        best = int(f1.argmax())
        below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
        thresholds[column] = (ranked[best] + below) / 2
    return thresholds
