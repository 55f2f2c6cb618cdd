"""One run of the drift check: from a model and a log to drift.json, report.html and a history of windows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arxiv_cls import __version__
from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import ONNX_FILES
from arxiv_cls.models.predictor import locate_model
from arxiv_cls.monitoring.accuracy import ASSUMPTIONS, AccuracyEstimate
from arxiv_cls.monitoring.drift import ALARM_P, FEWEST, TWICE_P, WATCH_P, WINDOW, worst
from arxiv_cls.monitoring.log_reader import LogReader
from arxiv_cls.monitoring.settings import duration
from arxiv_cls.monitoring.windows import CASCADE, NO_REFERENCE, Group, drift_tests, group_rows
from arxiv_cls.record.files import file_sha256, write_atomically, write_json
from arxiv_cls.record.manifest import WEIGHTS, model_kind
from arxiv_cls.scoring.reference import Reference, load_references

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
HISTORY_KEPT = 2000
HISTORY_SHOWN = 500
VERSIONS_NAMED = 20
DRIFT, REPORT, HISTORY = "drift.json", "report.html", "history.json"
References = dict[tuple[bool, str], Reference]
Windows = list[dict[str, Any]]


def open_log(
    model: str | Path, log: str, versions: Iterable[str], since: str | None = None, until: str | None = None
) -> tuple[References, set[str], LogReader]:
    """A model's references, what the log calls the model, and the log; arguments as of `check_drift`.

    A log names a model by its tag or commit, or by the first digits of a weights file.
    """
    directory = locate_model(model)
    references = load_references(directory)
    first, last = parse_time(since, "--since"), parse_time(until, "--until")
    if first is not None and last is not None and first > last:
        raise UserError(f"--since {since} is after --until {until}")
    reader = LogReader(log, next(iter(references.values())).labels, first, last)
    files = [directory / name for name in (WEIGHTS[model_kind(directory)], *ONNX_FILES.values())]
    names = {file_sha256(path)[:12] for path in files if path.is_file()} | set(versions)
    if directory.parent.name == "snapshots":
        names.add(directory.name[:12])
    if (tag := str(model).partition("@")[2]) and not Path(model).is_dir():
        names.add(tag)
    return references, names, reader


def check_drift(
    model: str | Path,
    log: str,
    *,
    since: str | None = None,
    until: str | None = None,
    window: int = WINDOW,
    versions: Iterable[str] = (),
    out: Path | None = None,
    evidently: bool = False,
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
        evidently: also write Evidently's report of the newest window of each half, evidently-HALF.html.

    Returns:
        What drift.json holds.

    Raises:
        UserError: no model, reference or log; a reference of other weights or data; a period that is none.
    """
    if window < FEWEST:
        raise UserError(f"--window {window}: fewer than {FEWEST} texts tell nothing")
    references, names, reader = open_log(model, log, versions, since, until)
    history = _read_history(out)
    tests = {key: (one, AccuracyEstimate(one.reference)) for key, one in drift_tests(references).items()}
    files = {reference.sha256[:12] for reference in references.values()}
    earlier = [one for one in history if one.get("reference") in files and one.get("size") == window]
    starts = {} if reader.since is None else _starts(earlier, reader.since)
    groups, others = group_rows(reader, tests, names, window, starts, earlier)
    # Of each half, and of both, the version that answered last: an old one says nothing of today.
    by_age = sorted(groups.values(), key=lambda group: group.latest)
    of_half = {group.half: group for group in by_age}
    # The half that changed says more of the cause than both together.
    newest = sorted(of_half.values(), key=lambda group: (group.half == CASCADE, group.half))
    counted = ("files", "bytes", "gone", "outside_period", "in_the_future", "out_of_order")
    of_reference = ("engine", "split", "weights_sha256", "data_sha256")
    record = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": __version__,
        "model": str(model),
        "versions": sorted(names),
        "references": [
            {"cascade": cascade, "answered_by": half, "sha256": one.sha256, "papers": len(one.rows)}
            | {name: one.identity.get(name) for name in of_reference}
            for (cascade, half), one in references.items()
        ],
        "log": {
            "target": log,
            "since": since,
            "until": until,
            "rows_read": reader.counts["rows"],
            "distinct": sum(group.rows - group.repeated for group in by_age if group.half != CASCADE),
            "repeated": sum(group.repeated for group in by_age if group.half != CASCADE),
            "bad": {name: reader.counts[name] for name in ("torn", "foreign")},
            **{name: reader.counts[name] for name in counted},
            "other_versions": dict(others.most_common(VERSIONS_NAMED)),
        },
        "rule": {"window": window, "fewest": FEWEST}
        | {"alarm_p": ALARM_P, "twice_p": TWICE_P, "watch_p": WATCH_P},
        "verdict": worst([group.verdict for group in newest]),
        "groups": [group.summary() for group in newest],
        "accuracy_assumptions": list(ASSUMPTIONS),
    }
    record["action"] = _action(record)
    kept = _merged(history, by_age, window)
    record["history"] = kept[-HISTORY_SHOWN:]
    if out is not None:
        from arxiv_cls.monitoring.report import render_report, write_evidently

        page = render_report(record)
        # The record is last: where it is new, the report is too.
        write_json({"schema_version": SCHEMA_VERSION, "windows": kept}, out / HISTORY)
        write_atomically(out / REPORT, page)
        write_json(record, out / DRIFT)
        for group in newest if evidently else ():
            path = out / f"evidently-{group.half}.html"
            try:
                if group.newest_rows is not None:
                    write_evidently(path, group.drift.reference, group.newest_rows)
            except ImportError:
                raise
            except Exception as error:
                # Whatever theirs raises, ours stands.
                logger.warning("%s is not written: Evidently: %s: %s", path, type(error).__name__, error)
    return record


