"""An evaluation as DVC reads it: few figures for `dvc metrics diff`, rows for the plot of the confusion.

`eval/metrics.json` holds hundreds of figures; a table of their differences between two commits shows nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arxiv_cls.record.writing import write_json
from arxiv_cls.scoring.scored_papers import read_predictions

HEADLINES = ("accuracy", "macro_f1", "log_loss", "expected_calibration_error")


def headline_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that a person compares first, and the F1 of each category.

    Args:
        evaluation: what `evaluate_model` returns.
    """
    metrics = evaluation["metrics"]
    return {
        "papers": evaluation["papers"],
        **{name: metrics[name] for name in HEADLINES},
        "f1": {label: scores["f1"] for label, scores in metrics["per_class"].items()},
    }


def write_dvc_files(evaluation: Mapping[str, Any], model: str | Path, folder: Path) -> None:
    """Writes `metrics.json` and `predictions.csv` (columns actual, predicted) into a folder.

    Args:
        evaluation: of the test split, just written to `eval/` of the model directory.
        model: the model directory.
        folder: made where it is missing.

    Raises:
        UserError: the model has no `eval/predictions.parquet`.
    """
    predictions = read_predictions(Path(model) / "eval" / "predictions.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("actual", "predicted"))
        names = predictions.label_names
        pairs = zip(predictions.labels, predictions.probabilities.argmax(axis=1), strict=True)
        rows.writerows((names[actual], names[predicted]) for actual, predicted in pairs)
    write_json(headline_metrics(evaluation), folder / "metrics.json")
