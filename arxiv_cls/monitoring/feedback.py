"""Accuracy with labels that came later: joined with the request log, beside the release's own record."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import locate_model
from arxiv_cls.monitoring.check import model_versions, parse_time
from arxiv_cls.monitoring.drift import WATCH_P, chi_square_p
from arxiv_cls.monitoring.log_reader import LogReader, LogRow
from arxiv_cls.record.files import file_sha256, write_json
from arxiv_cls.scoring.intervals import bootstrap_intervals, wilson_interval
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.reference import Reference, load_references
from arxiv_cls.scoring.scored_papers import true_columns

SCHEMA_VERSION = 1
FEEDBACK = "feedback.json"
# Fewer labels than these say next to nothing: their interval is over 0.3 wide.
FEWEST = 30
SIGNIFICANCE = 0.05
DROPS = (0.03, 0.05, 0.1)
WANTED_POWER = 0.8
MOST_LABELS = 10_000_000


class Label(NamedTuple):
    """What is known of one text.

    Attributes:
        category: the true category, of several the primary one.
        categories: all of them; only the true one where no others are known.
    """

    category: str
    categories: tuple[str, ...]


def read_labels(path: Path) -> tuple[dict[tuple[str, int], Label], Counter[str]]:
    """Labels by request id and index, from CSV or JSON Lines.

    Each row has `request_id`, or `arxiv_id` where the client sent that as its request id, `index` (0 where it
    is not there), and `category` or `categories` (a list, or a text with spaces; the first is the primary).

    Returns:
        The labels; and how many rows were `bad`, `repeated` (the same label again) or `contradicting`
        (another label: neither is taken).

    Raises:
        UserError: no such file, or it has no row with a label.
    """
    labels: dict[tuple[str, int], Label] = {}
    contradicting: set[tuple[str, int]] = set()
    counts: Counter[str] = Counter()
    for row in _rows(path):
        counts["rows"] += 1
        try:
            key, label = _label(row)
        except (AttributeError, KeyError, ValueError, TypeError, OverflowError):
            counts["bad"] += 1
            continue
        if key in labels:
            same = labels[key] == label
            counts["repeated" if same else "contradicting"] += 1
            if not same:
                contradicting.add(key)
        else:
            labels[key] = label
    for key in contradicting:
        del labels[key]
    if not labels:
        raise UserError(
            f"--labels {path}: no row with `request_id` or `arxiv_id`, and `category` or `categories`",
            hint="CSV with a header, or an object per line; `index` counts the texts of a request from 0",
        )
    return labels, counts


def _rows(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            if first.lstrip().startswith("{"):
                for line in file:
                    try:
                        yield json.loads(line)
                    except ValueError:
                        yield None
            else:
                yield from csv.DictReader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--labels {path}: cannot be read: {error}") from None


def _label(row: Any) -> tuple[tuple[str, int], Label]:
    request = row.get("request_id") or row.get("arxiv_id")
    if not isinstance(request, str) or not request:
        raise ValueError("no request id")
    many = row.get("categories") or ()
    found = many.split() if isinstance(many, str) else list(many)
    category = row.get("category") or (found[0] if found else None)
    if not isinstance(category, str) or not all(isinstance(one, str) for one in found):
        raise ValueError("no category")
    return (request, int(row.get("index") or 0)), Label(category.strip(), tuple(found) or (category.strip(),))


class Joined:
    """The served texts of one model version, and those of them that have a label."""

    def __init__(self, version: str, labels: int) -> None:
        self.version, self.served = version, np.zeros(labels, dtype=np.int64)
        self.rows: list[LogRow] = []
        self.known: list[Label] = []
        self.latest = float("-inf")


def measure_feedback(
    model: str | Path,
    log: str,
    labels: Path,
    *,
    since: str | None = None,
    until: str | None = None,
    versions: Iterable[str] = (),
    out: Path | None = None,
) -> dict[str, Any]:
    """Measures the newest served version of a model on the labels that are there.

    Args:
        model: directory or Hub id.
        log: as of `check_drift`.
        labels: see `read_labels`.
        since, until, versions: as of `check_drift`.
        out: folder for feedback.json; None writes nothing.

    Returns:
        What feedback.json holds.

    Raises:
        UserError: no model, reference, log or labels; no label belongs to a text of this model.
    """
    directory = locate_model(model)
    references = load_references(directory)
    names = next(iter(references.values())).labels
    known, counts = read_labels(labels)
    reader = LogReader(log, names, parse_time(since, "--since"), parse_time(until, "--until"))
    ours = model_versions(directory, str(model)) | set(versions)
    found, used = _join(reader, known, ours, len(names))
    if not found:
        raise UserError(
            f"--log {log}: no text of this model ({', '.join(sorted(ours))})",
            hint="name what the log calls it with --version",
        )
    newest = max(found.values(), key=lambda joined: joined.latest)
    truth = true_columns([label.category for label in newest.known], names)
    if not (truth >= 0).any():
        raise UserError(
            f"--labels {labels}: none of its {len(known):,} labels belongs to one of the "
            f"{int(newest.served.sum()):,} texts that version {newest.version} answered",
            hint="request ids and indexes are those of the request log",
        )
    cascade = "+" in newest.version
    released = _released([one for key, one in references.items() if key[0] == cascade], names)
    record = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": str(model),
        "version": newest.version,
        "log": log,
        "labels": {
            "file": str(labels),
            "sha256": file_sha256(labels),
            **{name: counts[name] for name in ("rows", "bad", "repeated", "contradicting")},
            "not_in_the_log": len(known) - len(used),
        },
        **_measured(newest, truth, names),
        "released": released,
    }
    record["comparison"] = compare_with_release(record["accuracy"], record["n"], released)
    if out is not None:
        write_json(record, out / FEEDBACK)
    return record


def _join(
    reader: LogReader, known: dict[tuple[str, int], Label], ours: set[str], labels: int
) -> tuple[dict[str, Joined], set[tuple[str, int]]]:
    found: dict[str, Joined] = {}
    used: set[tuple[str, int]] = set()
    for row in reader:
        if not {row.version, row.version.partition("+")[0]} & ours:
            continue
        joined = found.setdefault(row.version, Joined(row.version, labels))
        joined.served[int(np.argmax(row.scores))] += 1
        joined.latest = max(joined.latest, row.time)
        key = (row.request_id, row.place)
        # A line that is there twice is one answer.
        if key in known and key not in used:
            used.add(key)
            joined.rows.append(row)
            joined.known.append(known[key])
    return found, used


def _measured(joined: Joined, truth: np.ndarray, names: list[str]) -> dict[str, Any]:
    kept = np.flatnonzero(truth >= 0)
    rows = [joined.rows[at] for at in kept]
    scores, labels = np.array([row.scores for row in rows]), truth[kept]
    scores = scores / scores.sum(axis=1, keepdims=True)
    predicted = scores.argmax(axis=1)
    correct = predicted == labels
    metrics = compute_metrics(labels, scores, names)
    intervals = bootstrap_intervals(labels, scores, names)
    listed = [names[one] in joined.known[at].categories for one, at in zip(predicted, kept, strict=True)]
    served = joined.served
    of_labelled = np.bincount(predicted, minlength=len(names))
    return {
        "n": len(rows),
        "served": int(served.sum()),
        "labelled": len(joined.rows),
        "other_labels": int((truth < 0).sum()),
        "accuracy": float(correct.mean()),
        "accuracy_interval": list(wilson_interval(int(correct.sum()), len(correct))),
        "listed_accuracy": float(np.mean(listed)),
        "macro_f1": metrics["macro_f1"],
        "macro_f1_interval": list(intervals["macro_f1"]),
        "per_class": metrics["per_class"],
        "over_time": _over_time(rows, correct),
        "predicted_mix": [
            {
                "label": name,
                "labelled": float(of_labelled[at] / len(rows)),
                "served": float(served[at] / served.sum()),
            }
            for at, name in enumerate(names)
        ],
        # Labels that come are selected: is what they were predicted as like the rest?
        "selection_p": chi_square_p(of_labelled, np.maximum(served - of_labelled, 0)),
    }


def _over_time(rows: list[LogRow], correct: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of runs of weeks with at least `FEWEST` labels each, oldest first."""
    order = np.argsort([row.time for row in rows], kind="stable")
    weeks: dict[tuple[int, int], list[bool]] = {}
    starts: dict[tuple[int, int], str] = {}
    for at in order:
        day = datetime.fromtimestamp(rows[at].time, UTC)
        week = day.isocalendar()[:2]
        starts.setdefault(week, day.date().isoformat())
        weeks.setdefault(week, []).append(bool(correct[at]))
    runs: list[dict[str, Any]] = []
    for week, hits in weeks.items():
        if runs and runs[-1]["n"] < FEWEST:
            runs[-1]["n"] += len(hits)
            runs[-1]["correct"] += sum(hits)
        else:
            runs.append({"since": starts[week], "n": len(hits), "correct": sum(hits)})
    if len(runs) > 1 and runs[-1]["n"] < FEWEST:
        last = runs.pop()
        runs[-1]["n"] += last["n"]
        runs[-1]["correct"] += last["correct"]
    for run in runs:
        run["accuracy"] = run["correct"] / run["n"]
        run["interval"] = list(wilson_interval(run["correct"], run["n"]))
    return runs


