"""One run of the drift check: from a model and a log to drift.json, report.html and a history of windows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ONNX_FILES
from arxiv_cls.models.predictor import locate_model
from arxiv_cls.monitoring.accuracy import ASSUMPTIONS
from arxiv_cls.monitoring.drift import ALARM_P, FEWEST, TWICE_P, WATCH_P, WINDOW, worst
from arxiv_cls.monitoring.log_reader import LogReader
from arxiv_cls.monitoring.windows import Group, ReferenceTests, group_rows, newest_groups
from arxiv_cls.record.files import file_sha256, write_atomically, write_json
from arxiv_cls.record.manifest import WEIGHTS, model_kind
from arxiv_cls.scoring.reference import Reference, load_references

SCHEMA_VERSION = 1
HISTORY_KEPT = 2000
HISTORY_SHOWN = 500
DRIFT, REPORT, HISTORY = "drift.json", "report.html", "history.json"
_PERIOD = re.compile(r"(\d+)([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def check_drift(
    model: str | Path,
    log: str,
    *,
    since: str | None = None,
    until: str | None = None,
    window: int = WINDOW,
    versions: Iterable[str] = (),
    out: Path | None = None,
) -> dict[str, Any]:
    """Reads a request log and tests its windows against the model's reference.

    Args:
        model: directory or Hub id.
        log: a directory, one file, or gs://bucket/prefix.
        since: an age such as 7d, 12h or 30m, or a date and time in ISO format; None for the whole log.
        until: likewise.
        window: distinct texts of a window.
        versions: more names that the log may have for this model, such as the tag of its release.
        out: folder for drift.json, report.html and the history; None writes nothing.

    Returns:
        What drift.json holds.

    Raises:
        UserError: no model, reference or log; a reference of other weights or data; a period that is none.
    """
    if window < FEWEST:
        raise UserError(f"--window {window}: fewer than {FEWEST} texts tell nothing")
    directory = locate_model(model)
    references = load_references(directory)
    first, last = parse_time(since, "--since"), parse_time(until, "--until")
    labels = next(iter(references.values())).labels
    reader = LogReader(log, labels, first, last)
    known = model_versions(directory, str(model)) | set(versions)
    history = read_history(out)
    tests = {key: ReferenceTests(reference) for key, reference in references.items()}
    starts = {} if first is None else _starts(history, references, window, first)
    groups, others = group_rows(reader, tests, known, window, starts)
    newest = newest_groups(groups.values())
    record = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": __version__,
        "model": str(model),
        "versions": sorted(known),
        "references": [_described(key, reference) for key, reference in references.items()],
        "log": {
            "target": log,
            "since": since,
            "until": until,
            "rows_read": reader.counts["rows"],
            "distinct": sum(group.rows - group.repeated for group in groups.values()),
            "repeated": sum(group.repeated for group in groups.values()),
            "bad": {name: reader.counts[name] for name in ("torn", "foreign")},
            **{
                name: reader.counts[name]
                for name in ("files", "bytes", "gone", "outside_period", "in_the_future", "out_of_order")
            },
            "other_versions": dict(others.most_common(20)),
        },
        "rule": {
            "window": window,
            "fewest": FEWEST,
            "alarm_p": ALARM_P,
            "twice_p": TWICE_P,
            "watch_p": WATCH_P,
        },
        "verdict": worst([group.verdict for group in newest]),
        "groups": [group.summary() for group in newest],
        "accuracy_assumptions": list(ASSUMPTIONS),
    }
    record["action"] = _action(record)
    kept = merge_history(history, groups.values(), window)
    record["history"] = kept[-HISTORY_SHOWN:]
    if out is not None:
        from arxiv_cls.monitoring.report import render_report

        page = render_report(record)
        # The record is last: where it is new, the report is too.
        write_json({"schema_version": SCHEMA_VERSION, "windows": kept}, out / HISTORY)
        write_atomically(out / REPORT, page)
        write_json(record, out / DRIFT)
    return record


def _described(key: tuple[bool, str], reference: Reference) -> dict[str, Any]:
    names = ("engine", "split", "weights_sha256", "data_sha256")
    return {
        "cascade": key[0],
        "answered_by": key[1],
        "sha256": reference.sha256,
        "papers": len(reference.rows),
        **{name: reference.identity.get(name) for name in names},
    }


def _action(record: dict[str, Any]) -> str:
    """What to do about the worst group; where there is none, why."""
    for group in record["groups"]:
        if group["verdict"] == record["verdict"]:
            return (
                group["action"]
                if len(record["groups"]) == 1
                else f"{group['answered_by']}: {group['action']}"
            )
    others = record["log"]["other_versions"]
    if others:
        shown = ", ".join(f"{name} ({rows:,} rows)" for name, rows in list(others.items())[:5])
        return (
            f"no row of this model ({', '.join(record['versions'])}); the log has {shown}: "
            "if one of them is this model, name it with --version"
        )
    return "the log has no row of this period"


def model_versions(directory: Path, model: str) -> set[str]:
    """What a request log may call this model: its tag or commit, or the first digits of each weights file."""
    files = [directory / name for name in (WEIGHTS[model_kind(directory)], *ONNX_FILES.values())]
    found = {file_sha256(path)[:12] for path in files if path.is_file()}
    if directory.parent.name == "snapshots":
        found.add(directory.name[:12])
    tag = model.partition("@")[2]
    return found | ({tag} if tag and not Path(model).is_dir() else set())


def parse_time(text: str | None, option: str) -> float | None:
    """Seconds since 1970 of an age (`7d`, `12h`, `30m`) or of a date in ISO format (UTC where it says none).

    Raises:
        UserError: it is neither.
    """
    if text is None:
        return None
    if age := _PERIOD.fullmatch(text):
        return (datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})).timestamp()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(
            f"{option} {text}: an age such as 7d, 12h or 30m, or a date such as 2026-03-01"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def read_history(out: Path | None) -> list[dict[str, Any]]:
    """The windows of earlier runs, oldest first.

    Raises:
        UserError: the file is damaged.
    """
    if out is None or not (out / HISTORY).is_file():
        return []
    try:
        content = json.loads((out / HISTORY).read_text(encoding="utf-8"))
        windows = content["windows"]
        for window in windows:
            _key(window), _seconds(window["start"]), _seconds(window["end"]), window["p"], window["verdict"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{out / HISTORY} is no history of windows: {type(error).__name__}: {error}",
            hint="move it away: the next run starts a new one",
        ) from None
    return windows


def _key(window: dict[str, Any]) -> tuple[str, str]:
    return window["model_version"], window["answered_by"]


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _starts(
    history: list[dict[str, Any]],
    references: dict[tuple[bool, str], Reference],
    size: int,
    since: float,
) -> dict[tuple[str, str], float]:
    """Where the first window of the period began in an earlier run with the same references."""
    files = {reference.sha256[:12] for reference in references.values()}
    starts: dict[tuple[str, str], float] = {}
    for window in history:
        same = window.get("reference") in files and window.get("size") == size
        if same and (start := _seconds(window["start"])) >= since:
            starts[_key(window)] = min(start, starts.get(_key(window), start))
    return starts


def merge_history(history: list[dict[str, Any]], groups: Iterable[Group], size: int) -> list[dict[str, Any]]:
    """Earlier windows and those of this run, which take the place of those from their first start on."""
    windows = history
    for group in groups:
        if not group.windows:
            continue
        key, first = (group.version, group.half), _seconds(group.windows[0]["start"])
        windows = [one for one in windows if _key(one) != key or _seconds(one["end"]) < first]
        about = {"reference": group.tests.reference.sha256[:12], "size": size}
        windows = windows + [window | about for window in group.windows]
    return sorted(windows, key=lambda one: (one["end"], *_key(one)))[-HISTORY_KEPT:]
