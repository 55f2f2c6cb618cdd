"""From rows of a log to windows with verdicts: by model version and half, repeated rows dropped."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from arxiv_cls.monitoring.accuracy import AccuracyEstimate
from arxiv_cls.monitoring.drift import (
    FEWEST,
    TOO_FEW,
    WATCH_P,
    WINDOW,
    DriftTest,
    WindowTest,
    verdict_of,
    worst,
)
from arxiv_cls.monitoring.log_reader import LogRow
from arxiv_cls.scoring.reference import FEATURES, Reference, Rows

# Rows that are remembered to tell repeated ones, at least; a client that sends a file again repeats within
# these.
REMEMBERED = 100_000
NAMED_REQUESTS = 10
TOP_COLUMNS = 5


class ReferenceTests:
    """A reference with what is worked out of it once."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.drift = DriftTest(reference)
        self.accuracy = AccuracyEstimate(reference)


class Group:
    """The windows of one model version and one half, in the order of the log.

    Args:
        version: of the model.
        half: "baseline" or "transformer".
        tests: of its reference.
        size: distinct rows of a window.
    """

    def __init__(self, version: str, half: str, tests: ReferenceTests, size: int = WINDOW) -> None:
        self.version, self.half, self.tests, self.size = version, half, tests, size
        self.rows, self.repeated = 0, 0
        self.windows: list[dict[str, Any]] = []
        self.latest = float("-inf")
        # The newest whole window, which the report describes.
        self.newest: list[LogRow] = []
        self._seen: set[int] = set()
        self._seen_before: set[int] = set()
        self._current: list[LogRow] = []
        self._repeated_before = 0

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
        self._current.append(row)
        if len(self._current) == self.size:
            self.newest, self._current = self._current, []
            self.windows.append(self._tested(self.newest))
            self._repeated_before = self.repeated

    @property
    def waiting(self) -> int:
        """Distinct rows of the window that is not full yet."""
        return len(self._current)

    def close(self) -> None:
        """Tests what there is when no window was filled, so that a small log gets an answer too."""
        if not self.windows and len(self._current) >= min(FEWEST, self.size):
            self.newest, self._current = self._current, []
            self.windows.append(self._tested(self.newest))

    @property
    def verdict(self) -> str:
        """Of the newest window."""
        return self.windows[-1]["verdict"] if self.windows else TOO_FEW

    def _tested(self, window: list[LogRow]) -> dict[str, Any]:
        rows = to_rows(window)
        found = self.tests.drift(rows)
        before = self.windows[-1]["p"] if self.windows else None
        times = [row.time for row in window]
        labels = self.tests.reference.labels
        mix = np.bincount(rows.scores.argmax(axis=1), minlength=len(labels)) / len(rows)
        return {
            "model_version": self.version,
            "answered_by": self.half,
            "start": _iso(min(times)),
            "end": _iso(max(times)),
            "distinct": len(window),
            "repeated": self.repeated - self._repeated_before,
            "p": found.p,
            "groups": found.groups,
            "verdict": verdict_of(found.p, before),
            "out_of_scope": None if found.out_of_scope is None else float(found.out_of_scope.mean()),
            "unusual": float(found.unusual.mean()),
            "labels": {label: round(float(share), 4) for label, share in zip(labels, mix, strict=True)},
            "accuracy": self.tests.accuracy(rows),
        }

    def summary(self) -> dict[str, Any]:
        """The newest window with its effects: columns, label mix, texts to look at, what to do."""
        base = {
            "model_version": self.version,
            "answered_by": self.half,
            "verdict": self.verdict,
            "rows": self.rows,
            "distinct": self.rows - self.repeated,
            "repeated": self.repeated,
            "waiting": self.waiting,
            "windows": len(self.windows),
            "alarms": sum(window["verdict"] == "alarm" for window in self.windows),
            "reference_papers": len(self.tests.reference.rows),
        }
        if not self.windows:
            return base | {
                "window": None,
                "action": f"{self.waiting} distinct texts: a verdict needs {min(FEWEST, self.size)}",
            }
        rows = to_rows(self.newest)
        found = self.tests.drift(rows)
        columns = self.tests.drift.describe(rows)
        mix = self.tests.drift.label_mix(rows)
        if (
            found.groups["labels"] < WATCH_P
            and (estimated := self.tests.accuracy.label_mix(rows)) is not None
        ):
            mix = [
                entry | {"estimated_true": float(share)} for entry, share in zip(mix, estimated, strict=True)
            ]
        window = self.windows[-1]
        reference = _reference_shares(self.tests)
        described = {
            "window": window,
            "reference_shares": reference,
            "columns": columns,
            "top_columns": [column["column"] for column in columns if column["p"] < WATCH_P][:TOP_COLUMNS],
            "label_mix": mix,
            "requests": self._requests(found, rows),
            "severity": severity(window, reference),
        }
        return base | described | {"action": action(base | described)}

    def _requests(self, found: WindowTest, rows: Rows) -> dict[str, list[str]]:
        """Texts to look at, as request id and index: out of scope, and unusual."""

        def named(mask: np.ndarray | None) -> list[str]:
            places = np.flatnonzero([] if mask is None else mask)[:NAMED_REQUESTS]
            return [f"{self.newest[at].request_id}#{self.newest[at].place}" for at in places]

        return {"out_of_scope": named(found.out_of_scope), "unusual": named(found.unusual)}


