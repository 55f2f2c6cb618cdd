"""Compares two models on the same papers: is B better than A, where, and by more than luck?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.errors import UserError
from arxiv_cls.record.files import file_sha256
from arxiv_cls.record.manifest import METRICS as METRICS_FILE
from arxiv_cls.record.manifest import PREDICTIONS, WEIGHTS
from arxiv_cls.record.model_files import read_model_file
from arxiv_cls.scoring import multi_label
from arxiv_cls.scoring.evaluation import aligned
from arxiv_cls.scoring.intervals import (
    RESAMPLES,
    Difference,
    mcnemar,
    paired_bootstrap,
    paired_differences,
)
from arxiv_cls.scoring.metrics import METRICS, compute_metrics, true_scores
from arxiv_cls.scoring.scored_papers import Predictions, load_model_and_corpus, read_predictions

logger = logging.getLogger(__name__)


def predictions_of(model: str | Path, data: str | Path | None = None) -> Predictions:
    """A model's scores of its test split: those on record when they are of these weights, else new ones.

    `model` is a `predictions.parquet`, a model directory or a Hub id; `data` as `csv` of
    `load_model_and_corpus`.

    Raises:
        UserError: when there is nothing to read and nothing to score with.
    """
    path = Path(model)
    if path.suffix == ".parquet":
        return read_predictions(path)
    if evaluation := read_model_file(path, METRICS_FILE):
        weights = [path / name for name in WEIGHTS.values() if (path / name).is_file()]
        of_these = weights and file_sha256(weights[0]) == evaluation.get("weights_sha256")
        if of_these and evaluation.get("split") == "test":
            return read_predictions(path / PREDICTIONS)
        logger.info("%s is not of the weights in %s: scoring the test split again", METRICS_FILE, path)
    return load_model_and_corpus(model, data).score("test")


def align(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions, dict[str, int]]:
    """Both parts of the papers that both scored, in A's order and with A's order of labels, and counts.

    Rows with the same ids in the same order are paired as they stand: a file of `evaluate --csv` may hold a
    paper twice, or papers without an id. Otherwise the ids pair them, and have to tell the papers apart.
    Left out are `relabelled` papers, to which B's data gives another category.

    Raises:
        UserError: labels or tasks differ, no paper is in both, or the ids do not tell which rows belong
            together.
    """
    if a.multi_label != b.multi_label:
        raise UserError(
            "one model is multi-label, the other gives one label a paper: no metric is about both",
            hint="compare models of the same data.task",
        )
    if set(a.label_names) != set(b.label_names):
        in_one = sorted(set(a.label_names) ^ set(b.label_names))
        raise UserError(
            f"the models have different labels: {in_one} in one only",
            hint="compare models of the same data.config",
        )
    columns = [b.label_names.index(name) for name in a.label_names]
    rows_a, rows_b = _paired_rows(a.arxiv_ids, b.arxiv_ids)
    if a.listed is not None and b.listed is not None and a.multi_label:
        same = (a.listed[rows_a] == b.listed[rows_b][:, columns]).all(axis=1)
    else:
        same = a.labels[rows_a] == np.argsort(columns)[b.labels[rows_b]]
    counts = {
        "papers": int(same.sum()),
        "only_in_a": len(a.labels) - len(rows_a),
        "only_in_b": len(b.labels) - len(rows_b),
        "relabelled": int((~same).sum()),
    }
    rows_a, rows_b = rows_a[same], rows_b[same]
    common = a.label_names, a.arxiv_ids[rows_a], a.labels[rows_a]
    listed = a.listed[rows_a] if a.listed is not None else None
    thresholds = b.thresholds[columns] if b.thresholds is not None else None
    part_b = Predictions(*common, b.probabilities[rows_b][:, columns], listed=listed, thresholds=thresholds)
    part_a = Predictions(*common, a.probabilities[rows_a], listed=listed, thresholds=a.thresholds)
    return part_a, part_b, counts


def _paired_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m,) rows of A and (m,) rows of B with the same papers; see `align`."""
    if len(a) == len(b) and (a == b).all():
        return np.arange(len(a)), np.arange(len(b))
    for name, ids in (("A", a), ("B", b)):
        found, times = np.unique(ids.astype(str), return_counts=True)
        ambiguous = [str(one) or "an empty id" for one in found[(times > 1) | (found == "")]]
        if ambiguous:
            raise UserError(
                f"the ids of {name} do not tell its papers apart: {len(ambiguous):,} of them are empty or "
                f"stand for several rows, {ambiguous[0]} among them",
                hint="compare models on the same file, row by row, or on a file with one row a paper",
            )
    place_in_b = {name: place for place, name in enumerate(b)}
    in_both = [place for place, name in enumerate(a) if name in place_in_b]
    if not in_both:
        raise UserError("no paper was scored by both", hint="compare models of the same data and split")
    return np.asarray(in_both), np.asarray([place_in_b[name] for name in a[in_both]])


