"""The HTML report of a drift check, made of what drift.json holds and of nothing else; and Evidently's."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arxiv_cls.monitoring.drift import TOP_SCORE
from arxiv_cls.record.files import staged
from arxiv_cls.scoring.plots import BLUE, ORANGE, VERMILION
from arxiv_cls.scoring.reference import FEATURES, Reference, Rows

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
# More columns than these are in drift.json only.
COLUMNS_SHOWN = 16
LABELS_SHOWN = 30
WINDOWS_SHOWN = 200
SMALLEST_P = 1e-12

FILTERS = {
    "percent": lambda share: "-" if share is None else f"{100 * share:.1f}%",
    "number": lambda value: "-" if value is None else f"{value:,.3g}",
    "p_value": lambda p: f"{p:.1e}" if p < 0.001 else f"{p:.3f}",
    "minute": lambda time: time[:16].replace("T", " "),
}


def _title(column: dict[str, Any]) -> str:
    """A column's name, with which scores of labels are told from features."""
    is_label = column["group"] == "scores" and column["column"] != TOP_SCORE
    return f"score of {column['column']}" if is_label else column["column"].replace("_", " ")


def render_report(record: dict[str, Any]) -> str:
    """One self-contained page from the content of drift.json."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS | {"title": _title}
    plots = []
    for group in record["groups"]:
        windows = [one for one in record["history"] if one["answered_by"] == group["answered_by"]]
        drawn = group["window"] and {
            "labels": _labels(group["label_mix"]),
            "columns": [_histogram(column) for column in group["columns"][:COLUMNS_SHOWN]],
            "history": _history(windows[-WINDOWS_SHOWN:], record["rule"]),
        }
        plots.append(drawn)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(record=record, plots=plots, columns_shown=COLUMNS_SHOWN)


def _image(figure: Figure) -> str:
    """A figure as the address of an image inside the page; its letters stay letters, so it is small."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue().encode()).decode()


def _labels(mix: list[dict[str, Any]]) -> str:
    shown = sorted(mix, key=lambda entry: -max(entry["reference"], entry["window"]))[:LABELS_SHOWN]
    figure = Figure(figsize=(4.6, 1.2 + 0.45 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for side, shift, colour, label in (
        ("reference", -0.2, BLUE, "test split"),
        ("window", 0.2, ORANGE, "window"),
    ):
        places = [at + shift for at in range(len(shown))]
        axes.barh(places, [entry[side] for entry in shown], 0.38, color=colour, label=label)
    axes.set_yticks(range(len(shown)), [entry["label"] for entry in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of predictions")
    axes.legend(frameon=False)
    return _image(figure)


def _histogram(column: dict[str, Any]) -> str:
    """A small figure per column, so that a phone shows them one below the other."""
    figure = Figure(figsize=(3.4, 2.1), layout="constrained")
    axes, edges = figure.subplots(), column["edges"]
    axes.stairs(column["reference_shares"], edges, color=BLUE, fill=True, alpha=0.35)
    axes.stairs(column["window_shares"], edges, color=ORANGE, linewidth=1.6)
    axes.set_title(_title(column), fontsize=10)
    axes.tick_params(labelsize=8)
    axes.set_yticks([])
    return _image(figure)


def _history(windows: list[dict[str, Any]], rule: dict[str, Any]) -> str:
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    line = {"color": BLUE, "marker": "o", "markersize": 3, "linewidth": 1}
    limit = {"linewidth": 1, "linestyle": "--"}
    numbers = range(1 - len(windows), 1)
    upper.semilogy(numbers, [max(window["p"], SMALLEST_P) for window in windows], **line)
    for verdict, colour in (("watch", ORANGE), ("alarm", VERMILION)):
        upper.axhline(rule[f"{verdict}_p"], color=colour, label=verdict, **limit)
    upper.set_ylabel("p")
    upper.legend(frameon=False, fontsize=8, loc="lower left")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    estimates = [(at, one["accuracy"]) for at, one in zip(numbers, windows, strict=True) if one["accuracy"]]
    if estimates:
        at = [place for place, _ in estimates]
        low, middle, high = ([one[name] for _, one in estimates] for name in ("low", "accuracy", "high"))
        lower.fill_between(at, low, high, color=BLUE, alpha=0.2, linewidth=0)
        lower.plot(at, middle, **line)
        lower.axhline(estimates[-1][1]["released"], color="0.4", **limit)
    lower.set(ylabel="estimated accuracy", xlabel="windows, the newest is 0")
    return _image(figure)


def write_evidently(path: Path, reference: Reference, rows: Rows) -> bool:
    """Writes Evidently's HTML of a window, for people who know it; False where it has nothing to compare.

    What is empty on a side, or the same on both, it cannot test: such columns are left out.
    """
    import evidently.presets
    import pandas as pd

    if not len(rows):
        return False
    before, now = _columns(reference, reference.rows), _columns(reference, rows)
    kept = [name for name in before if _can_be_compared(before[name], now[name])]
    labels = np.asarray(reference.labels, dtype=object)
    data = []
    for columns, side in ((now, rows), (before, reference.rows)):
        frame = pd.DataFrame(
            {name: columns[name] for name in kept} | {"label": labels[side.scores.argmax(1)]}
        )
        definition = evidently.DataDefinition(numerical_columns=kept, categorical_columns=["label"])
        data.append(evidently.Dataset.from_pandas(frame, data_definition=definition))
    snapshot = evidently.Report([evidently.presets.DataDriftPreset()], include_tests=True).run(*data)
    with staged(path) as partial:
        snapshot.save_html(str(partial))
    return True


def _columns(reference: Reference, rows: Rows) -> dict[str, np.ndarray]:
    scores = {f"score {name}": rows.scores[:, at] for at, name in enumerate(reference.labels)}
    return scores | {name: rows.features[:, at] for at, name in enumerate(FEATURES)}


def _can_be_compared(before: np.ndarray, now: np.ndarray) -> bool:
    known = [values[~np.isnan(values)] for values in (before, now)]
    return all(map(len, known)) and len(np.unique(np.concatenate(known))) > 1
