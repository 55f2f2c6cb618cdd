"""Calibration: does a score of 0.8 mean right four times in five, and from which score on is a set sure?

Expected calibration error after Naeini et al. (2015) with bins of equal mass (Nguyen and O'Connor, 2015),
temperature scaling after Guo et al. (2017), and the error that a perfectly calibrated model would show
by chance, after the consistency resampling of Broecker and Smith (2007).
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

ECE_BINS = 15
LARGEST_SCALE = (
    50.0  # wide enough for any model that learned something: 0.02 sharpens so many times, 50 flattens
)
# With fewer papers the fitted temperature is mostly noise, and is moved towards 1.
FEWEST_PAPERS = 100
_SIMULATED_CELLS_AT_A_TIME = 2_000_000

logger = logging.getLogger(__name__)


class ReliabilityBins(NamedTuple):
    """The bars of a reliability diagram; three arrays of shape (bins,), lowest scores first."""

    confidence: np.ndarray  # mean top score in the bin
    accuracy: np.ndarray  # share of the bin's papers whose top label is right
    papers: np.ndarray  # how many


def equal_mass_cuts(count: int, bins: int = ECE_BINS) -> np.ndarray:
    """The first position of each of `bins` runs that share `count` items as evenly as possible."""
    return (np.arange(min(bins, count)) * count) // min(bins, count)


def _equal_mass_starts(sorted_confidence: np.ndarray, bins: int) -> np.ndarray:
    # A cut inside a run of equal scores moves to the first of them: the order of the rows must not matter.
    cuts = equal_mass_cuts(len(sorted_confidence), bins)
    return np.unique(np.searchsorted(sorted_confidence, sorted_confidence[cuts], side="left"))


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> ReliabilityBins:
    """Groups papers by their top score into bins of equal mass; ties can leave fewer than `bins`.

    `probabilities` is (n, k) with n > 0, `labels` the (n,) true class numbers.
    """
    return binary_reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def binary_reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> ReliabilityBins:
    """`reliability_bins` of (n,) scores and (n,) masks of what came true."""
    order = np.argsort(confidence, kind="stable")
    confidence = confidence[order]
    correct = correct[order].astype(np.float64)
    starts = _equal_mass_starts(confidence, bins)
    papers = np.diff(np.append(starts, len(confidence)))
    score, accuracy = (np.add.reduceat(values, starts) / papers for values in (confidence, correct))
    return ReliabilityBins(score, accuracy, papers)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance between top score and accuracy in `reliability_bins`, weighted by their size; 0 to 1."""
    found = reliability_bins(probabilities, labels, bins)
    return float(np.abs(found.accuracy - found.confidence) @ found.papers / found.papers.sum())


def chance_calibration_errors(probabilities: np.ndarray, simulations: int = 200) -> np.ndarray:
    """(simulations,) calibration errors of a perfectly calibrated model with these (n, k) scores, n > 0.

    Their mean is the floor that finite size alone puts under the measured error. Only whether the top label
    is right matters, and that is a coin of the top score: one uniform number a paper does for a draw.
    """
    confidence = np.sort(probabilities.max(axis=1))
    starts = _equal_mass_starts(confidence, ECE_BINS)
    expected = np.add.reduceat(confidence, starts)
    generator = np.random.default_rng(0)
    at_a_time = max(1, _SIMULATED_CELLS_AT_A_TIME // len(confidence))
    errors = []
    for first in range(0, simulations, at_a_time):
        size = (min(at_a_time, simulations - first), len(confidence))
        correct = generator.random(size) < confidence
        hits = np.add.reduceat(correct, starts, axis=1, dtype=np.int64)
        errors.append(np.abs(hits - expected).sum(axis=1) / len(confidence))
    return np.concatenate(errors)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T, 0.02 to 50, that minimises the mean negative log-likelihood of softmax(logits / T).

    Search on log T by bounded Brent: the likelihood is convex in 1/T, so the minimum found is the only one.
    `logits` are (n, k) raw scores (log-probabilities do as well), `labels` the (n,) true class numbers.

    Raises:
        ValueError: when there is nothing to fit on, or a logit is not finite.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or len(logits) == 0 or len(logits) != len(labels):
        raise ValueError(f"logits {logits.shape}, labels {labels.shape}: not (n, k), (n,), n > 0")
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite: the temperature cannot be fitted")
    # Subtracting the true class's logit first makes the loss of one paper logsumexp of what is left.
    margins = logits - logits[np.arange(len(labels)), labels][:, None]
    found = minimize_scalar(
        lambda log_temperature: logsumexp(margins / np.exp(log_temperature), axis=1).mean(),
        bounds=(-np.log(LARGEST_SCALE), np.log(LARGEST_SCALE)), method="bounded", options={"xatol": 1e-7},
    )  # fmt: skip
    return float(np.exp(found.x))


def calibrate(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The `calibration` of `run.json` and (n, k) probabilities; arguments and errors as `fit_temperature`.

    At a bound of the search (labels told apart without an error, or a model that knows nothing) T stays 1;
    with n below `FEWEST_PAPERS` log T is shrunk by n / `FEWEST_PAPERS`. Both are logged, and recorded as
    `note`.
    """
    from scipy.special import softmax

    logits = np.asarray(logits, dtype=np.float64)
    temperature, note = fit_temperature(logits, labels), ""
    if not 0.0201 < temperature < 49.9:
        note = f"the fit ended at its bound, {temperature:.2g}: kept at 1"
        temperature = 1.0
    elif (papers := len(labels)) < FEWEST_PAPERS:
        note = f"fitted {temperature:.3g} on {papers} papers, fewer than {FEWEST_PAPERS}: moved towards 1"
        temperature = float(temperature ** (papers / FEWEST_PAPERS))
    if note:
        logger.warning("temperature: %s", note)
    plain, probabilities = softmax(logits, axis=1), softmax(logits / temperature, axis=1)
    record = {
        "temperature": temperature,
        "expected_calibration_error_before": expected_calibration_error(plain, labels),
        "expected_calibration_error_after": expected_calibration_error(probabilities, labels),
    }
    return (record | {"note": note} if note else record), probabilities


def coverage_threshold(labels: np.ndarray, probabilities: np.ndarray, coverage: float) -> float:
    """The largest threshold whose prediction sets hold a new paper's true label with this probability.

    Split conformal prediction with the score of the true label as conformity (Sadinle, Lei and Wasserman,
    2019: the smallest sets of a given coverage). The guarantee is marginal: over papers like these, not for
    each category. Adaptive sets (Romano, Sesia and Candes, 2020) were larger at 80, 90 and 95%: 1.34, 1.65
    and 2.01 labels against 1.05, 1.37 and 1.77 (linear baseline on `top5`).

    From the (n,) true class numbers and (n, k) scores of papers that were not trained on: the
    floor((n + 1)(1 - coverage))-th smallest score of a true label; 0 (every label) where n is small.
    """
    scores = np.sort(probabilities[np.arange(len(labels)), labels])
    # Rounding before the floor: (n + 1) * (1 - 0.9) must not fall below a whole number by 1e-13.
    rank = int(np.floor(np.round((len(labels) + 1) * (1 - coverage), 9)))
    return float(scores[rank - 1]) if rank >= 1 else 0.0
