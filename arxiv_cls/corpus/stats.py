"""What the corpus looks like: `arxiv-cls data stats`. Counts, text lengths, plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from arxiv_cls.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from arxiv_cls.corpus.load import Corpus

PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
# Past this many labels a colour each says nothing.
MOST_COLOURS = 10


@dataclass(frozen=True)
class Statistics:
    """Counts and lengths of a built corpus."""

    config: str
    labels: list[str]
    counts: dict[str, np.ndarray]  # split: (labels,) int, papers
    years: np.ndarray  # (years,) int, every year from the first to the last
    by_year: np.ndarray  # (years, labels) int, papers of all splits
    split_by_year: dict[str, np.ndarray]  # split: (years,) int, papers
    words: dict[str, np.ndarray]  # split: (papers,) int, words of title and abstract
    label_of: dict[str, np.ndarray]  # split: (papers,) int, label of each of them

    def summary(self) -> str:
        """Three aligned tables for a terminal: labels, years, words."""
        return "\n\n".join((self._label_table(), self._year_table(), self._word_table()))

    def _label_table(self) -> str:
        total = np.sum(list(self.counts.values()), axis=0)
        width = max(5, *map(len, self.labels))
        header = f"{'label':<{width}}" + "".join(f"{name:>12}" for name in self.counts)
        lines = [f"{header}{'all':>12}{'share':>9}"]
        for index, label in enumerate(self.labels):
            cells = "".join(f"{counts[index]:>12,}" for counts in self.counts.values())
            share = total[index] / max(total.sum(), 1)
            lines.append(f"{label:<{width}}{cells}{total[index]:>12,}{share:>9.1%}")
        sums = "".join(f"{counts.sum():>12,}" for counts in self.counts.values())
        return "\n".join([*lines, f"{'all':<{width}}{sums}{total.sum():>12,}{1:>9.1%}"])

    def _year_table(self) -> str:
        lines = ["year " + "".join(f"{name:>12}" for name in self.split_by_year) + f"{'all':>12}"]
        for index, year in enumerate(self.years):
            cells = "".join(f"{counts[index]:>12,}" for counts in self.split_by_year.values())
            lines.append(f"{year:<5}{cells}{self.by_year[index].sum():>12,}")
        return "\n".join(lines)

    def _word_table(self) -> str:
        names = ["shortest" if p == 0 else "longest" if p == 100 else f"{p} %" for p in PERCENTILES]
        lines = [f"{'words per paper':<16}{'mean':>9}" + "".join(f"{name:>9}" for name in names)]
        for split, words in self.words.items():
            if len(words):
                cells = "".join(f"{value:>9,.0f}" for value in np.percentile(words, PERCENTILES))
                lines.append(f"{split:<16}{words.mean():>9.1f}{cells}")
        return "\n".join(lines)


def describe(corpus: Corpus) -> Statistics:
    """Counts papers and words of a built corpus.

    Raises:
        UserError: the corpus has no papers.
    """
    number = len(corpus.labels)
    labels, years, words = {}, {}, {}
    for name, split in corpus.splits.items():
        table = split.with_format("arrow")[:]
        labels[name] = np.asarray(table["label"]).astype(np.int64)
        years[name] = np.asarray(pc.year(table["published"])).astype(np.int64)
        words[name] = np.asarray(pc.list_value_length(pc.utf8_split_whitespace(table["text"]))).astype(
            np.int64
        )
    every_year = np.concatenate(list(years.values()))
    if not len(every_year):
        raise UserError(
            f"the label set {corpus.report.config} has no papers in this file", "choose another --config"
        )
    first, last = int(every_year.min()), int(every_year.max())
    by_year = np.zeros((last - first + 1, number), dtype=np.int64)
    np.add.at(by_year, (every_year - first, np.concatenate(list(labels.values()))), 1)
    return Statistics(
        config=corpus.report.config,
        labels=corpus.labels,
        counts={name: np.bincount(values, minlength=number) for name, values in labels.items()},
        years=np.arange(first, last + 1),
        by_year=by_year,
        split_by_year={
            name: np.bincount(values - first, minlength=len(by_year)) for name, values in years.items()
        },
        words=words,
        label_of=labels,
    )


def write_plots(statistics: Statistics, folder: Path) -> list[Path]:
    """Writes `labels.png`, `years.png` and `words.png` and returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    plots = {
        "labels.png": _plot_labels(statistics),
        "years.png": _plot_years(statistics),
        "words.png": _plot_words(statistics),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in plots.items():
            figure.savefig(folder / name, dpi=120)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}", "name another folder: --out DIR"
        ) from None
    return [folder / name for name in plots]


def _figure(width: float, height: float) -> Figure:
    """A figure that needs no display and leaves pyplot's state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plot_labels(statistics: Statistics) -> Figure:
    """Papers per label, a stack of the splits, the most frequent label on top."""
    order = np.argsort(np.sum(list(statistics.counts.values()), axis=0), kind="stable")
    figure = _figure(8, max(2.5, 0.22 * len(order) + 1.2))
    axes = figure.subplots()
    left = np.zeros(len(order))
    for split, counts in statistics.counts.items():
        axes.barh(np.arange(len(order)), counts[order], left=left, label=split)
        left += counts[order]
    axes.set_yticks(np.arange(len(order)), [statistics.labels[index] for index in order])
    axes.set(xlabel="papers", title=f"Papers per label ({statistics.config})", ylim=(-0.6, len(order) - 0.4))
    axes.legend(loc="lower right")
    return figure


def _plot_years(statistics: Statistics) -> Figure:
    """Papers per year, a stack of the labels where there are few."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9, 4)
    axes = figure.subplots()
    if len(statistics.labels) <= MOST_COLOURS:
        bottom = np.zeros(len(statistics.years))
        for index, label in enumerate(statistics.labels):
            axes.bar(statistics.years, statistics.by_year[:, index], bottom=bottom, label=label)
            bottom += statistics.by_year[:, index]
        axes.legend(loc="upper left")
    else:
        axes.bar(statistics.years, statistics.by_year.sum(axis=1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="year of publication", ylabel="papers", title=f"Papers per year ({statistics.config})")
    return figure


def _plot_words(statistics: Statistics) -> Figure:
    """Words of title and abstract, as densities, per label where there are few."""
    figure = _figure(9, 4)
    axes = figure.subplots()
    words = np.concatenate(list(statistics.words.values()))
    labels = np.concatenate(list(statistics.label_of.values()))
    # The longest abstract would squeeze all others to the left.
    bins = np.linspace(0, np.percentile(words, 99.5) + 1, 61).tolist()
    if len(statistics.labels) <= MOST_COLOURS:
        for index, label in enumerate(statistics.labels):
            if (labels == index).any():
                axes.hist(words[labels == index], bins=bins, density=True, histtype="step", label=label)
        axes.legend()
    else:
        axes.hist(words, bins=bins, density=True)
    median = float(np.median(words))
    axes.axvline(median, color="grey", linestyle=":", linewidth=1)
    axes.annotate(f" median {median:.0f}", (median, 0.02), xycoords=("data", "axes fraction"), color="grey")
    axes.set(
        xlabel="words of title and abstract", ylabel="density", title=f"Text length ({statistics.config})"
    )
    return figure
