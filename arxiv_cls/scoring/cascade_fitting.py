"""Fits a cascade on the validation split: when the baseline answers, and how much the transformer reads.

First how much: the fewest tokens with which the transformer alone, on its engine, loses no more than what is
allowed against itself in float32 with all its tokens. Then when: the score of the baseline from which it
answers alone. A cascade can be better than either model, so the accuracy that may be lost is counted from the
best that any threshold reaches or from the transformer in float32, whichever is higher.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.models.cascade import DEFAULT_ENGINE, RULE_FILE, SCHEMA_VERSION, baseline_columns, load_pair
from arxiv_cls.models.predictor import SERVED_COVERAGE
from arxiv_cls.record.files import file_sha256, write_record
from arxiv_cls.scoring.calibration import coverage_threshold
from arxiv_cls.scoring.scored_papers import data_options, load_model_and_corpus

# Below even odds a baseline is not sure of anything; above 1 it never answers.
NEVER = 1.01
THRESHOLDS = (*np.round(np.arange(0.5, 0.976, 0.025), 3).tolist(), 0.99, NEVER)
TOKEN_BUDGETS = (64, 96, 128, 160, 192, 224, 256, 320)
DEFAULT_MAX_ACCURACY_LOSS = 0.002


def fit_cascade(
    model: str | Path,
    baseline: str | Path,
    *,
    engine: str = DEFAULT_ENGINE,
    max_accuracy_loss: float = DEFAULT_MAX_ACCURACY_LOSS,
    data: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Chooses threshold and token budget and writes `eval/cascade.json` into the transformer's directory.

    Args:
        model: transformer with its export; a directory.
        baseline: TF-IDF baseline of the same labels; directory or Hub id.
        engine: "int8" or "onnx", what the transformer will answer with.
        max_accuracy_loss: share of papers, 0 to 1, that each of the two choices may lose; see above.
        data: the file that the splits come from; None for the path that the model's recipe names.
        progress: show bars.

    Returns:
        What the file holds: `threshold`, `max_tokens`, `set_threshold`, both sha256, and under `validation`
        what the choice was made from.

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
    full_model = load_model_and_corpus(model, data, "onnx")
    corpus = full_model.corpus
    _refuse_other_splits(first.directory, second.directory)
    papers = corpus.splits["validation"]
    texts = list(papers["text"])
    labels = np.asarray([second.labels.index(corpus.labels[label]) for label in papers["label"]])
    full = full_model.predictor.predict_proba(texts, progress=progress)
    cheap, cheap_seconds = _timed(first, texts, progress)
    cheap = cheap[:, columns]
    of_full = accuracy(full, labels)
    alone: list[dict[str, float]] = []
    scores, seconds, kept = full, 0.0, second.max_length
    # Descending, since a limit on tokens cannot be lifted again; the first that loses too much is the last.
    smaller = [budget for budget in TOKEN_BUDGETS if budget < second.max_length]
    for budget in (second.max_length, *reversed(smaller)):
        second.limit_tokens(budget)
        shorter, taken = _timed(second, texts, progress)
        alone += table(labels, cheap, shorter, cheap_seconds, taken, max_tokens=budget, thresholds=[NEVER])
        if seconds and alone[-1]["accuracy"] < of_full - max_accuracy_loss:
            break
        scores, seconds, kept = shorter, taken, budget
    rows = table(labels, cheap, scores, cheap_seconds, seconds, max_tokens=kept)
    least = max(of_full, *(row["accuracy"] for row in rows)) - max_accuracy_loss
    chosen = fastest(rows, least)
    joined = cascade_scores(cheap, scores, chosen["threshold"])
    record = {
        "schema_version": SCHEMA_VERSION,
        "engine": second.engine,
        "threshold": chosen["threshold"],
        "max_tokens": kept,
        "set_threshold": coverage_threshold(labels, joined, float(SERVED_COVERAGE)),
        "transformer_sha256": file_sha256(second.weights_path),
        "baseline_sha256": file_sha256(first.weights_path),
        "baseline": first.directory.resolve().name,
        "data_sha256": corpus.data.sha256,
        "max_accuracy_loss": max_accuracy_loss,
        "validation": {
            "papers": len(labels),
            "accuracy_of_the_transformer": of_full,
            "accuracy_of_the_baseline": accuracy(cheap, labels),
            "least_accuracy": least,
            "baseline_papers_per_second": 1 / cheap_seconds,
            "chosen": chosen,
            "transformer_alone": alone,
            "thresholds": rows,
        },
    }
    return write_record(record, second.directory / RULE_FILE)


def _refuse_other_splits(baseline: Path, model: Path) -> None:
    """The validation papers of the model must be none that the baseline was trained on."""
    usual = {"split": "paper", "seed": 42, "time_boundaries": None}
    first, second = ({**usual, **data_options(directory)} for directory in (baseline, model))
    other = [f"data.{key} {first[key]} and {second[key]}" for key in usual if first[key] != second[key]]
    if other:
        raise UserError(
            f"{baseline} and {model} divide the papers differently: {', '.join(other)}",
            hint="the baseline may have learned the model's validation papers: train it on the same splits",
        )


def _timed(predictor: Any, texts: Sequence[str], progress: bool) -> tuple[np.ndarray, float]:
    """Scores and seconds a paper; a first call on a few papers is not counted."""
    predictor.predict_proba(texts[:8])
    start = time.perf_counter()
    scores = predictor.predict_proba(texts, progress=progress)
    return scores, (time.perf_counter() - start) / len(texts)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of papers whose highest score is the right label's."""
    return float((scores.argmax(axis=1) == labels).mean())


def cascade_scores(baseline: np.ndarray, transformer: np.ndarray, threshold: float) -> np.ndarray:
    """(n, k) scores of a cascade: a row of the baseline where its highest score reaches the threshold."""
    return np.where(baseline.max(axis=1, keepdims=True) >= threshold, baseline, transformer)


def table(
    labels: np.ndarray,
    baseline: np.ndarray,
    transformer: np.ndarray,
    baseline_seconds: float,
    transformer_seconds: float,
    *,
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
                "accuracy": accuracy(cascade_scores(baseline, transformer, threshold), labels),
                "papers_per_second": 1 / (baseline_seconds + (1 - answered) * transformer_seconds),
            }
        )
    return rows


def fastest(rows: Sequence[dict[str, float]], least_accuracy: float) -> dict[str, float]:
    """The row with the most papers per second among those that are accurate enough.

    Raises:
        UserError: no row is.
    """
    enough = [row for row in rows if row["accuracy"] >= least_accuracy]
    if not enough:
        best = max(row["accuracy"] for row in rows)
        raise UserError(
            f"no cascade of these reaches an accuracy of {least_accuracy:.4f} on the validation split; "
            f"the best has {best:.4f}",
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
