"""The metrics of this project, in plain numpy: one pass over labels and probabilities.

Definitions are scikit-learn's (the tests hold them to 1e-12): macro and weighted F1 over the classes that
occur in the labels or the predictions, a class never predicted has precision 0, log-loss in nats with
probabilities clipped at the float64 epsilon, Brier score as the sum over classes (Brier, 1950: 0 to 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from arxiv_cls.scoring.calibration import chance_calibration_errors, expected_calibration_error

# The scalar metrics in the order in which they are printed.
SCALAR_METRICS = (
    "accuracy",
    "macro_f1",
    "micro_f1",
    "weighted_f1",
    "top_2_accuracy",
    "top_3_accuracy",
    "log_loss",
    "brier_score",
    "expected_calibration_error",
)
# Of all metrics of an evaluation, the Trainer's loss among them; the others are better when greater.
LOWER_IS_BETTER = frozenset(
    {"loss", "log_loss", "brier_score", "expected_calibration_error", "expected_calibration_error_chance"}
)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) counts: rows are true classes, columns predicted ones."""
    cells = np.asarray(labels) * classes + np.asarray(predicted)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def f1_from_counts(hits: np.ndarray, actual: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """F1 scores from per-class counts; leading axes (resamples) are kept.

    Args:
        hits: (..., k) papers of the class that were given the class.
        actual: (..., k) papers of the class.
        predicted: (..., k) papers given the class.

    Returns:
        `per_class` (..., k), and `macro_f1`, `micro_f1`, `weighted_f1` (...). Macro leaves out classes that
        occur neither in labels nor predictions, as scikit-learn does when it is not told the classes.
    """
    present = actual + predicted
    per_class = np.divide(2.0 * hits, present, out=np.zeros(hits.shape), where=present > 0)
    total = actual.sum(axis=-1)
    return {
        "per_class": per_class,
        "macro_f1": per_class.sum(axis=-1) / (present > 0).sum(axis=-1),
        "micro_f1": hits.sum(axis=-1) / total,
        "weighted_f1": (per_class * actual).sum(axis=-1) / total,
    }


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(n,) negative log-probability of each paper's true class, in nats."""
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(given, epsilon, 1 - epsilon))


def brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(n,) squared distance between each paper's probabilities and its one-hot label, 0 to 2."""
    given = probabilities[np.arange(len(labels)), labels]
    return (probabilities**2).sum(axis=1) - 2 * given + 1


def true_label_ranks(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(n,) number of classes ahead of the true one; 0 is a right answer.

    Of two equal probabilities the lower class number is ahead, which is how argmax decides.
    """
    given = probabilities[np.arange(len(labels)), labels][:, None]
    before = np.arange(probabilities.shape[1]) < np.asarray(labels)[:, None]
    return ((probabilities > given) | ((probabilities == given) & before)).sum(axis=1)


def check_scores(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels as int64 (n,) and probabilities as float64 (n, k), or a reason why they are not.

    Raises:
        ValueError: when shapes disagree, nothing is there, a label is out of range, a probability is not
            finite or negative, or a row does not add up to 1 within 1e-3.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"labels {labels.shape}, probabilities {probabilities.shape}: not (n,), (n, k), n > 0"
        )
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
    """Every metric of the project for one set of predictions; some milliseconds for a few thousand papers.

    Args:
        labels: (n,) true class numbers.
        probabilities: (n, k) scores whose rows add up to 1.
        label_names: the k class names, in the order of the columns.

    Returns:
        The `SCALAR_METRICS` and `expected_calibration_error_chance` (what a perfectly calibrated model of
        this size would show on average) as floats; and `per_class`:
        {name: {precision, recall, f1, support}}.

    Raises:
        ValueError: for arrays that are not as above.
    """
    labels, probabilities = check_scores(labels, probabilities)
    classes = probabilities.shape[1]
    if len(label_names) != classes:
        raise ValueError(f"{len(label_names)} label names for {classes} columns of probabilities")
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), classes)
    hits, actual, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    scores = f1_from_counts(hits, actual, predicted)
    precision = np.divide(hits, predicted, out=np.zeros(classes), where=predicted > 0)
    recall = np.divide(hits, actual, out=np.zeros(classes), where=actual > 0)
    ranks = true_label_ranks(labels, probabilities)
    return {
        "accuracy": float(hits.sum() / len(labels)),
        "macro_f1": float(scores["macro_f1"]),
        "micro_f1": float(scores["micro_f1"]),
        "weighted_f1": float(scores["weighted_f1"]),
        "top_2_accuracy": float((ranks < 2).mean()),
        "top_3_accuracy": float((ranks < 3).mean()),
        "log_loss": float(log_losses(labels, probabilities).mean()),
        "brier_score": float(brier_scores(labels, probabilities).mean()),
        "expected_calibration_error": expected_calibration_error(probabilities, labels),
        "expected_calibration_error_chance": float(chance_calibration_errors(probabilities).mean()),
        "per_class": {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(scores["per_class"][index]),
                "support": int(actual[index]),
            }
            for index, name in enumerate(label_names)
        },
    }