def _action(record: dict[str, Any]) -> str:
    """What to do about the worst group; where there is none, why."""
    for group in record["groups"]:
        if group["verdict"] == record["verdict"]:
            which = f"{group['answered_by']}: " if len(record["groups"]) > 1 else ""
            return which + group["action"]
    log = record["log"]
    if others := log["other_versions"]:
        shown = ", ".join(f"{name} ({rows:,} rows)" for name, rows in list(others.items())[:5])
        if missing := next((name for name in others if name.startswith(NO_REFERENCE)), None):
            words = f"{record['model']} --cascade BASELINE" if CASCADE in missing else record["model"]
            return f"the log has {shown}: `arxiv-cls monitor reference {words}` makes it"
        return (
            f"no row of this model ({', '.join(record['versions'])}); the log has {shown}: "
            "if one of them is this model, name it with --version"
        )
    if any(log["bad"].values()) and not log["outside_period"]:
        bad = log["bad"]
        return f"the log has only lines that cannot be read: {bad['torn']:,} torn, {bad['foreign']:,} foreign"
    return "the log has no row of this period"


def parse_time(text: str | None, option: str) -> float | None:
    """Seconds since 1970 of an age or of a date in ISO format (UTC where it says none)."""
    if text is None:
        return None
    if (age := duration(text)) is not None:
        return (datetime.now(UTC) - age).timestamp()
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        wanted = "an age such as 7d, 12h or 30m, or a date such as 2026-03-01"
        raise UserError(f"{option} {text}: {wanted}") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _read_history(out: Path | None) -> Windows:
    """The windows of earlier runs, oldest first."""
    if out is None or not (out / HISTORY).is_file():
        return []
    try:
        windows = json.loads((out / HISTORY).read_text(encoding="utf-8"))["windows"]
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


def _starts(earlier: Windows, since: float) -> dict[tuple[str, str], float]:
    """Where the first window of the period began, if the rows before it were in an earlier window."""
    starts: dict[tuple[str, str], float] = {}
    before = set()
    for window in earlier:
        if (start := _seconds(window["start"])) < since:
            before.add(_key(window))
        else:
            starts[_key(window)] = min(start, starts.get(_key(window), start))
    return {key: start for key, start in starts.items() if key in before}


def _merged(history: Windows, groups: Iterable[Group], size: int) -> Windows:
    """Earlier windows and those of this run, which take the place of those from their first start on."""
    windows = history
    for group in groups:
        if group.windows:
            key, first = (group.version, group.half), _seconds(group.windows[0]["start"])
            about = {"reference": group.drift.reference.sha256[:12], "size": size}
            windows = [one for one in windows if _key(one) != key or _seconds(one["end"]) < first]
            windows += [window | about for window in group.windows]
    return sorted(windows, key=lambda one: (one["end"], *_key(one)))[-HISTORY_KEPT:]


def drift_table(record: dict[str, Any]) -> str:
    """Verdict, counts and newest windows, for the terminal."""
    log = record["log"]
    lines = [
        f"{record['verdict']}: {record['action']}",
        f"  log        {log['rows_read']:,} rows in {log['files']:,} files, {log['distinct']:,} distinct, "
        f"{log['repeated']:,} repeated, {sum(log['bad'].values()):,} bad",
    ]
    lines += [
        f"  not compared  {name}: {rows:,} rows" for name, rows in list(log["other_versions"].items())[:5]
    ]
    for group in record["groups"]:
        if not (window := group["window"]):
            continue
        tests = ", ".join(f"{name} {p:.2g}" for name, p in window["groups"].items())
        lines += [
            f"  {group['answered_by']}, version {group['model_version']}: {group['verdict']}, "
            f"p {window['p']:.2g} ({tests})",
            f"    newest of {group['windows']:,} windows: {window['distinct']} texts, {window['start']} to "
            f"{window['end']}; {group['alarms']} windows with an alarm",
        ]
        if estimate := window["accuracy"]:
            lines.append(
                f"    accuracy, estimated without labels: {estimate['accuracy']:.3f} "
                f"({estimate['low']:.3f} to {estimate['high']:.3f}); the release: {estimate['released']:.3f}"
            )
        if group["verdict"] != "ok" and (most := group["columns"][: len(group["top_columns"])]):
            means = (
                f"{one['column']} {one['reference']['mean']:.3g} -> {one['window']['mean']:.3g}"
                for one in most
            )
            lines.append("    changed most (means): " + ", ".join(means))
    return "\n".join(lines)
