"""Accuracy with labels that came later: joined with the request log, beside the release's own record."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.check import open_log
from arxiv_cls.monitoring.drift import WATCH_P, chi_square_p
from arxiv_cls.monitoring.log_reader import LogReader, LogRow, listed, reading
from arxiv_cls.record.files import write_json
from arxiv_cls.scoring.intervals import bootstrap_intervals, wilson_interval
from arxiv_cls.scoring.metrics import compute_metrics
from arxiv_cls.scoring.reference import Reference
from arxiv_cls.scoring.scored_papers import true_columns

SCHEMA_VERSION = 1
FEEDBACK = "feedback.json"
# Fewer labels than these say next to nothing: their interval is over 0.3 wide.
FEWEST = 30
SIGNIFICANCE = 0.05
DROPS = (0.03, 0.05, 0.1)
WANTED_POWER = 0.8


# Of a text, by request id and index: its categories, the primary one first.
Labels = dict[tuple[str, int], tuple[str, ...]]


def read_labels(target: str) -> tuple[Labels, Counter[str], str]:
    """Labels from CSV or JSON Lines, how many rows were `bad`, `repeated` or `contradicting`, and the sha256.

    Each row has `request_id`, or `arxiv_id` or `id` where the client sent that as its request id, `index` (0
    where it is not there), and `category` or `categories` (a list, or a text with spaces or commas; the first
    is the primary). `target` is a file, or the endpoint's feedback log: a directory or gs://bucket/prefix. Of
    the rows of a text those with the latest `time` count, as that log has it: where they have one primary
    category the longest, where they contradict each other none.

    Raises:
        UserError: no such file, or it has no row with a label.
    """
    labels: Labels = {}
    times: dict[tuple[str, int], str] = {}
    contradicting: set[tuple[str, int]] = set()
    counts: Counter[str] = Counter()
    content = hashlib.sha256()
    for row in _rows(target, content):
        counts["rows"] += 1
        try:
            (key, label), time = _label(row), str(row.get("time") or "")
        except (AttributeError, KeyError, ValueError, TypeError, OverflowError):
            counts["bad"] += 1
            continue
        if key not in labels or time > times[key]:
            counts["repeated"] += key in labels
            labels[key], times[key] = label, time
            contradicting.discard(key)
        elif time < times[key] or label[0] == labels[key][0]:
            counts["repeated"] += 1
            if time == times[key]:
                labels[key] = max(labels[key], label, key=len)
        else:
            counts["contradicting"] += 1
            contradicting.add(key)
    for key in contradicting:
        del labels[key]
    if not labels:
        raise UserError(
            f"--labels {target}: no row with `request_id` or `arxiv_id`, and `category` or `categories`",
            hint="CSV with a header, or an object per line; `index` counts the texts of a request from 0",
        )
    return labels, counts, content.hexdigest()


def _rows(target: str, content: Any) -> Iterator[Any]:
    hint = "`arxiv-cls serve MODEL --feedback-log DIR` writes them, or name a file"
    filesystem, names = listed("--labels", target, (".jsonl", ".csv"), hint)
    with reading(f"--labels {target}"):
        files = filesystem.cat(list(names))
    for name in names:
        content.update(files[name])
        read, where = files[name].removeprefix(codecs.BOM_UTF8), name if len(names) > 1 else target
        try:
            lines = io.StringIO(read.decode(), newline="")
            if read.lstrip().startswith(b"{"):
                yield from map(_parsed, lines)
            else:
                yield from csv.DictReader(lines)
        except UnicodeDecodeError as error:
            line = read.count(b"\n", 0, error.start) + 1
            raise UserError(f"--labels {where}, line {line}: not UTF-8", "save the file as UTF-8") from None
        except csv.Error as error:
            raise UserError(f"--labels {where}: no CSV and no JSON Lines: {error}") from None


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _label(row: Any) -> tuple[tuple[str, int], tuple[str, ...]]:
    request = row.get("request_id") or row.get("arxiv_id") or row.get("id")
    if not isinstance(request, str) or not request:
        raise ValueError("no request id")
    many = row.get("categories") or ()
    found = many.replace(",", " ").split() if isinstance(many, str) else list(many)
    found = [row["category"].strip(), *found] if row.get("category") else found
    if not found or not all(isinstance(one, str) and one for one in found):
        raise ValueError("no category")
    # Programs that read a column with gaps write 1.0.
    if isinstance(index := row.get("index"), bool) or not (place := float(index or 0)).is_integer():
        raise ValueError("no index")
    return (request, int(place)), tuple(dict.fromkeys(found))


class Joined:
    """The served texts of one model version, and those of them that have a label."""

    def __init__(self, version: str, labels: int) -> None:
        self.version, self.latest = version, float("-inf")
        self.served = np.zeros(labels, dtype=np.int64)  # predictions of each label
        self.seen: set[tuple[str, int]] = set()  # what has a label
        self.rows: list[LogRow] = []
        self.categories: list[tuple[str, ...]] = []


def measure_feedback(
    model: str | Path, log: str, labels: str | Path, *, since: str | None = None,
    versions: Iterable[str] = (), out: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measures the newest served version of a model on the labels that are there; what feedback.json holds.

    `model`, `log`, `since` and `versions` are as of `check_drift`, `labels` as of `read_labels`; `out` is a
    folder for the file.

    Raises:
        UserError: no model, reference, log or labels; no label belongs to a text of this model.
    """
    references, ours, reader = open_log(model, log, versions, since)
    names = reader.labels
    known, counts, sha256 = read_labels(str(labels))
    found, used = _join(reader, known, ours)
    if not found:
        raise UserError(
            f"--log {log}: no text of this model ({', '.join(sorted(ours))})",
            hint="name what the log calls it with --version",
        )
    newest = max(found, key=lambda joined: joined.latest)
    truth = true_columns([categories[0] for categories in newest.categories], names)
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
            "sha256": sha256,
            **{name: counts[name] for name in ("rows", "bad", "repeated", "contradicting")},
            "not_in_the_log": len(known) - used,
        },
        **_measured(newest, truth, names),
        "released": released,
    }
    record["comparison"] = compare_with_release(record["accuracy"], record["n"], released)
    if out is not None:
        write_json(record, out / FEEDBACK)
    return record


