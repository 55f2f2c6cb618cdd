"""What the corpus looks like: `arxiv-cls data stats`. Counts, text lengths, plots."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from arxiv_cls.errors import UserError
from arxiv_cls.recipe import DataConfig, load_group
from arxiv_cls.record.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from arxiv_cls.corpus.builder import BuildReport, Corpus
    from arxiv_cls.corpus.duplicates import NearDuplicates


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


# A mix of labels has moved when the distance is this many times what chance gives, and worth a word at all.
NOTABLE_RATIO, NOTABLE_DISTANCE = 3.0, 0.01


@dataclass(frozen=True)
class Paper:
    """What is compared of a paper."""

    split: str
    label: str
    text: bytes  # digest of title and abstract


@dataclass
class DataDiff:
    """Two builds of one label set.

    Attributes:
        old, new: the reports of the builds.
        added, gone: base ids by split, of the papers that only one of them has.
        moved: base ids that are in another split now.
        relabelled, rewritten: base ids of both whose label, whose text is another.
        added_labels: label to number of papers that only the new one has.
    """

    old: BuildReport
    new: BuildReport
    added: dict[str, list[str]] = field(default_factory=dict)
    gone: dict[str, list[str]] = field(default_factory=dict)
    moved: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    added_labels: dict[str, int] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """What a person should look at before this is merged; none when there is nothing."""
        found = []
        before, after = _labels(self.old), _labels(self.new)
        if before.keys() != after.keys():
            lost, won = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
            change = [f"without {', '.join(lost)}"] * bool(lost) + [f"with {', '.join(won)}"] * bool(won)
            found.append(f"The label set changes: {' and '.join(change)}. Released models do not know it.")
        if self.gone.get("test"):
            left = len(self.gone["test"])
            found.append(f"Papers that leave the test split: {left:,}; older figures do not compare.")
        if self.moved:
            found.append(f"Papers that change their split: {len(self.moved):,}.")
        rates = [report.rejected / max(report.rows_read, 1) for report in (self.old, self.new)]
        if rates[1] > rates[0]:
            found.append(f"More rows are rejected: {rates[1]:.2%} after {rates[0]:.2%}.")
        distance, chance = self.label_shift()
        if distance > max(NOTABLE_DISTANCE, NOTABLE_RATIO * chance):
            found.append(
                f"The new papers have another mix of labels: distance {distance:.3f}, by chance {chance:.3f}."
            )
        return found

    def label_shift(self) -> tuple[float, float]:
        """How far the labels of the added papers are from those of the old ones.

        Returns:
            The total variation distance (0: the same mix, 1: no label in common), and the one to expect of
            as many papers drawn from the old mix: half the sum of the mean absolute errors
            sqrt(2 p (1 - p) / (pi n)) of the shares, by the normal approximation. (0, 0) without new papers.
        """
        before = _labels(self.old)
        names = sorted(before.keys() | self.added_labels.keys())
        old = np.array([before.get(name, 0) for name in names], dtype=float)
        new = np.array([self.added_labels.get(name, 0) for name in names], dtype=float)
        if not new.sum() or not old.sum():
            return 0.0, 0.0
        share = old / old.sum()
        errors = np.sqrt(2 * share * (1 - share) / (np.pi * new.sum()))
        return float(np.abs(new / new.sum() - share).sum() / 2), float(errors.sum() / 2)

    def markdown(self) -> str:
        """The report."""
        warnings = self.warnings()
        lines = [f"## Data report, label set {self.new.config}", ""]
        lines += [f"- **{warning}**" for warning in warnings] or ["Nothing that needs a closer look."]
        lines += ["", *self._counts(), "", *self._papers(), "", *self._label_table()]
        return "\n".join(lines) + "\n"

    def _counts(self) -> list[str]:
        rows = [
            ("rows read", self.old.rows_read, self.new.rows_read),
            ("rejected", self.old.rejected, self.new.rejected),
            ("merged into a newer version", self.old.merged, self.new.merged),
            ("outside the label set", self.old.outside_config, self.new.outside_config),
            ("duplicates dropped", len(self.old.duplicates), len(self.new.duplicates)),
        ]
        sizes = self.old.split_sizes(), self.new.split_sizes()
        rows += [(f"papers: {split}", sizes[0].get(split, 0), size) for split, size in sizes[1].items()]
        table = ["| | before | after | change |", "| --- | ---: | ---: | ---: |"]
        return table + [f"| {name} | {a:,} | {b:,} | {b - a:+,} |" for name, a, b in rows]

    def _papers(self) -> list[str]:
        both = [
            f"{len(ids):,} {what}"
            for ids, what in ((self.relabelled, "with another label"), (self.rewritten, "with another text"))
        ]
        added = sum(map(len, self.added.values()))
        gone = sum(map(len, self.gone.values()))
        return [f"Papers: {added:,} new, {gone:,} gone, {', '.join(both)}."]

    def _label_table(self) -> list[str]:
        before, after = _labels(self.old), _labels(self.new)
        totals = [max(sum(counts.values()), 1) for counts in (before, after)]
        lines = [
            "| label | before | after | change | share before | share after | shift in points |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for name in sorted(before.keys() | after.keys()):
            a, b = before.get(name, 0), after.get(name, 0)
            shares = a / totals[0], b / totals[1]
            lines.append(
                f"| {name} | {a:,} | {b:,} | {b - a:+,} | {shares[0]:.2%} | {shares[1]:.2%} "
                f"| {100 * (shares[1] - shares[0]):+.2f} |"
            )
        distance, chance = self.label_shift()
        if self.added_labels:
            lines += [
                "",
                f"Labels of the new papers beside the old mix: total variation distance {distance:.3f}",
            ]
            lines[-1] += f", by chance {chance:.3f}."
        return lines


def compare_corpora(old: Corpus, new: Corpus) -> DataDiff:
    """Compares two builds of the same label set, paper by paper."""
    before, after = _papers(old), _papers(new)
    diff = DataDiff(old.report, new.report)
    for name, paper in after.items():
        earlier = before.get(name)
        if earlier is None:
            diff.added.setdefault(paper.split, []).append(name)
            diff.added_labels[paper.label] = diff.added_labels.get(paper.label, 0) + 1
            continue
        for changed, ids in (
            (earlier.split != paper.split, diff.moved),
            (earlier.label != paper.label, diff.relabelled),
            (earlier.text != paper.text, diff.rewritten),
        ):
            if changed:
                ids.append(name)
    for name in before.keys() - after.keys():
        diff.gone.setdefault(before[name].split, []).append(name)
    return diff


def _papers(corpus: Corpus) -> dict[str, Paper]:
    """Base id to paper, of all splits."""
    papers = {}
    for split, rows in corpus.splits.items():
        table = rows.with_format("arrow")[:]
        for name, label, text in zip(
            table["arxiv_id"].to_pylist(), table["label"].to_pylist(), table["text"].to_pylist(), strict=True
        ):
            papers[name] = Paper(split, corpus.labels[label], hashlib.sha256(text.encode()).digest())
    return papers


def _labels(report: BuildReport) -> dict[str, int]:
    """Label to papers of all splits."""
    counts: dict[str, int] = {}
    for split in report.splits.values():
        for label, papers in split.items():
            counts[label] = counts.get(label, 0) + papers
    return counts


_SEPARATOR = b"\x1e"  # ends a field: in no id, label or text


def recipe_data(recipe: str | Path) -> dict[str, Any]:
    """The keywords of `build_corpus` that a recipe of either kind names.

    Raises:
        UserError: the file is no recipe, or its `data` group is wrong.
    """
    group = dataclasses.asdict(load_group(recipe, "data", DataConfig))
    return {key: value for key, value in group.items() if value is not None}


def check_record(corpus: Corpus, near_duplicates: NearDuplicates) -> dict[str, Any]:
    """What became of each row of the file, as counts.

    Args:
        corpus: with the report of its build.
        near_duplicates: found in it.
    """
    report = corpus.report
    pairs = Counter(f"{pair.split} and {pair.same_as_split}" for pair in near_duplicates.pairs)
    return {
        "md5": corpus.data.md5,
        **report.counts(),
        "near_duplicates": {"threshold": near_duplicates.threshold, "pairs": dict(sorted(pairs.items()))},
    }


def build_record(corpus: Corpus, options: dict[str, Any]) -> dict[str, Any]:
    """The splits: how they were made, papers per label, and a checksum of their content.

    Args:
        corpus: the built corpus.
        options: the keywords of `build_corpus` that made it.
    """
    return {
        "data": {"md5": corpus.data.md5, "sha256": corpus.data.sha256, "rows": corpus.data.rows},
        "options": options,
        "labels": corpus.labels,
        "papers": corpus.report.splits,
        "sha256": {name: _content_sha256(papers) for name, papers in corpus.splits.items()},
    }


def write_record(record: dict[str, Any], path: Path) -> None:
    """Writes a record as JSON, whole or not at all; folders are made.

    Raises:
        UserError: the file cannot be written there.
    """
    try:
        write_atomically(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "name another file: --out"
        ) from None


def _content_sha256(papers: Any) -> str:
    digest = hashlib.sha256()
    columns = (papers[name][:] for name in ("arxiv_id", "label", "text"))
    for fields in zip(*columns, strict=True):
        for value in fields:
            digest.update(str(value).encode("utf-8"))
            digest.update(_SEPARATOR)
    return digest.hexdigest()