def _released(references: list[Reference], names: list[str]) -> dict[str, Any]:
    """What the release measured on its test split; of a cascade on both halves together."""
    if not references:
        raise UserError("the model has no reference of what answered", hint="`arxiv-cls monitor reference`")
    scores = np.concatenate([one.rows.scores for one in references])
    truth = np.concatenate([one.truth for one in references])
    metrics = compute_metrics(truth, scores / scores.sum(axis=1, keepdims=True), names)
    return {"n": len(truth), "accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]}


def compare_with_release(accuracy: float, n: int, released: dict[str, Any]) -> dict[str, Any]:
    """Is it worse than released? One-sided test of two shares at 5%, with its power.

    Returns:
        {difference, p, worse, power: {drop: share of such drops that n labels show}, labels_needed: {drop:
        labels for a power of 0.8}, answer}.
    """
    before, m = released["accuracy"], released["n"]
    pooled = (accuracy * n + before * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    p = float(norm.sf((before - accuracy) / error)) if error else 1.0
    found = {
        "difference": accuracy - before,
        "p": p,
        "worse": p < SIGNIFICANCE,
        "power": {str(drop): power_of(drop, n, before, m) for drop in DROPS},
        "labels_needed": {str(drop): labels_needed(drop, before, m) for drop in DROPS},
    }
    shown = [drop for drop in DROPS if found["power"][str(drop)] >= WANTED_POWER]
    if found["worse"]:
        answer = f"worse than released, by {100 * (before - accuracy):.1f} points (p = {p:.2g})"
    else:
        answer = f"not shown to be worse than released (p = {p:.2g}); {n:,} labels show "
        answer += (
            f"a drop of {100 * min(shown):g} points with a probability of at least {WANTED_POWER:g}"
            if shown
            else "no drop up to 10 points reliably"
        )
    if n < FEWEST:
        answer += f"; with fewer than {FEWEST} labels take it for nothing"
    return found | {"answer": answer}


def power_of(drop: float, n: int, before: float, m: int) -> float:
    """Probability that the test shows a drop, with n labels against an accuracy measured on m papers."""
    after = max(0.0, before - drop)
    pooled = (after * n + before * m) / (n + m)
    under_none = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    under_drop = math.sqrt(after * (1 - after) / n + before * (1 - before) / m)
    if not under_drop:
        return 1.0
    return float(norm.cdf((drop - norm.isf(SIGNIFICANCE) * under_none) / under_drop))


def labels_needed(drop: float, before: float, m: int) -> int | None:
    """The fewest labels that show a drop with a power of 0.8; None when no number does."""
    if power_of(drop, MOST_LABELS, before, m) < WANTED_POWER:
        return None
    low, high = 1, MOST_LABELS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(drop, middle, before, m) >= WANTED_POWER else (middle + 1, high)
    return low


def feedback_table(record: dict[str, Any]) -> str:
    """What was measured, for the terminal."""
    low, high = record["accuracy_interval"]
    f1_low, f1_high = record["macro_f1_interval"]
    released = record["released"]
    powers = [f"{100 * float(drop):g} points {power:.2f}"
              for drop, power in record["comparison"]["power"].items()]  # fmt: skip
    lines = [
        record["comparison"]["answer"],
        f"  labelled   {record['n']:,} of {record['served']:,} served by version {record['version']}; "
        f"{record['other_labels']:,} have a label that the model does not know",
        f"  accuracy   {record['accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"released {released['accuracy']:.3f} on {released['n']:,}",
        f"  macro-F1   {record['macro_f1']:.3f} ({f1_low:.3f} to {f1_high:.3f}), "
        f"released {released['macro_f1']:.3f}",
        f"  listed     {record['listed_accuracy']:.3f} of the answers are among the paper's own categories",
        "  power      " + ", ".join(powers),
    ]  # fmt: skip
    if record["selection_p"] < WATCH_P:
        lines.append(
            "  the labelled texts are not like the rest: "
            + ", ".join(
                f"{entry['label']} {entry['labelled']:.0%} of labelled, {entry['served']:.0%} of all"
                for entry in record["predicted_mix"]
            )
        )
    lines += [
        f"  {run['since']}  {run['accuracy']:.3f} ({run['interval'][0]:.3f} to {run['interval'][1]:.3f}), "
        f"n = {run['n']}"
        for run in record["over_time"]
    ]
    labels = record["labels"]
    lines.append(
        f"  labels     {labels['rows']:,} rows: {labels['not_in_the_log']:,} not in the log, "
        f"{labels['bad']:,} bad, {labels['repeated']:,} repeated, {labels['contradicting']:,} contradicting"
    )
    return "\n".join(lines)
