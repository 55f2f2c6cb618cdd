"""Fits a cascade on the validation split: when the baseline answers, and how much the transformer reads.

First how much: the fewest tokens with which the transformer alone, on its engine, loses no more than what is
allowed against itself in float32 with all its tokens. Then when: the score of the baseline from which it
answers alone. A cascade can be better than either model, so the accuracy that may be lost is counted from the
best that any threshold reaches or from the transformer in float32, whichever is higher.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import DEFAULT_ENGINE, RULE_FILE, SCHEMA_VERSION, baseline_columns, load_pair
from arxiv_cls.models.prediction import SERVED_COVERAGE
from arxiv_cls.record.files import file_sha256, write_record
from arxiv_cls.scoring.calibration import coverage_threshold
from arxiv_cls.scoring.scored_papers import data_options, load_model_and_corpus

# Below even odds a baseline is not sure of anything; above 1 it never answers.
NEVER = 1.01
THRESHOLDS = (*np.round(np.arange(0.5, 0.976, 0.025), 3).tolist(), 0.99, NEVER)
TOKEN_BUDGETS = (320, 256, 224, 192, 160, 128, 96, 64)


def fit_cascade(
    model: str | Path,
    baseline: str | Path,
    *,
    engine: str = DEFAULT_ENGINE,
    max_accuracy_loss: float = 0.002,
    data: str | Path | None = None,
) -> dict[str, Any]:
    """Chooses threshold and token budget; writes `eval/cascade.json` of the transformer and returns it.

    Args:
        model: directory of a transformer with its export.
        baseline: TF-IDF baseline of the same labels; directory or Hub id.
        engine: "int8" or "onnx", what the transformer will answer with.
        max_accuracy_loss: share of papers, 0 to 1, that each of the two choices may lose; see above.
        data: as `csv` of `load_model_and_corpus`.

    Raises:
        UserError: a model or the data cannot be had, they do not fit together, the baseline was trained on
            other splits, or no cascade is accurate enough.
    """
    if not 0 <= max_accuracy_loss < 1:
        raise UserError(f"an accuracy loss of {max_accuracy_loss} is not between 0 and 1")
    if not Path(model).is_dir():
        raise UserError(
            f"{model}: the cascade is written into the model's directory, and there is none",
            hint="name a local model directory",
        )
    first, second = load_pair(model, baseline, engine)
    columns = baseline_columns(first, second)
    splits = [data_options(predictor.directory) for predictor in (first, second)]
    different = [key for key in ("split", "seed", "time_boundaries") if splits[0][key] != splits[1][key]]
    if different:
        shown = ", ".join(f"data.{key} {splits[0][key]} and {splits[1][key]}" for key in different)
        raise UserError(
            f"{first.directory} and {second.directory} divide the papers differently: {shown}",
            hint="the baseline may have learned the model's validation papers: train it on the same splits",
        )
    loaded = load_model_and_corpus(model, data, "onnx")
    full = loaded.score("validation")
    labels, texts = full.labels, list(loaded.corpus.splits["validation"]["text"])
    cheap, cheap_seconds = _timed(first, texts)
    cheap = cheap[:, columns]
    # The cascade takes no answer of the baseline to a text of which it knows no word.
    sure = cheap * np.array([[not item.no_known_words] for item in first.encode(texts)])
    of_full = _accuracy(full.probabilities, labels)
    alone: list[dict[str, float]] = []
    scores, seconds, kept = full.probabilities, 0.0, second.max_length
    # Descending, since a limit on tokens cannot be lifted again; the first that loses too much is the last.
    for budget in (second.max_length, *(budget for budget in TOKEN_BUDGETS if budget < second.max_length)):
        second.limit_tokens(budget)
        shorter, taken = _timed(second, texts)
        alone += threshold_rows(labels, sure, shorter, (cheap_seconds, taken), budget, [NEVER])
        if seconds and alone[-1]["accuracy"] < of_full - max_accuracy_loss:
            break
        scores, seconds, kept = shorter, taken, budget
    rows = threshold_rows(labels, sure, scores, (cheap_seconds, seconds), kept)
    least = max(of_full, *(row["accuracy"] for row in rows)) - max_accuracy_loss
    chosen = fastest(rows, least)
    joined = cascade_scores(sure, scores, chosen["threshold"])
    record = {
        "schema_version": SCHEMA_VERSION,
        "engine": second.engine,
        "threshold": chosen["threshold"],
        "max_tokens": kept,
        "set_threshold": coverage_threshold(labels, joined, float(SERVED_COVERAGE)),
        "transformer_sha256": file_sha256(second.weights_path),
        "baseline_sha256": file_sha256(first.weights_path),
        "baseline": first.directory.resolve().name,
        "data_sha256": loaded.corpus.data.sha256,
        "max_accuracy_loss": max_accuracy_loss,
        "validation": {
            "papers": len(labels),
            "accuracy_of_the_transformer": of_full,
            "accuracy_of_the_baseline": _accuracy(cheap, labels),
            "least_accuracy": least,
            "baseline_papers_per_second": 1 / cheap_seconds,
            "chosen": chosen,
            "transformer_alone": alone,
            "thresholds": rows,
        },
    }
    return write_record(record, second.directory / RULE_FILE)


def _timed(predictor: Any, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    """Scores and seconds a paper; a first call on a few papers is not counted."""
    predictor.predict_proba(texts[:8])
    start = time.perf_counter()
    scores = predictor.predict_proba(texts, progress=sys.stderr.isatty())
    return scores, (time.perf_counter() - start) / len(texts)


def _accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


def cascade_scores(baseline: np.ndarray, transformer: np.ndarray, threshold: float) -> np.ndarray:
    """(n, k) scores of a cascade: a row of the baseline where its highest score reaches the threshold."""
    return np.where(baseline.max(axis=1, keepdims=True) >= threshold, baseline, transformer)


def threshold_rows(
    labels: np.ndarray,
    baseline: np.ndarray,
    transformer: np.ndarray,
    seconds: tuple[float, float],
    max_tokens: int,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[dict[str, float]]:
    """What each threshold gives: {max_tokens, threshold, answered_by_baseline, accuracy, papers_per_second}.

    From (n,) true class numbers, the (n, k) scores of both models, the transformer's with this token budget,
    and their seconds a paper: the baseline's for every paper, the transformer's for those that are left.
    """
    rows = []
    for threshold in thresholds:
        answered = float((baseline.max(axis=1) >= threshold).mean())
        rows.append(
            {
                "max_tokens": max_tokens,
                "threshold": threshold,
                "answered_by_baseline": answered,
                "accuracy": _accuracy(cascade_scores(baseline, transformer, threshold), labels),
                "papers_per_second": 1 / (seconds[0] + (1 - answered) * seconds[1]),
            }
        )
    return rows


def fastest(rows: Sequence[dict[str, float]], least_accuracy: float) -> dict[str, float]:
    """The row with the most papers per second among those that are accurate enough; a `UserError` if none."""
    enough = [row for row in rows if row["accuracy"] >= least_accuracy]
    if not enough:
        raise UserError(
            f"no cascade of these reaches an accuracy of {least_accuracy:.4f} on the validation split; "
            f"the best has {max(row['accuracy'] for row in rows):.4f}",
            hint="allow a larger --max-accuracy-loss, or take --engine onnx",
        )
    return max(enough, key=lambda row: row["papers_per_second"])


def cascade_table(record: dict[str, Any]) -> str:
    """What was measured and what was chosen, for the terminal."""

    def line(name: str, row: dict[str, float]) -> str:
        return (
            f"  {name:<12} accuracy {row['accuracy']:.4f}  answered by the baseline "
            f"{row['answered_by_baseline']:6.1%}  {row['papers_per_second']:8.1f} papers/s"
        )

    found = record["validation"]
    lines = [
        f"validation, {found['papers']:,} papers: transformer {found['accuracy_of_the_transformer']:.4f} "
        f"(fp32, all tokens), baseline {found['accuracy_of_the_baseline']:.4f}",
        "",
        f"the transformer alone ({record['engine']})",
        *(line(f"{row['max_tokens']} tokens", row) for row in found["transformer_alone"]),
        "",
        f"the baseline first, then the transformer with {record['max_tokens']} tokens",
    ]
    for row in found["thresholds"]:
        name = "never" if row["threshold"] == NEVER else f"{row['threshold']:.3f}"
        lines.append(line(name, row) + ("  <- chosen" if row == found["chosen"] else ""))
    return "\n".join([*lines, "", f"least accuracy allowed: {found['least_accuracy']:.4f}"])
