"""The HTML report of a drift check, made of what drift.json holds and of nothing else."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from arxiv_cls.scoring.plots import BLUE, ORANGE, VERMILION

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
# More columns than these are in drift.json only.
COLUMNS_SHOWN = 16
LABELS_SHOWN = 30
WINDOWS_SHOWN = 200
SMALLEST_P = 1e-12


def render_report(record: dict[str, Any]) -> str:
    """One self-contained page from the content of drift.json."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "number": _number, "p_value": _p_value, "minute": _minute}
    plots = [
        {
            "labels": _labels(group["label_mix"]),
            "columns": _histograms(group["columns"][:COLUMNS_SHOWN]),
            "history": _history(
                [window for window in record["history"] if window["answered_by"] == group["answered_by"]][
                    -WINDOWS_SHOWN:
                ],
                record["rule"],
            ),
        }
        if group["window"]
        else None
        for group in record["groups"]
    ]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(record=record, plots=plots, columns_shown=COLUMNS_SHOWN)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _p_value(p: float) -> str:
    return f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def _image(figure: Figure) -> str:
    """A figure as the address of an image inside the page; its letters stay letters, so it is small."""
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _labels(mix: list[dict[str, Any]]) -> str:
    shown = sorted(mix, key=lambda entry: -max(entry["reference"], entry["window"]))[:LABELS_SHOWN]
    figure = Figure(figsize=(5, 1 + 0.42 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    axes.barh(
        [at - 0.2 for at in places], [e["reference"] for e in shown], 0.38, color=BLUE, label="test split"
    )
    axes.barh([at + 0.2 for at in places], [e["window"] for e in shown], 0.38, color=ORANGE, label="window")
    axes.set_yticks(list(places), [entry["label"] for entry in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of predictions")
    axes.legend(frameon=False)
    _plain(axes)
    return _image(figure)


def _histograms(columns: list[dict[str, Any]]) -> list[str]:
    """One small figure per column, so that a phone shows them one below the other."""
    images = []
    for column in columns:
        figure = Figure(figsize=(3.4, 2.1), layout="constrained")
        axes = figure.subplots()
        edges = column["edges"]
        axes.stairs(column["reference_shares"], edges, color=BLUE, fill=True, alpha=0.35, label="test split")
        axes.stairs(column["window_shares"], edges, color=ORANGE, linewidth=1.6, label="window")
        axes.set_title(column["column"], fontsize=10)
        axes.tick_params(labelsize=8)
        axes.set_yticks([])
        _plain(axes)
        images.append(_image(figure))
    return images


def _history(windows: list[dict[str, Any]], rule: dict[str, Any]) -> str:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    numbers = list(range(1 - len(windows), 1))
    upper.semilogy(
        numbers,
        [max(window["p"], SMALLEST_P) for window in windows],
        "o-",
        color=BLUE,
        markersize=3,
        linewidth=1,
    )
    for limit, colour in ((rule["watch_p"], ORANGE), (rule["alarm_p"], VERMILION)):
        upper.axhline(limit, color=colour, linewidth=1, linestyle="--")
    upper.set_ylabel("p")
    estimates = [
        (at, window["accuracy"]) for at, window in zip(numbers, windows, strict=True) if window["accuracy"]
    ]
    if estimates:
        at = [place for place, _ in estimates]
        lower.fill_between(
            at, [one["low"] for _, one in estimates], [one["high"] for _, one in estimates],
            color=BLUE, alpha=0.2, linewidth=0,
        )  # fmt: skip
        lower.plot(at, [one["accuracy"] for _, one in estimates], "o-", color=BLUE, markersize=3, linewidth=1)
        lower.axhline(estimates[-1][1]["released"], color="0.4", linewidth=1, linestyle="--")
    lower.set_ylabel("estimated accuracy")
    lower.set_xlabel("windows, the newest is 0")
    for axes in (upper, lower):
        _plain(axes)
    return _image(figure)
