"""From rows of a log to windows with verdicts: by model version and half, repeated rows dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from arxiv_cls.monitoring.accuracy import AccuracyEstimate
from arxiv_cls.monitoring.drift import FEWEST, TOO_FEW, WATCH_P, DriftTest, WindowTest, verdict_of
from arxiv_cls.monitoring.log_reader import LogRow
from arxiv_cls.scoring.reference import Reference, Rows

# Rows that are remembered, at least, to tell repeated ones: a client that sends a file again is within them.
REMEMBERED = 100_000
NAMED_REQUESTS = 10
TOP_COLUMNS = 5


# Of one reference.
Tests = tuple[DriftTest, AccuracyEstimate]
# What both halves answer. Texts unlike the test split go to the transformer, whose windows take long to fill.
CASCADE = "cascade"
NO_REFERENCE = "no reference"
COLUMNS = ("scores", "features", "in_scope")


class Group:
    """The windows of one model version and what answered: a half, or "cascade"; in the order of the log.

    A window is `size` distinct rows.
    """

    def __init__(
        self, version: str, half: str, tests: Tests, size: int, earlier: Sequence[dict[str, Any]]
    ) -> None:
        self.version, self.half, self.size = version, half, size
        self._earlier = [
            one for one in earlier if (one["model_version"], one["answered_by"]) == (version, half)
        ]
        self.drift, self.accuracy = tests
        self.rows, self.repeated, self.latest = 0, 0, float("-inf")
        self.windows: list[dict[str, Any]] = []
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self._waiting: list[LogRow] = []
        self._repeated_before = 0
        # The newest window, which the report describes.
        self._newest: tuple[list[LogRow], Rows, WindowTest] | None = None

    def add(self, row: LogRow) -> None:
        """Takes a row; tests the window when it is full."""
        self.rows += 1
        self.latest = max(self.latest, row.time)
        key = hash((row.scores, row.features))
        if key in self._seen or key in self._seen_before:
            self.repeated += 1
            return
        self._seen.add(key)
        if len(self._seen) >= REMEMBERED:
            self._seen, self._seen_before = set(), self._seen
        self._waiting.append(row)
        if len(self._waiting) == self.size:
            self._test()

    def close(self) -> None:
        """Tests what there is when no window was filled, so that a small log gets an answer too."""
        if not self.windows and len(self._waiting) >= FEWEST:
            self._test()

    @property
    def verdict(self) -> str:
        """Of the newest window."""
        return self.windows[-1]["verdict"] if self.windows else TOO_FEW

    def _test(self) -> None:
        window, self._waiting = self._waiting, []
        rows = to_rows(window)
        found = self.drift(rows)
        self._newest = window, rows, found
        times = [row.time for row in window]
        # The first window of a run follows what an earlier run has found.
        before = self.windows or [one for one in self._earlier if one["end"] < _iso(min(times))]
        self.windows.append(
            {
                "model_version": self.version,
                "answered_by": self.half,
                "start": _iso(min(times)),
                "end": _iso(max(times)),
                "distinct": len(window),
                "repeated": self.repeated - self._repeated_before,
                "p": found.p,
                "groups": found.groups,
                "verdict": verdict_of(found.p, before[-1]["p"] if before else None),
                "out_of_scope": None if found.out_of_scope is None else float(found.out_of_scope.mean()),
                "unusual": float(found.unusual.mean()),
                "labels": {one["label"]: round(one["window"], 4) for one in self.drift.label_mix(rows)},
                "accuracy": self.accuracy(rows),
            }
        )
        self._repeated_before = self.repeated

    @property
    def newest_rows(self) -> Rows | None:
        """The rows of the newest window."""
        return self._newest[1] if self._newest else None

    def summary(self) -> dict[str, Any]:
        """The newest window with its effects: columns, label mix, texts to look at, what to do."""
        base = {
            "model_version": self.version,
            "answered_by": self.half,
            "verdict": self.verdict,
            "rows": self.rows,
            "distinct": self.rows - self.repeated,
            "repeated": self.repeated,
            "waiting": len(self._waiting),
            "windows": len(self.windows),
            "alarms": sum(window["verdict"] == "alarm" for window in self.windows),
            "reference_papers": len(self.drift.reference.rows),
        }
        if self._newest is None:
            action = f"{len(self._waiting)} distinct texts: a verdict needs {FEWEST}"
            return base | {"window": None, "action": action}
        texts, rows, found = self._newest
        window, drift = self.windows[-1], self.drift
        columns, mix = drift.describe(rows), drift.label_mix(rows)
        if found.groups["labels"] < WATCH_P and (shares := self.accuracy.label_mix(rows)) is not None:
            mix = [one | {"estimated_true": float(share)} for one, share in zip(mix, shares, strict=True)]

        def named(mask: np.ndarray | None) -> list[str]:
            places = np.flatnonzero([] if mask is None else mask)[:NAMED_REQUESTS]
            return [f"{texts[at].request_id}#{texts[at].place}" for at in places]

        described = base | {
            "window": window,
            "reference_shares": drift.shares,
            "columns": columns,
            "top_columns": [column["column"] for column in columns if column["p"] < WATCH_P][:TOP_COLUMNS],
            "label_mix": mix,
            # Texts to look at, as request id and index.
            "requests": {"out_of_scope": named(found.out_of_scope), "unusual": named(found.unusual)},
            "severity": _severity(window, drift.shares),
        }
        return described | {"action": _action(described)}


def drift_tests(references: Mapping[tuple[bool, str], Reference]) -> dict[tuple[bool, str], DriftTest]:
    """The tests for each reference, and for both halves of a cascade together, at (True, "cascade")."""
    found = dict(references)
    halves = [one for (cascade, _), one in references.items() if cascade]
    if len(halves) > 1:
        rows = Rows(*(np.concatenate([getattr(one.rows, name) for one in halves]) for name in COLUMNS))
        truth = np.concatenate([one.truth for one in halves])
        found[True, CASCADE] = replace(halves[0], rows=rows, truth=truth)
    beside = {True: sum(cascade for cascade, _ in found), False: 1}
    return {key: DriftTest(one, beside[key[0]]) for key, one in found.items()}


def to_rows(window: list[LogRow]) -> Rows:
    """Rows of the log as arrays."""
    return Rows(*(np.array([getattr(row, name) for row in window]) for name in COLUMNS))


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


def group_rows(
    rows: Iterable[LogRow],
    tests: Mapping[tuple[bool, str], Tests],
    versions: set[str],
    size: int,
    starts: Mapping[tuple[str, str], float],
    earlier: Sequence[dict[str, Any]] = (),
) -> tuple[dict[tuple[str, str], Group], Counter[str]]:
    """Groups of rows by version and half, of a cascade also of both; and the rows that are in none.

    These are counted by their version or `no reference`.

    `tests` are by whether a cascade answered, and which half; of a cascade's version the part before the "+"
    is compared with `versions`. Rows before the `starts` of their group are left out, so that a moving start
    of the period does not move every window. `earlier` are the windows of earlier runs, oldest first.
    """
    groups: dict[tuple[str, str], Group] = {}
    others: Counter[str] = Counter()
    for row in rows:
        key = (row.version, row.half)
        if not row.scores:
            others[f"{row.version}, other labels"] += 1
            continue
        if key not in groups:
            first, plus, _ = row.version.partition("+")
            if not {first, row.version} & versions:
                others[row.version] += 1
                continue
            if (bool(plus), row.half) not in tests:
                others[f"{NO_REFERENCE} ({'cascade, ' if plus else ''}{row.half})"] += 1
                continue
            groups[key] = Group(*key, tests[bool(plus), row.half], size, earlier)
            both = (row.version, CASCADE)
            if (True, CASCADE) in tests and plus and both not in groups:
                groups[both] = Group(*both, tests[True, CASCADE], size, earlier)
        for group in filter(None, (groups[key], groups.get((row.version, CASCADE)))):
            if row.time >= starts.get((group.version, group.half), float("-inf")):
                group.add(row)
    for group in groups.values():
        group.close()
    return groups, others


def _severity(window: dict[str, Any], reference: dict[str, float | None]) -> str:
    """By the estimated loss of accuracy and the new texts out of scope, never by p."""
    estimate = window["accuracy"]
    loss = estimate["released"] - estimate["accuracy"] if estimate else 0.0
    return severity_of(max(loss, (window["out_of_scope"] or 0.0) - (reference["out_of_scope"] or 0.0)))


def severity_of(drop: float) -> str:
    """The level of a drop of accuracy: above 0.2 high, above 0.1 moderate, else low."""
    return "high" if drop > 0.2 else "moderate" if drop > 0.1 else "low"


def _action(summary: dict[str, Any]) -> str:
    """One sentence: what changed most, and what to look at."""
    window = summary["window"]
    if window["verdict"] == "ok":
        return "nothing to do: the newest texts are like the test split"
    name = min(window["groups"], key=window["groups"].get)
    if name in ("scope", "unusual"):
        key = "out_of_scope" if name == "scope" else name
        said = "out-of-scope share" if name == "scope" else "unusual texts"
        said += _change(summary["reference_shares"][key], window[key])
        if requests := summary["requests"][key]:
            said += ": look at these request ids: " + ", ".join(requests[:5])
    elif name == "labels":
        most = max(summary["label_mix"], key=lambda entry: abs(entry["window"] - entry["reference"]))
        said = f"share of {most['label']}{_change(most['reference'], most['window'])}"
        said += ": is it expected (a new client, a season)? If it stays, retrain on newer papers"
    else:
        column = next(entry for entry in summary["columns"] if entry["group"] == name)
        before, now = (column[side]["mean"] for side in ("reference", "window"))
        said = f"{column['column']}: mean {before:.3g} -> {now:.3g}: "
        said += "look at what the clients send" if name == "text" else "label a sample to measure accuracy"
        if column["column"] in window["labels"]:
            said = f"score of {said}"
    if window["verdict"] == "watch":
        return said + "; wait for the next window before acting"
    return f"{said}; severity {summary['severity']}"


def _change(before: float, now: float) -> str:
    return f" {100 * before:.3g}% -> {100 * now:.3g}%"
