"""How many answers are right, estimated without labels.

Difference of confidences (Guillory et al., 2021) with bias-corrected temperature scaling (Alexandari et al.,
2020), on in-scope rows: the release's accuracy + mean confidence of the window - that of the reference. The
label mix is estimated by expectation maximisation (Saerens et al., 2002) on the same recalibrated scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from arxiv_cls.scoring.reference import Reference, Rows

# What a shift of a kind that confidences do not show adds to the interval; docs/monitoring.md has the errors.
SHIFT_MARGIN = 0.02
FEWEST = 30
ASSUMPTIONS = (
    "An estimate, not a measurement: no label of these texts is known.",
    "It assumes papers like those of the test split, and labelling rules that did not change.",
    "Texts out of scope are not counted.",
    "Papers of neighbouring fields, which look in scope, can make it 10 points too high.",
    "With few training papers it can be 3 points too high on papers a year newer.",
)
_SMALLEST = 1e-7
_EM_STEPS = 200


class AccuracyEstimate:
    """Recalibrates scores on a reference, then estimates accuracies of windows."""

    def __init__(self, reference: Reference) -> None:
        kept = reference.rows.in_scope != 0
        scores, truth = reference.rows.scores[kept], reference.truth[kept]
        self.temperature, self.bias = fit_bcts(scores, truth)
        self.correct = scores.argmax(axis=1) == truth
        self.confidence = self._confidences(scores)
        self.prior = np.bincount(truth, minlength=scores.shape[1]) / max(1, len(truth))

    def _calibrated(self, scores: np.ndarray) -> np.ndarray:
        return softmax(_logits(scores) / self.temperature + self.bias, axis=1)

    def _confidences(self, scores: np.ndarray) -> np.ndarray:
        """(n,) recalibrated probability of the label that was answered."""
        return self._calibrated(scores)[np.arange(len(scores)), scores.argmax(axis=1)]

    def __call__(self, rows: Rows) -> dict[str, Any] | None:
        """The accuracy of n rows, with a 95% interval; None when fewer than `FEWEST` are in scope.

        `released` is the reference's; `out_of_scope` the share of the n that is not among the `rows` counted.
        """
        scores = rows.scores[rows.in_scope != 0]
        n = len(scores)
        if n < FEWEST or len(self.correct) < FEWEST:
            return None
        confidence, released = self._confidences(scores), float(self.correct.mean())
        accuracy = released + float(confidence.mean() - self.confidence.mean())
        noise = (confidence * (1 - confidence)).mean() / n
        noise += (self.correct - self.confidence).var() / len(self.correct)
        half = 1.96 * float(np.sqrt(noise)) + SHIFT_MARGIN
        return {
            "accuracy": min(1.0, max(0.0, accuracy)),
            "low": max(0.0, accuracy - half),
            "high": min(1.0, accuracy + half),
            "released": released,
            "rows": n,
            "out_of_scope": 1 - n / len(rows),
        }

    def label_mix(self, rows: Rows) -> np.ndarray | None:
        """(k,) estimated shares of the true labels among in-scope rows; None for too few rows."""
        scores = self._calibrated(rows.scores[rows.in_scope != 0])
        if len(scores) < FEWEST or not self.prior.any():
            return None
        prior = mix = np.maximum(self.prior, _SMALLEST)
        for _ in range(_EM_STEPS):
            weighted = scores * (mix / prior)
            before, mix = mix, (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
            if np.abs(mix - before).max() < _SMALLEST:
                break
        return mix


def _logits(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, _SMALLEST))


def fit_bcts(scores: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Temperature and (k,) biases with the highest likelihood (bias-corrected temperature scaling).

    Of (n, k) probabilities and (n,) true classes. The biases add up to 0; 1 and zeros below `FEWEST` rows.
    """
    n, classes = scores.shape
    if n < FEWEST:
        return 1.0, np.zeros(classes)
    logits, answers = _logits(scores), np.eye(classes)[truth]
    # A class that never occurs has no finite bias: a weak pull to 0, worth one paper, holds it.
    pull = 1 / n

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        sharpness, bias = np.exp(values[0]), values[1:]
        log_p = log_softmax(logits * sharpness + bias, axis=1)
        error = np.exp(log_p) - answers
        value = pull * (-(log_p * answers).sum() + (bias @ bias) / 2)
        of_sharpness = sharpness * (error * logits).sum() * pull
        return float(value), np.append(of_sharpness, pull * (error.sum(axis=0) + bias))

    found = minimize(loss, np.zeros(classes + 1), jac=True, method="L-BFGS-B")
    bias = found.x[1:]
    return float(np.exp(-found.x[0])), bias - bias.mean()
