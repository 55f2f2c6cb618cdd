"""What changes when the data changes: `arxiv-cls data diff OLD NEW`, as Markdown for a pull request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from arxiv_cls.corpus.load import Corpus
    from arxiv_cls.corpus.report import BuildReport

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
