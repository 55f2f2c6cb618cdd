"""An evaluation as text for the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arxiv_cls.record.files import write_json
from arxiv_cls.scoring.metrics import SCALAR_METRICS
from arxiv_cls.scoring.scored_papers import read_predictions


def aligned(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """A table: the first column to the left, the others to the right, two blanks between."""
    rows = [list(header), *rows] if header else list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def span(ends: Sequence[float]) -> str:
    """An interval as `0.771 to 0.798`."""
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def evaluation_table(evaluation: Mapping[str, Any]) -> str:
    """The metrics with their intervals, per class and per slice; rules where they were fitted.

    Args:
        evaluation: what `evaluate_model` returns.
    """
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    of = f"{evaluation['split']} split" if evaluation["split"] else evaluation["data"]["csv"]
    parts = [
        f"{evaluation['papers']:,} papers, {of}; 95% intervals from {evaluation['resamples']:,} resamples"
    ]
    parts.append(
        aligned(
            [[name, f"{metrics[name]:.4f}", span(intervals[name])] for name in SCALAR_METRICS],
            ["metric", "value", "95% interval"],
        )
    )
    calibration = evaluation["calibration"]
    parts.append(
        f"calibration error by chance, perfectly calibrated: {calibration['chance_mean']:.4f} "
        f"(95% below {calibration['chance_upper']:.4f}); p = {calibration['p_value']:.3f}"
    )
    parts.append(
        aligned(
            [
                [
                    name,
                    f"{scores['precision']:.3f}",
                    f"{scores['recall']:.3f}",
                    f"{scores['f1']:.3f}",
                    span(intervals[f"f1/{name}"]),
                    f"{scores['support']:,}",
                ]
                for name, scores in metrics["per_class"].items()
            ],
            ["category", "precision", "recall", "F1", "95% interval", "papers"],
        )
    )
    for title, kind in (("year", "year"), ("words in the text", "words")):
        if not evaluation["slices"][kind]:
            continue
        parts.append(
            aligned(
                [
                    [
                        name,
                        f"{part['accuracy']:.3f}",
                        span(part["accuracy_interval"]),
                        f"{part['macro_f1']:.3f}",
                        f"{part['n']:,}",
                    ]
                    for name, part in evaluation["slices"][kind].items()
                ],
                [title, "accuracy", "95% interval", "macro-F1", "papers"],
            )
        )
    parts += _rules(evaluation.get("rules") or {})
    return "\n\n".join(parts)


def _rules(rules: Mapping[str, Any]) -> list[str]:
    parts = []
    if rules.get("prediction_sets"):
        rows = [
            [
                f"{float(level):.0%}",
                f"{part['coverage']:.3f}",
                f"{part['mean_size']:.2f}",
                f"{part['threshold']:.4f}",
            ]
            for level, part in rules["prediction_sets"]["levels"].items()
        ]
        parts.append(aligned(rows, ["prediction sets", "coverage", "mean size", "threshold"]))
    if rules.get("scope"):
        scope = rules["scope"]
        parts.append(
            f"papers outside the labels: AUROC {scope['auroc']:.3f} ({span(scope['auroc_interval'])}); the "
            f"threshold catches {scope['out_of_scope_caught']:.1%} of {scope['out_of_scope_papers']:,} and "
            f"keeps {scope['in_scope_kept']:.1%} of {scope['in_scope_papers']:,} papers inside"
        )
    return parts


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
