"""Further plots: the map of the embeddings and the scores of the out-of-scope rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arxiv_cls.scoring.plots import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    new_figure,
    plain_axes,
    save_figure,
)

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