def _join(reader: LogReader, known: Labels, ours: set[str]) -> tuple[list[Joined], int]:
    """The log by model version, and how many labels belong to a line of it."""
    found: dict[str, Joined] = {}
    for row in reader:
        if not row.scores or not {row.version, row.version.partition("+")[0]} & ours:
            continue
        joined = found.setdefault(row.version, Joined(row.version, len(reader.labels)))
        joined.served[int(np.argmax(row.scores))] += 1
        joined.latest = max(joined.latest, row.time)
        key = row.request_id, row.place
        # A line that is there twice is one answer of this version; another may have answered the text too.
        if (label := known.get(key)) and key not in joined.seen:
            joined.seen.add(key)
            joined.rows.append(row)
            joined.categories.append(label)
    return list(found.values()), len(set().union(*(joined.seen for joined in found.values())))


def _measured(joined: Joined, truth: np.ndarray, names: list[str]) -> dict[str, Any]:
    kept = np.flatnonzero(truth >= 0)
    rows = [joined.rows[at] for at in kept]
    scores, labels = np.array([row.scores for row in rows]), truth[kept]
    scores = scores / scores.sum(axis=1, keepdims=True)
    predicted = scores.argmax(axis=1)
    correct = predicted == labels
    listed = [names[one] in joined.categories[at] for one, at in zip(predicted, kept, strict=True)]
    metrics = compute_metrics(labels, scores, names)
    served, labelled = joined.served, np.bincount(predicted, minlength=len(names))
    shares = zip(names, labelled / len(rows), served / served.sum(), strict=True)
    return {
        "n": len(rows),
        "served": int(served.sum()),
        "labelled": len(joined.rows),
        "other_labels": int((truth < 0).sum()),
        "accuracy": float(correct.mean()),
        "accuracy_interval": list(wilson_interval(int(correct.sum()), len(correct))),
        "listed_accuracy": float(np.mean(listed)),
        "macro_f1": metrics["macro_f1"],
        "macro_f1_interval": list(bootstrap_intervals(labels, scores, names)["macro_f1"]),
        "per_class": metrics["per_class"],
        "over_time": _over_time(rows, correct),
        "predicted_mix": [{"label": name, "labelled": float(a), "served": float(b)} for name, a, b in shares],
        # Labels that come are selected: is what they were predicted as like the rest?
        "selection_p": chi_square_p(labelled, np.maximum(served - labelled, 0)),
    }