def to_rows(window: list[LogRow]) -> Rows:
    """Rows of the log as arrays."""
    scores = array("d")
    features = array("d")
    for row in window:
        scores.extend(row.scores)
        features.extend(row.features)
    return Rows(
        np.frombuffer(scores).reshape(len(window), -1),
        np.frombuffer(features).reshape(len(window), len(FEATURES)),
        np.array([row.in_scope for row in window]),
    )


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


def _reference_shares(tests: ReferenceTests) -> dict[str, float | None]:
    hits, n = tests.drift.scope_counts
    unusual, m = tests.drift.usual_counts
    return {"out_of_scope": hits / n if n else None, "unusual": unusual / m if m else None}


def group_rows(
    rows: Iterable[LogRow],
    tests: Mapping[tuple[bool, str], ReferenceTests],
    versions: set[str],
    size: int = WINDOW,
    starts: Mapping[tuple[str, str], float] | None = None,
) -> tuple[dict[tuple[str, str], Group], Counter[str]]:
    """Sorts rows into groups.

    Args:
        rows: of the log.
        tests: by whether a cascade answered, and which half.
        versions: of the model; of a cascade's version the part before the "+" counts.
        size: of a window.
        starts: of the first window of a group, by version and half; earlier rows are left out, so that a
            moving start of the period does not move every window.

    Returns:
        The groups by version and half; and the rows that are in none, by what they are: the version of
        another model, or `no reference (HALF)`.
    """
    starts = starts or {}
    groups: dict[tuple[str, str], Group] = {}
    others: Counter[str] = Counter()
    for row in rows:
        key = (row.version, row.half)
        group = groups.get(key)
        if group is None:
            first, plus, _ = row.version.partition("+")
            if not {first, row.version} & versions:
                others[row.version] += 1
                continue
            found = tests.get((bool(plus), row.half))
            if found is None:
                of = "cascade, " if plus else ""
                others[f"no reference ({of}{row.half})"] += 1
                continue
            group = groups[key] = Group(row.version, row.half, found, size)
        if row.time >= starts.get(key, float("-inf")):
            group.add(row)
    for group in groups.values():
        group.close()
    return groups, others


def newest_groups(groups: Iterable[Group]) -> list[Group]:
    """Of each half the version that answered last: an old one says nothing of today."""
    newest: dict[str, Group] = {}
    for group in groups:
        if group.half not in newest or group.latest > newest[group.half].latest:
            newest[group.half] = group
    return sorted(newest.values(), key=lambda group: group.half)


def severity(window: dict[str, Any], reference: dict[str, float | None]) -> str:
    """low, moderate or high: by the estimated loss of accuracy and the new texts out of scope, never by p."""
    loss = 0.0
    if window["accuracy"]:
        loss = window["accuracy"]["released"] - window["accuracy"]["accuracy"]
    outside = (window["out_of_scope"] or 0.0) - (reference["out_of_scope"] or 0.0)
    return severity_of(max(loss, outside))


def severity_of(drop: float) -> str:
    """The level of a drop of accuracy: above 0.2 high, above 0.1 moderate, else low."""
    return "high" if drop > 0.2 else "moderate" if drop > 0.1 else "low"


def action(summary: dict[str, Any]) -> str:
    """One sentence: what changed most, and what to look at."""
    window = summary["window"]
    if window["verdict"] == "ok":
        return "nothing to do: the newest texts are like the test split"
    reference, requests = summary["reference_shares"], summary["requests"]
    name = min(window["groups"], key=window["groups"].get)

    def ids(kind: str) -> str:
        return ": look at these request ids: " + ", ".join(requests[kind][:5]) if requests[kind] else ""

    if name == "scope":
        said = (
            f"out-of-scope share {_percent(reference['out_of_scope'])} -> {_percent(window['out_of_scope'])}"
        )
        said += ids("out_of_scope")
    elif name == "unusual":
        said = f"unusual texts {_percent(reference['unusual'])} -> {_percent(window['unusual'])}" + ids(
            "unusual"
        )
    elif name == "labels":
        most = max(summary["label_mix"], key=lambda entry: abs(entry["window"] - entry["reference"]))
        said = f"share of {most['label']} {_percent(most['reference'])} -> {_percent(most['window'])}"
        said += ": is it expected (a new client, a season)? If it stays, retrain on newer papers"
    else:
        column = next(entry for entry in summary["columns"] if entry["group"] == name)
        shown = "score of " + column["column"] if column["column"] in window["labels"] else column["column"]
        means = (column[side]["mean"] for side in ("reference", "window"))
        said = f"{shown}: mean {' -> '.join(f'{mean:.3g}' for mean in means)}"
        said += (
            ": look at what the clients send" if name == "text" else ": label a sample to measure accuracy"
        )
    if window["verdict"] == "watch":
        return said + "; wait for the next window before acting"
    return f"{said}; severity {summary['severity']}"


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.3g}%"


def overall(groups: Iterable[Group]) -> str:
    """The one verdict: the worst of the newest groups."""
    return worst([group.verdict for group in groups])
