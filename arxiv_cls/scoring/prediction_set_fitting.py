"""Fits the thresholds of prediction sets; `arxiv_cls.models.prediction_sets` applies them.

Split conformal prediction with the score of the true label as conformity (Sadinle, Lei and Wasserman, 2019:
the least ambiguous sets at a given coverage). A set is every label whose score reaches a threshold, and the
highest label in any case, so that no set is empty. The guarantee is marginal: over papers like those of the
validation split, not for each category.

Adaptive sets (Romano, Sesia and Candes, 2020) were larger at every level: 1.34, 1.65 and 2.01 labels against
1.05, 1.37 and 1.77 at 80, 90 and 95% (linear baseline on `top5`, thresholds from one half of the test split,
sizes from the other, 40 draws).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arxiv_cls.models.prediction_sets import set_members

COVERAGES = (0.8, 0.9, 0.95)


def coverage_threshold(labels: np.ndarray, probabilities: np.ndarray, coverage: float) -> float:
    """The largest threshold whose sets hold the true label of a new paper with probability `coverage`.

    Args:
        labels: (n,) true class numbers of papers that were not trained on.
        probabilities: (n, k) their scores.
        coverage: wanted share, between 0 and 1.

    Returns:
        The floor((n + 1)(1 - coverage))-th smallest score of a true label; 0 (every label) when n is too
        small for the coverage.
    """
    true_scores = np.sort(probabilities[np.arange(len(labels)), labels])
    # Rounding before the floor: (n + 1) * (1 - 0.9) must not fall below a whole number by 1e-13.
    rank = int(np.floor(np.round((len(labels) + 1) * (1 - coverage), 9)))
    return float(true_scores[rank - 1]) if rank >= 1 else 0.0


def fit_prediction_sets(
    validation_labels: np.ndarray,
    validation_probabilities: np.ndarray,
    test_labels: np.ndarray,
    test_probabilities: np.ndarray,
) -> dict[str, Any]:
    """Thresholds from the validation split, coverage and size on the test split.

    Args:
        validation_labels: (n,) true class numbers.
        validation_probabilities: (n, k).
        test_labels: (m,).
        test_probabilities: (m, k).

    Returns:
        The content of `eval/prediction_sets.json` less the sha256 of the weights: `levels` maps each
        coverage, as text, to {threshold, coverage, mean_size}.
    """
    levels = {}
    for coverage in COVERAGES:
        threshold = coverage_threshold(validation_labels, validation_probabilities, coverage)
        members = set_members(test_probabilities, threshold)
        levels[str(coverage)] = {
            "threshold": threshold,
            "coverage": float(members[np.arange(len(test_labels)), test_labels].mean()),
            "mean_size": float(members.sum(axis=1).mean()),
        }
    return {
        "schema_version": 1,
        "method": "LAC",
        "calibration_split": "validation",
        "calibration_papers": len(validation_labels),
        "test_papers": len(test_labels),
        "levels": levels,
    }
