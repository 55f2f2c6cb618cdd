"""An evaluation as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from arxiv_cls.scoring.metrics import SCALAR_METRICS


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
