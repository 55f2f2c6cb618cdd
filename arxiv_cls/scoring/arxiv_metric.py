"""The project's metrics as an `evaluate.Metric`, for users of that library; needs no network."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from arxiv_cls.scoring.metrics import compute_metrics


class ArxivMetric(evaluate.Metric):
    """`ArxivMetric(label_names=[...]).compute(predictions=probabilities, references=labels)`.

    Predictions are rows of k probabilities, references class numbers; returns what `compute_metrics` does.

    Args:
        label_names: the k class names, in the order of the columns of predictions.
    """

    def __init__(self, label_names: list[str], **keywords: Any) -> None:
        self.label_names = list(label_names)
        super().__init__(**keywords)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, F1, log-loss, Brier score and calibration error of an arXiv classifier.",
            citation="",
            inputs_description="predictions: probabilities, one row of k a paper; references: class numbers.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, Any]:
        return compute_metrics(np.asarray(references), np.asarray(predictions), self.label_names)
