"""An evaluation as text for the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arxiv_cls.record.files import write_json
from arxiv_cls.scoring.metrics import METRICS
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
    """What `evaluate_model` returns, as tables: metrics with intervals, classes, slices, what was fitted."""
    metrics, intervals = evaluation["metrics"], evaluation["intervals"]
    of = f"{evaluation['split']} split" if evaluation["split"] else evaluation["data"]["csv"]
    calibration = evaluation["calibration"]
    parts = [
        f"{evaluation['papers']:,} papers, {of}; 95% intervals from {evaluation['resamples']:,} resamples",
        aligned(
            [[name, f"{metrics[name]:.4f}", span(intervals[name])] for name in METRICS],
            ["metric", "value", "95% interval"],
        ),
        f"calibration error by chance, perfectly calibrated: {calibration['chance_mean']:.4f} "
        f"(95% below {calibration['chance_upper']:.4f}); p = {calibration['p_value']:.3f}",
    ]
    rows = []
    for name, scores in metrics["per_class"].items():
        shown = [f"{scores[key]:.3f}" for key in ("precision", "recall", "f1")]
        rows.append([name, *shown, span(intervals[f"f1/{name}"]), f"{scores['support']:,}"])
    parts.append(aligned(rows, ["category", "precision", "recall", "F1", "95% interval", "papers"]))
    for title, slices in (
        ("year", evaluation["slices"]["year"]),
        ("words in the text", evaluation["slices"]["words"]),
    ):
        rows = []
        for name, part in slices.items():
            accuracy = [f"{part['accuracy']:.3f}", span(part["accuracy_interval"])]
            rows.append([name, *accuracy, f"{part['macro_f1']:.3f}", f"{part['n']:,}"])
        if rows:
            parts.append(aligned(rows, [title, "accuracy", "95% interval", "macro-F1", "papers"]))
    fitted = evaluation.get("rules") or {}
    if fitted:
        rows = []
        for level, part in fitted["prediction_sets"]["levels"].items():
            measured = [f"{part['coverage']:.3f}", f"{part['mean_size']:.2f}"]
            rows.append([f"{float(level):.0%}", *measured, f"{part['threshold']:.4f}"])
        parts.append(aligned(rows, ["prediction sets", "coverage", "mean size", "threshold"]))
    if scope := fitted.get("scope"):
        parts.append(
            f"papers outside the labels: AUROC {scope['auroc']:.3f} ({span(scope['auroc_interval'])}); the "
            f"threshold catches {scope['out_of_scope_caught']:.1%} of {scope['out_of_scope_papers']:,} and "
            f"keeps {scope['in_scope_kept']:.1%} of {scope['in_scope_papers']:,} papers inside"
        )
    return "\n\n".join(parts)


HEADLINES = ("accuracy", "macro_f1", "log_loss", "expected_calibration_error")


def write_dvc_files(evaluation: Mapping[str, Any], model: str | Path, folder: Path) -> None:
    """Writes `metrics.json` (the headline metrics, F1 by category) and `predictions.csv` (actual, predicted).

    `evaluation` is of the test split, just written to `eval/` of the model directory.
    """
    predictions = read_predictions(Path(model) / "eval" / "predictions.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("actual", "predicted"))
        names = predictions.label_names
        pairs = zip(predictions.labels, predictions.predicted, strict=True)
        rows.writerows((names[actual], names[predicted]) for actual, predicted in pairs)
    metrics = evaluation["metrics"]
    headlines = {
        "papers": evaluation["papers"],
        **{name: metrics[name] for name in HEADLINES},
        "f1": {label: scores["f1"] for label, scores in metrics["per_class"].items()},
    }
    write_json(headlines, folder / "metrics.json")
