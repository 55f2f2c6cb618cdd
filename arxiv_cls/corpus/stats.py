"""What is in a corpus: `arxiv-cls data stats`, `check` and `diff`, and the records of pipeline stages."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from arxiv_cls.corpus.builder import BuildReport, Corpus, DroppedDuplicate
from arxiv_cls.corpus.duplicates import SHINGLE_WORDS, THRESHOLD, method, search
from arxiv_cls.corpus.splits import SPLITS
from arxiv_cls.errors import UserError
from arxiv_cls.recipe import DataConfig, load_group
from arxiv_cls.record.files import write_atomically

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
MOST_COLOURS = 10  # more labels than that are not told apart by colour
# A mix of labels has moved when the distance is this many times what chance gives, and not tiny either.
NOTABLE_RATIO, NOTABLE_DISTANCE = 3.0, 0.01
ROWS_OF_DIFF = {
    "rows_read": "rows read",
    "rejected": "rejected",
    "merged": "merged into a newer version",
    "outside_config": "outside the label set",
    "duplicates": "duplicates dropped",
}
_SEPARATOR = b"\x1e"  # ends a field: in no id, label or text


def paper_table(corpus: Corpus) -> pd.DataFrame:
    """A row per paper, by base id: split, label, year, words of title and abstract, digest of the text."""
    parts = {name: papers.to_pandas().set_index("arxiv_id") for name, papers in corpus.splits.items()}
    read = pd.concat(parts, names=["split"]).reset_index("split")
    table = read[["split"]].copy()
    table["label"] = [corpus.labels[label] for label in read["label"]]
    table["year"] = pd.to_datetime(read["published"]).dt.year
    table["words"] = [len(text.split()) for text in read["text"]]
    table["text"] = [hashlib.sha256(text.encode()).digest() for text in read["text"]]
    table["split"] = pd.Categorical(table["split"], categories=list(corpus.splits))
    table["label"] = pd.Categorical(table["label"], categories=corpus.labels)
    return table


def counts_by(table: pd.DataFrame, column: str, other: str = "split") -> pd.DataFrame:
    """Papers by two columns; years without gaps, labels without papers too."""
    counts = pd.crosstab(table[column], table[other], dropna=False)
    if column == "year":
        counts = counts.reindex(range(table["year"].min(), table["year"].max() + 1), fill_value=0)
    return counts


def summary(table: pd.DataFrame) -> str:
    """Three aligned tables for a terminal: labels, years, words."""
    labels, years = counts_by(table, "label"), counts_by(table, "year")
    labels.index, years.index = labels.index.astype(str), years.index.astype(str)
    labels.loc["all"] = labels.sum()
    for counts in (labels, years):
        counts.columns = counts.columns.astype(str)
        counts["all"] = counts.sum(axis=1)
    labels["share"] = (labels["all"] / len(table)).map("{:.1%}".format)
    words = table.groupby("split", observed=True)["words"].quantile([0, *(p / 100 for p in PERCENTILES), 1])
    words = words.unstack().round().astype(int)
    words.columns = ["shortest", *(f"{p} %" for p in PERCENTILES), "longest"]
    words.insert(0, "mean", table.groupby("split", observed=True)["words"].mean().map("{:.1f}".format))
    tables = []
    for name, shown, width in (("label", labels, 11), ("year", years, 11), ("words per paper", words, 8)):
        shown = shown.rename_axis(index=None, columns=name)
        formats = [lambda value: f"{value:,}" if isinstance(value, int | np.integer) else value]
        widths = {column: 8 if column == "share" else width for column in shown}
        tables.append(shown.to_string(formatters=formats * shown.shape[1], col_space=widths))
    return "\n\n".join(tables)


def write_plots(table: pd.DataFrame, config: str, folder: Path) -> list[Path]:
    """Writes `labels.png`, `years.png` and `words.png` and returns their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    from matplotlib.figure import Figure

    labels = counts_by(table, "label")
    labels = labels.loc[labels.sum(axis=1).sort_values(kind="stable").index]
    by = "label" if len(labels) <= MOST_COLOURS else "split"
    figures = {name: Figure(figsize=(9, 4), layout="constrained") for name in ("labels", "years", "words")}
    figures["labels"].set_figheight(max(2.5, 0.22 * len(labels) + 1.2))
    axes = {name: figure.subplots() for name, figure in figures.items()}
    title = f"Papers per label ({config})"
    labels.plot.barh(stacked=True, ax=axes["labels"], xlabel="papers", ylabel="", title=title)
    title = f"Papers per year ({config})"
    counts_by(table, "year", by).plot.bar(
        stacked=True, ax=axes["years"], xlabel="year of publication", ylabel="papers", title=title
    )
    # The longest abstract would squeeze all others to the left.
    bins = np.linspace(0, np.percentile(table["words"], 99.5) + 1, 61).tolist()
    for name, words in table.groupby(by, observed=True)["words"]:
        axes["words"].hist(words, bins=bins, density=True, histtype="step", label=name)
    axes["words"].legend()
    title = f"Text length ({config}), median {table['words'].median():.0f}"
    axes["words"].set(xlabel="words of title and abstract", ylabel="density", title=title)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=120)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}", "name another folder: --out DIR"
        ) from None
    return [folder / f"{name}.png" for name in figures]


