"""The newest run as gauges for Prometheus, made when it asks: a restart loses nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from prometheus_client.core import GaugeMetricFamily

from arxiv_cls.monitoring.drift import ALARM, OK, TOO_FEW, TWICE_P, WATCH

NAMESPACE = "arxiv_cls_monitor_"
GROUP = ("answered_by", "model_version")
DROPPED = ("torn", "foreign", "outside_period")


def seconds_since(text: str) -> float:
    """The age of a time in ISO format."""
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def gauge(name: str, about: str, samples: Iterable[tuple[dict[str, str], float | None]]) -> GaugeMetricFamily:
    """A gauge with {label: value} and value of each sample; what is not known, None, is left out."""
    pairs = [(labels, value) for labels, value in samples if value is not None]
    family = GaugeMetricFamily(NAMESPACE + name, about, labels=list(pairs[0][0]) if pairs else [])
    for labels, value in pairs:
        family.add_metric(list(labels.values()), value)
    return family


def of_run(record: dict[str, Any]) -> Iterator[GaugeMetricFamily]:
    """The gauges of what drift.json holds."""
    verdict, groups, log = record["verdict"], record["groups"], record["log"]
    states = (({"state": name}, float(name == verdict)) for name in (OK, WATCH, ALARM, TOO_FEW))
    yield gauge("state", "1 for the verdict of the newest run", states)
    yield gauge("report_age_seconds", "Since the newest report", [({}, seconds_since(record["created"]))])
    tested = [(_labels(group), group, group["window"]) for group in groups if group["window"]]
    age = min((seconds_since(window["end"]) for _, _, window in tested), default=None)
    yield gauge("window_age_seconds", "Since the end of the newest window", [({}, age)])

    def of_windows(name: str, about: str, value: Any) -> GaugeMetricFamily:
        return gauge(name, about, ((labels, value(group, window)) for labels, group, window in tested))

    yield of_windows("p", "Overall p-value of the newest window", lambda _, window: window["p"])
    tests = (
        (labels | {"test": test}, p) for labels, _, window in tested for test, p in window["groups"].items()
    )
    yield gauge("group_p", "p-value of each group of tests", tests)
    running = "Newest windows running with p below the limit of two windows"
    yield of_windows("consecutive_windows", running, lambda group, _: _running(record["history"], group))
    for name, about, key in (
        ("windows", "Windows in the log that was read", "windows"),
        ("distinct_rows", "Rows of the log without repetitions", "distinct"),
    ):
        yield gauge(name, about, ((_labels(group), group[key]) for group in groups))
    dropped = {"repeated": log["repeated"], "other_version": sum(log["other_versions"].values())}
    dropped |= {name: (log | log["bad"])[name] for name in DROPPED}
    reasons = (({"reason": reason}, float(rows)) for reason, rows in dropped.items())
    yield gauge("dropped_rows", "Rows of the log that were not compared", reasons)
    about = "Texts out of scope, "
    yield of_windows("out_of_scope_share", about + "newest window", lambda _, window: window["out_of_scope"])
    yield of_windows(
        "out_of_scope_share_released",
        about + "test split",
        lambda group, _: group["reference_shares"]["out_of_scope"],
    )
    for name, key, about in (
        ("estimated_accuracy", "accuracy", "estimated without labels"),
        ("estimated_accuracy_low", "low", "lower end of the estimate"),
        ("estimated_accuracy_high", "high", "upper end of the estimate"),
        ("released_accuracy", "released", "of the release on its test split"),
    ):
        yield of_windows(
            name, f"Accuracy, {about}", lambda _, window, key=key: (window["accuracy"] or {}).get(key)
        )


def of_feedback(record: dict[str, Any]) -> Iterator[GaugeMetricFamily]:
    """The gauges of what feedback.json holds."""
    labels, (low, high) = {"model_version": record["version"]}, record["accuracy_interval"]
    yield gauge("measured_accuracy", "Accuracy, measured with labels", [(labels, record["accuracy"])])
    yield gauge("measured_accuracy_low", "Lower end of its interval", [(labels, low)])
    yield gauge("measured_accuracy_high", "Upper end of its interval", [(labels, high)])
    yield gauge("measured_labels", "Texts with a label", [(labels, record["n"])])


def _labels(group: dict[str, Any]) -> dict[str, str]:
    return {name: group[name] for name in GROUP}


def _running(history: list[dict[str, Any]], group: dict[str, Any]) -> int:
    ours = [window for window in history if _labels(window) == _labels(group)]
    return len(list(takewhile(lambda window: window["p"] < TWICE_P, reversed(ours))))
