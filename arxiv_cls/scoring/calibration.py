"""Calibration: does a score of 0.8 mean right four times in five?

Expected calibration error after Naeini et al. (2015) with bins of equal mass (Nguyen and O'Connor, 2015),
temperature scaling after Guo et al. (2017), and the error that a perfectly calibrated model would show
by chance, after the consistency resampling of Broecker and Smith (2007).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ECE_BINS = 15

# Wide enough for any model that learned something: 0.02 sharpens 50 times, 50 flattens as much.
_LOG_TEMPERATURE_BOUNDS = (-np.log(50.0), np.log(50.0))
_SIMULATED_CELLS_AT_A_TIME = 2_000_000


class ReliabilityBins(NamedTuple):
    """The bars of a reliability diagram; four arrays of shape (bins,), lowest scores first."""

    confidence: np.ndarray  # mean top score in the bin
    accuracy: np.ndarray  # share of the bin's papers whose top label is right
    count: np.ndarray  # type: ignore[assignment]  # papers in the bin; shadows tuple.count, which nobody calls
    lower: np.ndarray  # lowest top score in the bin


def equal_mass_starts(sorted_confidence: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """Where each bin of equal mass begins in an ascending array.

    Equal scores are never torn apart: a cut that falls inside a run of ties moves to the run's first
    element, so the bins do not depend on the order of the rows and there may be fewer than `bins`.

    Args:
        sorted_confidence: (n,) ascending top scores, n > 0.
        bins: number of bins asked for.

    Returns:
        Ascending positions, the first 0, without repeats.
    """
    cuts = equal_mass_cuts(len(sorted_confidence), bins)
    return np.unique(np.searchsorted(sorted_confidence, sorted_confidence[cuts], side="left"))


def equal_mass_cuts(count: int, bins: int = ECE_BINS) -> np.ndarray:
    """The first position of each of `bins` runs that share `count` items as evenly as possible."""
    return (np.arange(min(bins, count)) * count) // min(bins, count)


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> ReliabilityBins:
    """Groups papers by their top score into bins of equal mass.

    Args:
        probabilities: (n, k), n > 0.
        labels: (n,) true class numbers.
        bins: number of bins asked for; ties can leave fewer.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence, kind="stable")
    confidence, correct = confidence[order], correct[order]
    starts = equal_mass_starts(confidence, bins)
    count = np.diff(np.append(starts, len(confidence)))
    return ReliabilityBins(
        confidence=np.add.reduceat(confidence, starts) / count,
        accuracy=np.add.reduceat(correct.astype(np.float64), starts) / count,
        count=count,
        lower=confidence[starts],
    )


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance between top score and accuracy over bins of equal mass, weighted by their size.

    Args:
        probabilities: (n, k), n > 0.
        labels: (n,) true class numbers.
        bins: number of bins asked for.

    Returns:
        A share between 0 and 1.
    """
    found = reliability_bins(np.asarray(probabilities), np.asarray(labels), bins)
    return float(np.abs(found.accuracy - found.confidence) @ found.count / found.count.sum())


def chance_calibration_errors(
    probabilities: np.ndarray, bins: int = ECE_BINS, simulations: int = 200, seed: int = 0
) -> np.ndarray:
    """Calibration errors of a perfectly calibrated model with these scores.

    Draws labels from the scores themselves. Only whether the top label is right matters to the error, and
    that is a coin of the top score, so one uniform number a paper does for the draw.

    Args:
        probabilities: (n, k), n > 0.
        bins: number of bins asked for.
        simulations: how many sets of labels are drawn.
        seed: of the random numbers.

    Returns:
        (simulations,) errors; their mean is the floor that finite size alone puts under the measured error.
    """
    confidence = np.sort(np.asarray(probabilities).max(axis=1))
    starts = equal_mass_starts(confidence, bins)
    expected = np.add.reduceat(confidence, starts)
    generator = np.random.default_rng(seed)
    at_a_time = max(1, _SIMULATED_CELLS_AT_A_TIME // len(confidence))
    errors = []
    for first in range(0, simulations, at_a_time):
        size = (min(at_a_time, simulations - first), len(confidence))
        correct = generator.random(size) < confidence
        hits = np.add.reduceat(correct, starts, axis=1, dtype=np.int64)
        errors.append(np.abs(hits - expected).sum(axis=1) / len(confidence))
    return np.concatenate(errors)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of (n, k) logits, computed in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimises the mean negative log-likelihood of softmax(logits / T).

    Dividing by T leaves every argmax as it is. Search on log T by bounded Brent; the likelihood is convex
    in 1/T, so the minimum found is the only one.

    Args:
        logits: (n, k) raw scores of papers that were not trained on; log-probabilities do as well.
        labels: (n,) true class numbers.

    Returns:
        T between 0.02 and 50; above 1 when the model was too sure of itself.

    Raises:
        ValueError: when there is nothing to fit on, or a logit is not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels)
    if logits.ndim != 2 or len(logits) == 0 or len(logits) != len(labels):
        raise ValueError(
            f"logits {logits.shape} and labels {labels.shape} are not (n, k) and (n,) with n > 0"
        )
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite: the temperature cannot be fitted")
    # Subtracting the true class's logit first makes the loss of one paper logsumexp of what is left.
    margins = logits - logits[np.arange(len(labels)), labels][:, None]

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(logsumexp(margins / np.exp(log_temperature), axis=1).mean())

    found = minimize_scalar(
        negative_log_likelihood, bounds=_LOG_TEMPERATURE_BOUNDS, method="bounded", options={"xatol": 1e-7}
    )
    return float(np.exp(found.x))
