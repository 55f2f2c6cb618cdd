"""The pictures of an evaluation and of a training run, as PNG files.

Figures are made without pyplot: no display, no global state, safe in threads. Colours are those of Okabe
and Ito (2008), which people with any of the common colour deficiencies tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from arxiv_cls.scoring.calibration import expected_calibration_error, reliability_bins

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
_DOTS_PER_INCH = 130
# More classes than this and the numbers in the cells are too small to read.
_CLASSES_WITH_NUMBERS = 25


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a PNG; folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DOTS_PER_INCH)


def plain_axes(axes: Axes) -> None:
    """Takes away the box, adds a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def plot_confusion_matrix(matrix: np.ndarray, label_names: Sequence[str], path: str | Path) -> None:
    """Rows are true categories; the shade is the share of the row, the numbers are papers.

    Args:
        matrix: (k, k) counts, as `confusion_matrix` returns them.
        label_names: the k names.
        path: PNG to write.
    """
    matrix = np.asarray(matrix)
    classes = len(label_names)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(16.0, max(5.0, 0.85 * classes if classes <= _CLASSES_WITH_NUMBERS else 0.16 * classes))
    figure = new_figure(1.1 * side + 1.0, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    small = min(9.0, 45 * side / classes)  # points; a row is 72 * side / classes high, less the margins
    axes.set_xticks(range(classes), label_names, rotation=45 if classes <= 6 else 90, fontsize=small)
    axes.set_yticks(range(classes), label_names, fontsize=small)
    axes.set_xlabel("predicted category")
    axes.set_ylabel("true category")
    axes.set_title("Confusion matrix: papers, shaded by share of the true category", fontsize=10)
    if classes <= _CLASSES_WITH_NUMBERS:
        for row, column in np.ndindex(*matrix.shape):
            share = shares[row, column]
            text = f"{matrix[row, column]:,}"
            if classes <= 10 and matrix[row].sum():
                text += f"\n{share:.0%}"
            colour = "white" if share > 0.55 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axes, label="share of the true category", shrink=0.7, fraction=0.03)
    save_figure(figure, path)


def plot_reliability(probabilities: np.ndarray, labels: np.ndarray, path: str | Path) -> None:
    """Accuracy against top score in bins of equal mass, with 95% intervals; below, the scores given.

    Args:
        probabilities: (n, k).
        labels: (n,) true class numbers.
        path: PNG to write.
    """
    found = reliability_bins(probabilities, labels)
    low, high = wilson_interval(found.accuracy * found.count, found.count)
    figure = new_figure(5.6, 6.2)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.errorbar(
        found.confidence,
        found.accuracy,
        yerr=[found.accuracy - low, high - found.accuracy],
        color=BLUE,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2,
        label=f"{len(found.count)} bins of equal mass, 95% intervals",
    )
    error = expected_calibration_error(probabilities, labels)
    upper.set_title(
        f"Reliability: expected calibration error {error:.3f}, {len(labels):,} papers", fontsize=10
    )
    upper.set_ylabel("accuracy")
    upper.set_ylim(0, 1)
    upper.legend(loc="upper left", fontsize=8, frameon=False)
    lower.hist(np.max(probabilities, axis=1), bins=np.linspace(0, 1, 41), color=SKY, edgecolor="white")
    lower.set_ylabel("papers")
    lower.set_xlabel("score of the predicted category")
    lower.set_xlim(0, 1)
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in (upper, lower):
        plain_axes(axes)
    save_figure(figure, path)


