"""The metrics of this project, in plain numpy: one table, from which reports, cards and intervals follow.

Definitions are scikit-learn's: macro and weighted F1 over the classes that occur in the labels or the
predictions, a class never predicted has precision 0, log-loss in nats with probabilities clipped at the
float64 epsilon, Brier score as the sum over classes (Brier, 1950: 0 to 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arxiv_cls.scoring.calibration import chance_calibration_errors, expected_calibration_error

if TYPE_CHECKING:
    import evaluate

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Per class (..., k), leading axes being resamples: papers given the class rightly, of it, and given it."""


class Metric(NamedTuple):
    """One scalar metric: `of_counts` or `of_papers`; the calibration error alone has neither."""

    title: str  # as the card shows it
    help: str
    greater_is_better: bool
    of_counts: Callable[[Counts], np.ndarray] | None = None  # (...) from the counts
    of_papers: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # (n,) whose mean is the metric


def f1_per_class(counts: Counts) -> np.ndarray:
    """(..., k) F1 of each class, 0 for one that occurs in neither labels nor predictions."""
    hits, actual, predicted = counts
    present = actual + predicted
    return np.divide(2.0 * hits, present, out=np.zeros(hits.shape), where=present > 0)


def macro_f1(counts: Counts) -> np.ndarray:
    """(...) mean F1 of the classes that occur in labels or predictions, as scikit-learn's."""
    return f1_per_class(counts).sum(axis=-1) / (counts[1] + counts[2] > 0).sum(axis=-1)


def _accuracy(counts: Counts) -> np.ndarray:
    return counts[0].sum(axis=-1) / counts[1].sum(axis=-1)


def _weighted_f1(counts: Counts) -> np.ndarray:
    return (f1_per_class(counts) * counts[1]).sum(axis=-1) / counts[1].sum(axis=-1)


def true_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(n,) probability of each paper's true class."""
    return probabilities[np.arange(len(labels)), labels]


def _log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(true_scores(labels, probabilities), epsilon, 1 - epsilon))


def _brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return (probabilities**2).sum(axis=1) - 2 * true_scores(labels, probabilities) + 1