@dataclass(frozen=True)
class NearDuplicate(DroppedDuplicate):
    """Two papers of different splits with almost the same text; the first, in the earlier split, is kept."""

    similarity: float  # exact Jaccard similarity of the shingle sets, 0 to 1


@dataclass(frozen=True)
class NearDuplicates:
    """What was found among how many papers."""

    papers: int
    threshold: float
    pairs: list[NearDuplicate]  # most similar first

    def counts(self) -> dict[str, int]:
        """Pairs per pair of splits, as in "train and test"."""
        return dict(sorted(Counter(f"{p.split} and {p.same_as_split}" for p in self.pairs).items()))

    def summary(self, show: int = 20) -> str:
        """For a terminal: counts per pair of splits, then the `show` most similar pairs."""
        found = f"{len(self.pairs):>9,} near-duplicate pairs across splits among {self.papers:,} papers"
        lines = [f"{found} (Jaccard of {SHINGLE_WORDS}-word shingles at least {self.threshold:g})"]
        lines += [f"{count:>13,} {splits}" for splits, count in self.counts().items()]
        if self.pairs and show > 0:
            lines += ["", f"{'similarity':>10}  {'paper':<18} {'split':<11} {'near-duplicate of':<18} split"]
            lines += [
                f"{p.similarity:>10.3f}  {p.arxiv_id:<18} {p.split:<11} {p.same_as:<18} {p.same_as_split}"
                for p in self.pairs[:show]
            ]
            if len(self.pairs) > show:
                lines.append(f"{'':>10}  and {len(self.pairs) - show:,} more")
        return "\n".join(lines)


def find_near_duplicates(corpus: Corpus, *, threshold: float = THRESHOLD) -> NearDuplicates:
    """Near-duplicates between the splits of a corpus, from the corpus' cache folder when they are known.

    Raises:
        UserError: `threshold` is not within 0.3 and 1 (below, almost everything would be a candidate).
    """
    if not 0.3 <= threshold <= 1:
        raise UserError(f"threshold {threshold:g} is not within 0.3 and 1", "0.8 is a good start")
    key = hashlib.sha256(json.dumps(method(threshold)).encode()).hexdigest()[:16]
    cache = corpus.cache_dir / f"near_duplicates-{key}.json"
    if cache.is_file():
        return TypeAdapter(NearDuplicates).validate_json(cache.read_text(encoding="utf-8"))
    ids: list[str] = []
    texts: list[str] = []
    splits: list[int] = []
    for number, name in enumerate(SPLITS):
        ids += corpus.splits[name]["arxiv_id"][:]
        texts += corpus.splits[name]["text"][:]
        splits += [number] * (len(ids) - len(splits))
    pairs = [
        NearDuplicate(ids[first], SPLITS[splits[first]], ids[second], SPLITS[splits[second]], similarity)
        for first, second, similarity in search(texts, np.array(splits), threshold)
    ]
    pairs.sort(key=lambda pair: (-pair.similarity, pair.arxiv_id, pair.same_as))
    result = NearDuplicates(len(texts), threshold, pairs)
    write_atomically(cache, json.dumps(dataclasses.asdict(result)))
    return result