def wilson_interval(
    hits: np.ndarray, count: np.ndarray, z: float = 1.959964
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a share (Wilson, 1927), sound for small counts and shares near 0 or 1.

    Args:
        hits: (...) successes.
        count: (...) trials, above 0.
        z: standard normal quantile; the default gives 95%.

    Returns:
        Lower and upper ends.
    """
    hits, count = np.asarray(hits, dtype=np.float64), np.asarray(count, dtype=np.float64)
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.minimum(middle - half, share).clip(0, 1), np.maximum(middle + half, share).clip(0, 1)


def plot_accuracy_by_year(slices: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Accuracy of each year's papers with intervals, and how many papers there were.

    Args:
        slices: {name: {"n", "accuracy", "accuracy_interval": [low, high]}} in ascending order, as
            `metrics.json` holds them under `slices.year`.
        path: PNG to write.
    """
    figure = new_figure(max(5.6, 0.42 * len(slices) + 2), 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    place = np.arange(len(slices))
    accuracy = np.array([part["accuracy"] for part in slices.values()])
    ends = np.array([part["accuracy_interval"] for part in slices.values()]).reshape(-1, 2)
    counts = np.array([part["n"] for part in slices.values()])
    upper.errorbar(
        place,
        accuracy,
        yerr=[accuracy - ends[:, 0], ends[:, 1] - accuracy],
        color=BLUE,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.9,
        capsize=2,
    )
    overall = (accuracy @ counts) / counts.sum()
    upper.axhline(
        overall, color=VERMILION, linestyle="--", linewidth=1, label=f"all these years: {overall:.3f}"
    )
    upper.legend(fontsize=8, frameon=False, loc="best")
    upper.set_ylabel("accuracy")
    upper.set_title("Accuracy by year of publication, 95% intervals", fontsize=10)
    lower.bar(place, counts, color=SKY)
    lower.set_ylabel("papers")
    lower.set_xticks(place, list(slices), rotation=45 if len(slices) > 8 else 0, fontsize=8)
    lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes in (upper, lower):
        plain_axes(axes)
    save_figure(figure, path)


def plot_training_curve(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Losses on the left, accuracy and macro-F1 of the validation split on the right, over epochs.

    Args:
        history: `Trainer.state.log_history`, or entries in the same form: each with `epoch` and any of
            `loss`, `eval_loss` (nats; or `eval_log_loss` where there is no other), `eval_accuracy`,
            `eval_macro_f1`.
        path: PNG to write.
    """
    eval_loss = "eval_loss" if any("eval_loss" in entry for entry in history) else "eval_log_loss"
    panels = (
        ("loss", (("loss", "training", BLUE), (eval_loss, "validation", VERMILION))),
        ("validation split", (("eval_accuracy", "accuracy", GREEN), ("eval_macro_f1", "macro-F1", PURPLE))),
    )
    figure = new_figure(9.6, 3.8)
    for axes, (title, curves) in zip(figure.subplots(1, 2), panels, strict=True):
        plain_axes(axes)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        for key, name, colour in curves:
            points = [(entry["epoch"], entry[key]) for entry in history if key in entry and "epoch" in entry]
            if not points:
                continue
            marker = "o" if len(points) <= 40 else None
            axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker, markersize=3.5)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
        else:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color="0.5")
            axes.set(xticks=[], yticks=[])
        if len({x for line in axes.lines for x in line.get_xdata()}) == 1:
            # One evaluation only: a scale of thousandths of an epoch around it would mislead.
            axes.set_xticks(list(axes.lines[0].get_xdata())[:1])
    save_figure(figure, path)


# Eight colours that everybody tells apart, then the same with another shape: 24 groups in all.
_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK)
_SHAPES = "o^s"


def plot_out_of_scope(inside: np.ndarray, outside: np.ndarray, threshold: float, path: str | Path) -> None:
    """How the out-of-scope rule scores test papers inside and outside the label set.

    Args:
        inside: (n,) scores between 0 and 1.
        outside: (m,) scores.
        threshold: score from which a paper counts as inside.
        path: PNG to write.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    bins = np.linspace(0, 1, 51).tolist()
    for scores, name, colour in ((outside, "outside", ORANGE), (inside, "inside", BLUE)):
        shares = np.full(len(scores), 1 / len(scores))
        label = f"{name} the label set, {len(scores):,} papers"
        axes.hist(scores, bins=bins, weights=shares, color=colour, alpha=0.65, label=label)
    axes.axvline(threshold, color=BLACK, linestyle="--", linewidth=1, label=f"threshold {threshold:.3f}")
    axes.set_xlim(0, 1)
    axes.set_xlabel("score of the out-of-scope rule (1 is inside)")
    axes.set_ylabel("share of the papers")
    axes.set_title("Test papers inside and outside the label set", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper center")
    plain_axes(axes)
    save_figure(figure, path)


def plot_map(
    points: np.ndarray, groups: np.ndarray, names: Sequence[str], title: str, path: str | Path
) -> None:
    """One dot a paper, coloured by group; the legend stands beside the map with the number of papers.

    Args:
        points: (n, 2) coordinates.
        groups: (n,) group of each paper; groups without papers are left out of the legend.
        names: names of the groups, at most 24.
        title: what is shown.
        path: PNG to write.
    """
    figure = new_figure(9.2, 5.8)
    axes = figure.subplots()
    # Drawn in one shuffled order, no group hides another.
    order = np.random.default_rng(0).permutation(len(points))
    size = 14 if len(points) <= 2500 else 6
    for block in np.array_split(order, 12):
        for group in np.unique(groups[block]):
            rows = block[groups[block] == group]
            axes.scatter(points[rows, 0], points[rows, 1], s=size, linewidths=0, alpha=0.8, **_look(group))
    for group, name in enumerate(names):
        count = int((groups == group).sum())
        if count:
            axes.scatter([], [], s=40, label=f"{name} ({count:,})", **_look(group))
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    save_figure(figure, path)


def _look(group: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[group % len(_COLOURS)],
        "marker": _SHAPES[group // len(_COLOURS) % len(_SHAPES)],
    }