def compare_predictions(a: Predictions, b: Predictions, papers: int = 5) -> dict[str, Any]:
    """The counts of `align`, metrics and F1 of B less A, McNemar's test; errors as `align`.

    `b_ahead` and `a_ahead` list at most `papers` each, those where the score of the true category differs
    most. Of multi-label models there are the counts, the metrics and F1 alone.
    """
    a, b, counts = align(a, b)
    if a.multi_label:
        return counts | _compare_multi_label(a, b)
    in_a, in_b = (compute_metrics(part.labels, part.probabilities, part.label_names) for part in (a, b))
    found = paired_bootstrap(a.labels, a.probabilities, b.probabilities, a.label_names)
    only_a, only_b, p_value = mcnemar(a.predicted == a.labels, b.predicted == b.labels)
    given_a, given_b = (true_scores(part.labels, part.probabilities) for part in (a, b))
    order = np.argsort(given_b - given_a, kind="stable")
    names = np.asarray(a.label_names)
    keys = ("arxiv_id", "label", "predicted_a", "predicted_b", "score_a", "score_b")
    columns = (a.arxiv_ids, names[a.labels], names[a.predicted], names[b.predicted], given_a, given_b)

    def shown(rows: np.ndarray) -> list[dict[str, Any]]:
        listed = zip(*(column[rows[:papers]].tolist() for column in columns), strict=True)
        return [dict(zip(keys, values, strict=True)) for values in listed]

    return {
        **counts,
        **_differences(in_a, in_b, found, METRICS),
        "mcnemar": {"only_a_right": only_a, "only_b_right": only_b, "p_value": p_value},
        "b_ahead": shown(order[::-1][: (given_b > given_a).sum()]),
        "a_ahead": shown(order[: (given_a > given_b).sum()]),
    }


def _differences(
    in_a: dict[str, Any], in_b: dict[str, Any], found: dict[str, Difference], names: Iterable[str]
) -> dict[str, Any]:
    return {
        "resamples": RESAMPLES,
        "metrics": {name: {"a": in_a[name], "b": in_b[name], **found[name]._asdict()} for name in names},
        "per_class": {
            name: {
                "a": of_class["f1"],
                "b": in_b["per_class"][name]["f1"],
                **found[f"f1/{name}"]._asdict(),
                "support": of_class["support"],
            }
            for name, of_class in in_a["per_class"].items()
        },
    }


def _compare_multi_label(a: Predictions, b: Predictions) -> dict[str, Any]:
    scores = [(one.listed, one.probabilities, one.thresholds, one.label_names) for one in (a, b)]
    in_a, in_b = (multi_label.compute_metrics(*one) for one in scores)
    found = paired_differences(*(multi_label.MultiLabelResampler(*one) for one in scores))
    return _differences(in_a, in_b, found, multi_label.METRICS)


def compare_models(
    a: str | Path, b: str | Path, *, papers: int = 5, data: str | Path | None = None
) -> dict[str, Any]:
    """`compare_predictions` of the `predictions_of` two models, with their names as `a` and `b`."""
    if papers < 0:
        raise UserError(f"--papers {papers}: a number of papers is 0 or more")
    first, second = (predictions_of(model, data) for model in (a, b))
    return {"a": str(a), "b": str(b), **compare_predictions(first, second, papers)}


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """The comparison as text for the terminal."""
    parts = [f"A  {comparison['a']}\nB  {comparison['b']}", f"{comparison['papers']:,} papers scored by both"]
    for key, what in (
        ("only_in_a", "only by A"),
        ("only_in_b", "only by B"),
        ("relabelled", "with another category in B's data, left out"),
    ):
        if comparison[key]:
            parts[-1] += f"; {comparison[key]:,} {what}"
    for title, lines in (("metric", comparison["metrics"]), ("F1 of", comparison["per_class"])):
        rows = []
        for name, line in lines.items():
            interval = f"{line['low']:+.4f} to {line['high']:+.4f}"
            measured = [f"{line['a']:.4f}", f"{line['b']:.4f}", f"{line['difference']:+.4f}"]
            rows.append([name, *measured, interval, f"{line['p_value']:.3f}"])
        parts.append(aligned(rows, [title, "A", "B", "B - A", "95% interval", "p"]))
    if test := comparison.get("mcnemar"):
        parts.append(
            f"McNemar, exact: only A right on {test['only_a_right']:,}, only B right on "
            f"{test['only_b_right']:,} papers, p = {test['p_value']:.3g}"
        )
    for side, papers in (("B", comparison.get("b_ahead", [])), ("A", comparison.get("a_ahead", []))):
        rows = []
        for paper in papers:
            said = [f"{paper[f'predicted_{model}']} {paper[f'score_{model}']:.2f}" for model in "ab"]
            rows.append([f"https://arxiv.org/abs/{paper['arxiv_id']}", paper["label"], *said])
        if rows:
            header = [f"{side} is ahead on", "label", "A says, score of label", "B says, score of label"]
            parts.append(aligned(rows, header))
    return "\n\n".join(parts)