@dataclass
class DataDiff:
    """Two builds of one label set: their reports, and how many papers changed in which way."""

    old: BuildReport
    new: BuildReport
    added: dict[str, int] = field(default_factory=dict)  # label to papers that only the new one has
    gone: dict[str, int] = field(default_factory=dict)  # split to papers that only the old one has
    moved: int = 0  # papers that are in another split now
    relabelled: int = 0
    rewritten: int = 0  # with another title or abstract

    def warnings(self) -> list[str]:
        """What a person should look at before this is merged; none when there is nothing."""
        found = []
        before, after = self.old.label_counts().keys(), self.new.label_counts().keys()
        changes = {"without": sorted(before - after), "with": sorted(after - before)}
        if changed := [f"{word} {', '.join(labels)}" for word, labels in changes.items() if labels]:
            found.append(f"The label set changes: {' and '.join(changed)}. Released models do not know it.")
        if left := self.gone.get("test"):
            found.append(f"Papers that leave the test split: {left:,}; older figures do not compare.")
        if self.moved:
            found.append(f"Papers that change their split: {self.moved:,}.")
        rates = [report.rejected / report.rows_read for report in (self.old, self.new)]
        if rates[1] > rates[0]:
            found.append(f"More rows are rejected: {rates[1]:.2%} after {rates[0]:.2%}.")
        distance, chance = self.label_shift()
        if distance > max(NOTABLE_DISTANCE, NOTABLE_RATIO * chance):
            found.append(
                f"The new papers have another mix of labels: distance {distance:.3f}, by chance {chance:.3f}."
            )
        return found

    def label_shift(self) -> tuple[float, float]:
        """Total variation distance (0 to 1) of the added papers' labels from the old ones', and by chance.

        By chance is what as many papers drawn from the old mix give: half the sum of the mean absolute errors
        sqrt(2 p (1 - p) / (pi n)) of the shares, by the normal approximation. (0, 0) without new papers.
        """
        if not self.added:
            return 0.0, 0.0
        before = self.old.label_counts()
        names = sorted(before.keys() | self.added.keys())
        old = np.array([before.get(name, 0) for name in names], dtype=float)
        new = np.array([self.added.get(name, 0) for name in names], dtype=float)
        share = old / old.sum()
        errors = np.sqrt(2 * share * (1 - share) / (np.pi * new.sum()))
        return float(np.abs(new / new.sum() - share).sum() / 2), float(errors.sum() / 2)

    def markdown(self) -> str:
        """The report."""
        lines = [f"## Data report, label set {self.new.config}", ""]
        lines += [f"- **{warning}**" for warning in self.warnings()] or ["Nothing that needs a closer look."]
        lines += ["", "| | before | after | change |", "| --- | ---: | ---: | ---: |"]
        for key, name in ROWS_OF_DIFF.items():
            a, b = (report.counts()[key] for report in (self.old, self.new))
            lines.append(f"| {name} | {a:,} | {b:,} | {b - a:+,} |")
        for split, b in self.new.split_sizes().items():
            a = self.old.split_sizes()[split]
            lines.append(f"| papers: {split} | {a:,} | {b:,} | {b - a:+,} |")
        lines += [
            "",
            f"Papers: {sum(self.added.values()):,} new, {sum(self.gone.values()):,} gone, "
            f"{self.relabelled:,} with another label, {self.rewritten:,} with another text.",
            "",
            "| label | before | after | change | share before | share after | shift in points |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        before, after = self.old.label_counts(), self.new.label_counts()
        for name in sorted(before.keys() | after.keys()):
            a, b = before.get(name, 0), after.get(name, 0)
            was, is_now = a / self.old.papers, b / self.new.papers
            shares = f"{was:.2%} | {is_now:.2%} | {100 * (is_now - was):+.2f}"
            lines.append(f"| {name} | {a:,} | {b:,} | {b - a:+,} | {shares} |")
        if self.added:
            distance, chance = (f"{value:.3f}" for value in self.label_shift())
            mix = "Labels of the new papers beside the old mix: total variation distance"
            lines += ["", f"{mix} {distance}, by chance {chance}."]
        return "\n".join(lines) + "\n"


def compare_corpora(old: Corpus, new: Corpus) -> DataDiff:
    """Compares two builds of the same label set, paper by paper."""
    before, after = (paper_table(corpus).astype({"split": str, "label": str}) for corpus in (old, new))
    added = after.loc[after.index.difference(before.index)]
    gone = before.loc[before.index.difference(after.index)]
    both = before.join(after, how="inner", rsuffix="_after")
    changed = {name: int((both[name] != both[f"{name}_after"]).sum()) for name in ("split", "label", "text")}
    return DataDiff(
        old.report,
        new.report,
        added=added["label"].value_counts().to_dict(),
        gone=gone["split"].value_counts().to_dict(),
        moved=changed["split"],
        relabelled=changed["label"],
        rewritten=changed["text"],
    )


def recipe_data(recipe: str | Path) -> dict[str, Any]:
    """The keywords of `build_corpus` that a recipe of either kind names.

    Raises:
        UserError: the file is no recipe, or its `data` group is wrong.
    """
    group = dataclasses.asdict(load_group(recipe, "data", DataConfig))
    return {key: value for key, value in group.items() if value is not None}


def check_record(corpus: Corpus, found: NearDuplicates) -> dict[str, Any]:
    """What became of each row of the file, as counts, and the near-duplicates found in the corpus."""
    near_duplicates = {"threshold": found.threshold, "pairs": found.counts()}
    return {"md5": corpus.data.md5, **corpus.report.counts(), "near_duplicates": near_duplicates}


def build_record(corpus: Corpus, options: dict[str, Any]) -> dict[str, Any]:
    """The splits: the keywords of `build_corpus`, papers per label, and a checksum of their content."""
    return {
        "data": {"md5": corpus.data.md5, "sha256": corpus.data.sha256, "rows": corpus.data.rows},
        "options": options,
        "labels": corpus.labels,
        "papers": corpus.report.splits,
        "sha256": {name: _content_sha256(papers) for name, papers in corpus.splits.items()},
    }


def _content_sha256(papers: Any) -> str:
    digest = hashlib.sha256()
    columns = (papers[name][:] for name in ("arxiv_id", "label", "text"))
    for fields in zip(*columns, strict=True):
        digest.update(b"".join(str(value).encode("utf-8") + _SEPARATOR for value in fields))
    return digest.hexdigest()