def _over_time(rows: list[LogRow], correct: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy of runs of weeks with at least `FEWEST` labels each, oldest first."""
    runs: list[list[int]] = []
    order = sorted(range(len(rows)), key=lambda at: rows[at].time)
    for _, week in groupby(order, key=lambda at: _day(rows[at]).isocalendar()[:2]):
        if runs and len(runs[-1]) < FEWEST:
            runs[-1] += week
        else:
            runs.append(list(week))
    if len(runs) > 1 and len(runs[-1]) < FEWEST:
        runs[-2:] = [runs[-2] + runs[-1]]
    return [
        {
            "since": _day(rows[run[0]]).isoformat(),
            "n": len(run),
            "correct": int(correct[run].sum()),
            "accuracy": float(correct[run].mean()),
            "interval": list(wilson_interval(int(correct[run].sum()), len(run))),
        }
        for run in runs
    ]


def _day(row: LogRow) -> date:
    return datetime.fromtimestamp(row.time, UTC).date()


def _released(references: list[Reference], names: list[str]) -> dict[str, Any]:
    """What the release measured on its test split; of a cascade on both halves together."""
    if not references:
        raise UserError("the model has no reference of what answered", hint="`arxiv-cls monitor reference`")
    scores = np.concatenate([one.rows.scores for one in references])
    truth = np.concatenate([one.truth for one in references])
    metrics = compute_metrics(truth, scores / scores.sum(axis=1, keepdims=True), names)
    return {"n": len(truth), "accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]}


def compare_with_release(accuracy: float, n: int, released: dict[str, Any]) -> dict[str, Any]:
    """{difference, p, worse, power, answer}: is it worse? One-sided test of two shares at 5%.

    `power` is {drop: probability that n labels show it}.
    """
    before, m = released["accuracy"], released["n"]
    pooled = (accuracy * n + before * m) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    p = float(norm.sf((before - accuracy) / error)) if error else 1.0
    power = {str(drop): power_of(drop, n, before, m) for drop in DROPS}
    if p < SIGNIFICANCE:
        answer = f"worse than released, by {100 * (before - accuracy):.1f} points (p = {p:.2g})"
    else:
        shown = [drop for drop in DROPS if power[str(drop)] >= WANTED_POWER]
        answer = f"not shown to be worse than released (p = {p:.2g}); {n:,} labels show "
        probably = f"with a probability of at least {WANTED_POWER:g}"
        answer += (
            f"a drop of {100 * shown[0]:g} points {probably}" if shown else "no drop up to 10 points reliably"
        )
    if n < FEWEST:
        answer += f"; with fewer than {FEWEST} labels take it for nothing"
    return {
        "difference": accuracy - before,
        "p": p,
        "worse": p < SIGNIFICANCE,
        "power": power,
        "answer": answer,
    }


def power_of(drop: float, n: int, before: float, m: int) -> float:
    """Probability that the test shows a drop, with n labels against an accuracy measured on m papers."""
    after = max(0.0, before - drop)
    pooled = (after * n + before * m) / (n + m)
    under_none = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    under_drop = math.sqrt(after * (1 - after) / n + before * (1 - before) / m)
    if not under_drop:
        return 1.0
    return float(norm.cdf((drop - norm.isf(SIGNIFICANCE) * under_none) / under_drop))


def feedback_table(record: dict[str, Any]) -> str:
    """What was measured, for the terminal."""
    released, labels, comparison = record["released"], record["labels"], record["comparison"]

    def measured(value: float, ends: list[float]) -> str:
        return f"{value:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"

    lines = [
        comparison["answer"],
        f"  labelled   {record['n']:,} of {record['served']:,} served by version {record['version']}; "
        f"{record['other_labels']:,} have a label that the model does not know",
        f"  accuracy   {measured(record['accuracy'], record['accuracy_interval'])}, "
        f"released {released['accuracy']:.3f} on {released['n']:,}",
        f"  macro-F1   {measured(record['macro_f1'], record['macro_f1_interval'])}, "
        f"released {released['macro_f1']:.3f}",
        f"  listed     {record['listed_accuracy']:.3f} of the answers are among the paper's own categories",
        "  power      "
        + ", ".join(
            f"{100 * float(drop):g} points {power:.2f}" for drop, power in comparison["power"].items()
        ),
    ]
    if record["selection_p"] < WATCH_P:
        shares = (
            f"{entry['label']} {entry['labelled']:.0%} of labelled, {entry['served']:.0%} of all"
            for entry in record["predicted_mix"]
        )
        lines.append("  the labelled texts are not like the rest: " + ", ".join(shares))
    for run in record["over_time"]:
        lines.append(f"  {run['since']}  {measured(run['accuracy'], run['interval'])}, n = {run['n']}")
    counts = ", ".join(
        f"{labels[name]:,} {name.replace('_', ' ')}"
        for name in ("not_in_the_log", "bad", "repeated", "contradicting")
    )
    return "\n".join([*lines, f"  labels     {labels['rows']:,} rows: {counts}"])
