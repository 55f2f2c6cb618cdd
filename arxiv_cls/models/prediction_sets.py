"""Prediction sets: labels enough to hold the right one with a chosen probability.

Applies the thresholds in `eval/prediction_sets.json`. A set is every label whose score reaches the threshold,
and the highest label in any case, so that no set is empty. How the thresholds are fitted, and after whom, is
said in `arxiv_cls.scoring.prediction_set_fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.record.model_files import read_model_file

# The level of the sets that a predictor hands out.
SERVED_COVERAGE = "0.9"


def set_members(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(n, k) mask of the labels in each paper's set."""
    members = probabilities >= threshold
    members[np.arange(len(probabilities)), probabilities.argmax(axis=1)] = True
    return members


def prediction_set(scores: Mapping[str, float], threshold: float) -> list[str]:
    """The set of one paper, highest score first.

    Args:
        scores: {label: score} of all labels.
        threshold: of the wanted coverage, from `eval/prediction_sets.json`.
    """
    ordered = sorted(scores, key=lambda label: -scores[label])
    return ordered[:1] + [label for label in ordered[1:] if scores[label] >= threshold]


def load_set_threshold(model_dir: str | Path, coverage: str = SERVED_COVERAGE) -> float | None:
    """The score from which a label is in a set of this coverage; None when the model has no such sets.

    Raises:
        UserError: when the file is damaged or of a later version.
    """
    name = "eval/prediction_sets.json"
    record = read_model_file(model_dir, name)
    if record is None:
        return None
    if record["schema_version"] != 1:
        raise UserError(
            f"{Path(model_dir) / name} is of version {record['schema_version']}, this program reads version 1"
        )
    level = record["levels"].get(coverage)
    return None if level is None else float(level["threshold"])