def true_label_ranks(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(n,) number of classes ahead of the true one; of two equal ones the lower, as argmax decides."""
    given = true_scores(labels, probabilities)[:, None]
    before = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > given) | ((probabilities == given) & before)).sum(axis=1)


def _top(k: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda labels, probabilities: true_label_ranks(labels, probabilities) < k


# In the order in which they are printed: reports, intervals, card, gate and `verify` read this table.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        "Accuracy", "share of papers whose highest score is the right label's", True, _accuracy
    ),
    "macro_f1": Metric("Macro F1", "mean F1 of the labels", True, macro_f1),
    "micro_f1": Metric(
        "Micro F1", "F1 over all papers; the accuracy, with one label a paper", True, _accuracy
    ),
    "weighted_f1": Metric(
        "Weighted F1", "mean F1 of the labels, weighted by their papers", True, _weighted_f1
    ),
    "top_2_accuracy": Metric(
        "Top-2 accuracy", "share of papers whose label is among the two highest scores", True, None, _top(2)
    ),
    "top_3_accuracy": Metric(
        "Top-3 accuracy", "share of papers whose label is among the three highest scores", True, None, _top(3)
    ),
    "log_loss": Metric(
        "Log-loss", "mean negative log-probability of the right label, in nats", False, None, _log_losses
    ),
    "brier_score": Metric(
        "Brier score", "mean squared distance from the one-hot label, 0 to 2", False, None, _brier_scores
    ),
    "expected_calibration_error": Metric(
        "Expected calibration error", "mean distance between score and accuracy, 0 to 1", False
    ),
}
SCALAR_METRICS = tuple(METRICS)
# With what the Trainer reports beside them.
LOWER_IS_BETTER = frozenset({"loss", "expected_calibration_error_chance"}) | {
    name for name, metric in METRICS.items() if not metric.greater_is_better
}


def class_counts(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Counts:
    """The counts of (n,) true and (n,) predicted class numbers."""
    hits, actual, given = (
        np.bincount(of, minlength=classes) for of in (labels[labels == predicted], labels, predicted)
    )
    return hits, actual, given


def check_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 (n,) and probabilities as float64 (n, k).

    Raises:
        ValueError: they are not that, or a row does not add up to 1 within 1e-3.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(f"shapes {labels.shape}, {probabilities.shape}: not (n,), (n, k) with n > 0")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(f"a label lies outside 0..{probabilities.shape[1] - 1}")
    if not np.isfinite(probabilities).all() or probabilities.min() < 0:
        raise ValueError("a probability is negative or not finite")
    if np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("a row of probabilities does not add up to 1: are these logits?")
    return labels.astype(np.int64), probabilities


def compute_metrics(
    labels: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]
) -> dict[str, Any]:
    """The `METRICS` of (n,) true class numbers and (n, k) probabilities of the k named classes, as floats.

    With `expected_calibration_error_chance` (the mean of a perfectly calibrated model of this size) and
    `per_class`: {name: {precision, recall, f1, support}}.

    Raises:
        ValueError: as `check_scores`, or there are not k names.
    """
    labels, probabilities = check_scores(labels, probabilities)
    classes = probabilities.shape[1]
    if len(label_names) != classes:
        raise ValueError(f"{len(label_names)} label names for {classes} columns of probabilities")
    counts = class_counts(labels, probabilities.argmax(axis=1), classes)
    recall, precision = (np.divide(counts[0], of, out=np.zeros(classes), where=of > 0) for of in counts[1:])
    found: dict[str, Any] = {}
    for name, metric in METRICS.items():
        if metric.of_counts is not None:
            found[name] = float(metric.of_counts(counts))
        elif metric.of_papers is not None:
            found[name] = float(metric.of_papers(labels, probabilities).mean())
        else:
            found[name] = expected_calibration_error(probabilities, labels)
    found["expected_calibration_error_chance"] = float(chance_calibration_errors(probabilities).mean())
    columns = {"precision": precision, "recall": recall, "f1": f1_per_class(counts), "support": counts[1]}
    found["per_class"] = {
        name: {key: column[index].item() for key, column in columns.items()}
        for index, name in enumerate(label_names)
    }
    return found


LISTED_METRICS: dict[str, tuple[str, str]] = {
    "listed_accuracy": (
        "Listed accuracy",
        "share of papers whose highest score is one of the categories that the paper lists",
    ),
    "single_listed_accuracy": ("Accuracy, one listed label", "accuracy on papers that list one label only"),
    "listed_reciprocal_rank": (
        "Mean reciprocal rank", "mean of 1 over the rank of the first label that the paper lists"
    ),
    "errors_listed": (
        "Errors that are listed", "share of wrong highest scores that the paper lists as a further category"
    ),
}  # fmt: skip
"""Title and meaning of what a file with all categories of a paper adds to `METRICS`."""


def listed_values(labels: np.ndarray, probabilities: np.ndarray, listed: np.ndarray) -> dict[str, np.ndarray]:
    """The values whose mean is each of `LISTED_METRICS`, of the papers that it is about; maybe none.

    Args:
        labels, probabilities: as of `check_scores`.
        listed: (n, k) bool, the classes that a paper lists, its label among them.
    """
    predicted, papers = probabilities.argmax(axis=1), np.arange(len(labels))
    right, is_listed = predicted == labels, listed[papers, predicted]
    first = np.where(listed, probabilities, -1.0).argmax(axis=1)
    return {
        "listed_accuracy": is_listed,
        "single_listed_accuracy": right[listed.sum(axis=1) == 1],
        "listed_reciprocal_rank": 1.0 / (true_label_ranks(first, probabilities) + 1),
        "errors_listed": is_listed[~right],
    }


def arxiv_metric(label_names: Sequence[str]) -> evaluate.Metric:
    """`compute_metrics` as a metric of the library `evaluate`: predictions (n, k), references (n,)."""
    # Only a training needs these two; scoring a text does without.
    import datasets
    import evaluate

    class ArxivMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            scores, labels = datasets.Sequence(datasets.Value("float64")), datasets.Value("int64")
            features = datasets.Features({"predictions": scores, "references": labels})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
            return compute_metrics(np.asarray(references), np.asarray(predictions), label_names)

    return ArxivMetric(keep_in_memory=True)
