"""From the CSV to Arrow splits: the `datasets` builder, and the report of what became of each row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather
from pydantic import TypeAdapter

from arxiv_cls.corpus.csv_reader import read_bytes
from arxiv_cls.corpus.duplicates import THRESHOLD, find_duplicates, method, search
from arxiv_cls.corpus.fetch import local_file, pinned
from arxiv_cls.corpus.papers import (
    DataVersion,
    Papers,
    file_digests,
    keep_newest_versions,
    read_papers,
    write_rejects,
)
from arxiv_cls.corpus.records import file_format
from arxiv_cls.corpus.splits import (
    SPLITS,
    label_indices,
    label_matrix,
    label_names,
    listed_labels,
    parse_time_boundaries,
    split_by_paper,
    split_by_time,
    split_positions,
)
from arxiv_cls.corpus.taxonomy import CATEGORY_NAMES
from arxiv_cls.errors import UserError
from arxiv_cls.label_sets import DEFAULT_LABEL_SET, OWN_LABELS, label_set

DEFAULT_CSV = Path("data/raw/arxiv.csv")
MAXIMUM_REJECTED = 0.02  # share of the rows
REPORT_FILE, REJECTS_FILE, OUTSIDE_FILE = "report.json", "rejects.csv", "outside.arrow"
_BATCH = 2000  # papers per Arrow record batch
_AT_ONCE = 10 * _BATCH  # papers whose texts are held twice while a split is written
_SHOWN = 5  # rejects in an error message
FEW_PAPERS = 20  # training papers of a label, below which the report warns
LABELS_NAMED = 20
# Papers outside the label set whose texts are kept of a file that is not read as a whole; the out-of-scope
# rule trains on 20,000 of them.
_MOST_OUTSIDE = 40_000


@dataclass(frozen=True)
class DroppedDuplicate:
    """A paper that was dropped because another has the same text."""

    arxiv_id: str
    split: str
    same_as: str
    same_as_split: str


@dataclass
class BuildReport:
    """Counts of a build.

    rows_read = rejected + merged + outside_config + duplicates + near_duplicates + left_out + papers
    """

    config: str
    split: str
    seed: int
    time_boundaries: list[str] | None  # first day of validation and of test, for `split: time`
    rows_read: int
    rejected: int
    rejected_by_reason: dict[str, int]
    rejects_file: str | None  # CSV with line, column, reason, value
    merged: int  # rows that are older versions of a paper
    outside_config: int  # papers of categories that the config does not have
    duplicates: list[DroppedDuplicate]
    near_duplicates: list[DroppedDuplicate]  # with data.near_duplicates: drop
    left_out: int  # by max_samples
    splits: dict[str, dict[str, int]]  # split to label to papers
    ratios: list[float] | None = None  # shares of the splits, where not the usual ones

    @property
    def papers(self) -> int:
        """Papers in all splits."""
        return sum(self.split_sizes().values())

    def split_sizes(self) -> dict[str, int]:
        """Papers per split."""
        return {split: sum(labels.values()) for split, labels in self.splits.items()}

    def label_counts(self) -> dict[str, int]:
        """Papers of all splits per label."""
        labels = next(iter(self.splits.values()))
        return {label: sum(counts[label] for counts in self.splits.values()) for label in labels}

    def counts(self) -> dict[str, Any]:
        """What became of the rows, as numbers."""
        return {
            "rows_read": self.rows_read,
            "rejected": self.rejected,
            "rejected_by_reason": self.rejected_by_reason,
            "merged": self.merged,
            "outside_config": self.outside_config,
            "duplicates": len(self.duplicates),
            "near_duplicates_dropped": len(self.near_duplicates),
            "left_out": self.left_out,
            "papers": self.papers,
        }

    def line(self) -> str:
        """The same in one line, for a log."""
        near = f", {len(self.near_duplicates):,} near-duplicates dropped" if self.near_duplicates else ""
        left_out = f", {self.left_out:,} left out by max_samples" if self.left_out else ""
        return (
            f"{self.rows_read:,} rows read, {self.rejected:,} rejected, {self.merged:,} merged, "
            f"{self.outside_config:,} outside {self.config}, {len(self.duplicates):,} duplicates dropped"
            f"{near}{left_out}: {self.papers:,} papers"
        )

    def summary(self) -> str:
        """For a terminal: what became of the rows, then a table of papers per split and label."""
        see = f", see {self.rejects_file}" if self.rejected else ""
        lines = [f"{self.rows_read:>9,} rows read", f"{self.rejected:>9,} rejected{see}"]
        lines += [f"{count:>13,} {reason}" for reason, count in self.rejected_by_reason.items()]
        lines.append(f"{self.merged:>9,} merged into a newer version of the same paper")
        lines.append(f"{self.outside_config:>9,} outside the label set {self.config}")
        lines += _dropped(self.duplicates, "duplicates", "same text")
        if self.near_duplicates:
            lines += _dropped(self.near_duplicates, "near-duplicates", "almost the same text")
        if self.left_out:
            lines.append(f"{self.left_out:>9,} left out by max_samples")
        how = f"by paper, seed {self.seed}" if self.split == "paper" else "by time"
        if self.ratios:
            how += f", shares {', '.join(f'{share:g}' for share in self.ratios)}"
        if self.time_boundaries:
            how += f": validation from {self.time_boundaries[0]}, test from {self.time_boundaries[1]}"
        lines += [f"{self.papers:>9,} papers, split {how}", ""]
        counts = {label: [split[label] for split in self.splits.values()] for label in self.label_counts()}
        counts["all"] = list(self.split_sizes().values())
        width = max(len(label) for label in ("label", *counts))
        lines.append(f"{'label':<{width}}" + "".join(f"{split:>12}" for split in self.splits))
        lines += [f"{label:<{width}}" + "".join(f"{n:>12,}" for n in row) for label, row in counts.items()]
        if few := [f"{label} {n}" for label, n in self.splits["train"].items() if n < FEW_PAPERS]:
            more = f" and {len(few) - LABELS_NAMED} more" if len(few) > LABELS_NAMED else ""
            named = ", ".join(few[:LABELS_NAMED]) + more
            lines += ["", f"warning: labels with fewer than {FEW_PAPERS} training papers: {named}"]
        return "\n".join(lines)


def _dropped(dropped: list[DroppedDuplicate], kind: str, what: str) -> list[str]:
    where = sorted(Counter((paper.split, paper.same_as_split) for paper in dropped).items())
    return [
        f"{len(dropped):>9,} {kind} dropped",
        *(f"{n:>13,} from {a}, {what} in {b}" for (a, b), n in where),
    ]


@dataclass
class Corpus:
    """A built corpus and how it came about."""

    splits: datasets.DatasetDict  # train, validation, test
    labels: list[str]
    report: BuildReport
    data: DataVersion
    cache_dir: Path  # holds the Arrow files, report.json, rejects.csv and outside.arrow

    def outside_papers(self) -> pa.Table:
        """Papers that the label set leaves out: title, abstract, arxiv_id, published, category."""
        return feather.read_table(self.cache_dir / OUTSIDE_FILE, memory_map=True)

    def targets(self, split: str) -> np.ndarray:
        """(papers,) label numbers of a split, or (papers, labels) bool for `task: multi_label`."""
        papers = self.splits[split]
        if "labels" in papers.column_names:
            return label_matrix(papers["labels"][:], len(self.labels))
        return np.asarray(papers["label"][:])

    def report_line(self) -> str:
        """What became of the rows of the file, and where the whole report is: for the log of a training."""
        return f"{self.report.line()}; report: {self.cache_dir / REPORT_FILE}"


def load_arxiv(config: str = DEFAULT_LABEL_SET, **options: Any) -> datasets.DatasetDict:
    """The splits train, validation and test; see `build_corpus` for the options and errors.

    Each has the features text (title, blank line, abstract), title, abstract, label (`ClassLabel` of category
    codes), arxiv_id (base id), published (date) and, where the file lists several categories of a paper,
    categories (all of them, the primary one first), and is in hash order. With `task="multi_label"` there is
    also labels (all label indices of the paper, ascending), and label is that of the first category listed
    that the label set has.
    """
    return build_corpus(config, **options).splits


def build_corpus(
    config: str = DEFAULT_LABEL_SET,
    *,
    task: str = "single_label",
    csv: str | Path | None = None,
    split: str = "paper",
    seed: int = 42,
    time_boundaries: list[str] | None = None,
    near_duplicates: str = "keep",
    max_samples: int | None = None,
    labels: list[str] | None = None,
    ratios: list[float] | None = None,
    cache_dir: str | Path | None = None,
) -> Corpus:
    """Builds the corpus from a file, or takes it from the cache, with the report of the build.

    Args:
        config: label set, as of `label_sets.label_set`.
        task: "single_label" (the primary category) or "multi_label" (every listed category of the label set).
        csv: the file, as of `read_papers`; `data/raw/arxiv.csv` by default.
        split: "paper" (70 / 15 / 15 by hash of the base id) or "time" (train before, test after a date).
        seed: seed of the hash.
        time_boundaries: ISO dates `[from_validation, from_test]` for "time"; None for those of `splits`.
        near_duplicates: "drop" leaves out papers with a near-duplicate in a later split.
        max_samples: N takes the first N training papers in hash order, and of validation and test at most
            N // 4 each; the label set stays.
        labels: category codes in place of the label set.
        ratios: shares of training, validation and test, for "paper"; None for 0.70, 0.15, 0.15.
        cache_dir: None for the cache of `datasets` (`HF_DATASETS_CACHE`).

    Raises:
        UserError: the file cannot be read or used, an option is wrong, or the cache cannot be written.
    """
    for key, given, known in (
        ("task", task, ("single_label", "multi_label")),
        ("split", split, ("paper", "time")),
        ("near_duplicates", near_duplicates, ("keep", "drop")),
    ):
        if given not in known:
            raise UserError(f"data.{key}: {given!r} is unknown", f"one of {', '.join(known)}")
    try:
        label_set(config)
    except ValueError as error:
        raise UserError(f"data.config: {error}") from None
    if unknown := sorted({*(labels or ())} - CATEGORY_NAMES.keys()):
        raise UserError(
            f"data.labels: {', '.join(unknown)}: no category of arXiv", "write codes, such as cs.CL"
        )
    if ratios is not None and split != "paper":
        raise UserError("data.ratios: only for data.split: paper", "leave it out")
    if split == "paper" and time_boundaries is not None:
        raise UserError("data.time_boundaries: only for data.split: time", "leave it out")
    if max_samples is not None and max_samples < 4:
        hint = "at least 4: validation and test get a quarter each"
        raise UserError(f"data.max_samples: {max_samples} is too few", hint)
    boundaries = tuple(str(day) for day in parse_time_boundaries(time_boundaries)) * (split == "time")
    path = str(DEFAULT_CSV if csv is None else csv)
    # What is not asked for stays out of the cache key, which older corpora have too.
    more: dict[str, Any] = {"labels": tuple(sorted(labels))} if labels else {}
    more |= {"ratios": tuple(ratios)} if ratios else {}
    more |= {"task": task} if task == "multi_label" else {}
    try:
        builder = ArxivBuilder(
            path, OWN_LABELS if labels else config, cache_dir, split=split, seed=seed,
            time_boundaries=boundaries, near_duplicates=near_duplicates, max_samples=max_samples or 0, **more,
        )  # fmt: skip
        with _progress_on_terminals_only():
            builder.download_and_prepare(verification_mode="no_checks")
        # Arrow keeps what the build has freed, some 360 MB on 136,238 rows, and a training needs that memory.
        pa.default_memory_pool().release_unused()
    except (OSError, datasets.exceptions.DatasetGenerationError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"the corpus cannot be written to the cache: {cause}",
            "name another folder in the environment: HF_DATASETS_CACHE=DIR (in Python: cache_dir)",
        ) from error
    home = Path(builder.cache_dir)
    record = json.loads((home / REPORT_FILE).read_text(encoding="utf-8"))
    report = TypeAdapter(BuildReport).validate_python(record["report"])
    if report.rejects_file:
        report.rejects_file = str(home / report.rejects_file)
    return Corpus(
        splits=builder.as_dataset(),
        labels=list(builder.info.features["label"].names),
        report=report,
        # The same content may have been built from another path.
        data=replace(DataVersion(**record["data"]), csv=pinned(path, builder.file)),
        cache_dir=home,
    )


@contextlib.contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    """The bars of `datasets` are of use to a person who waits, and noise in a log file."""
    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@dataclass
class ArxivConfig(datasets.BuilderConfig):
    """Everything that decides what is built; all of it is in the cache key."""

    sha256: str = ""  # of the file
    split: str = "paper"  # "paper" or "time"
    seed: int = 42
    time_boundaries: tuple[str, ...] = ()  # ISO dates, for "time"
    near_duplicates: str = "keep"  # or "drop"
    max_samples: int = 0  # papers to train on, 0 for all
    labels: tuple[str, ...] = ()  # category codes in place of the label set
    ratios: tuple[float, ...] = ()  # shares of the splits, () for the usual ones
    task: str = "single_label"  # or "multi_label"


class ArxivBuilder(datasets.ArrowBasedBuilder):
    """Builds the splits of one label set from one file; `build_corpus` checks the options."""

    VERSION = datasets.Version("1.2.1")
    BUILDER_CONFIG_CLASS = ArxivConfig

    def __init__(self, csv: str, config: str, cache_dir: str | Path | None, **options: Any) -> None:
        self.csv, self.file = csv, local_file(csv)
        # Kept for the build, which would read or hash the file a second time.
        self._data: bytes | None = None
        self._md5: str | None = None
        if file_format(self.file) == "csv":
            self._data = read_bytes(self.file)
            options["sha256"] = hashlib.sha256(self._data).hexdigest()
        else:
            self._md5, options["sha256"] = file_digests(self.file)
        keyed = options | {"near_duplicates": options["near_duplicates"] == "drop" and method()}
        key = hashlib.sha256(json.dumps(keyed, sort_keys=True).encode()).hexdigest()[:16]
        names = {"dataset_name": "arxiv", "config_name": config, "config_id": f"{config}-{key}"}
        super().__init__(cache_dir=None if cache_dir is None else str(cache_dir), **names, **options)

    def _info(self) -> datasets.DatasetInfo:
        # Features follow in _split_generators: some label sets come from the file.
        return datasets.DatasetInfo(license="CC0-1.0", homepage="https://arxiv.org")

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        output = Path(self._output_dir)
        # `datasets` builds in "<dir>.incomplete" and renames it at the end; what a killed build left there
        # must not come along.
        for leftover in output.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        data, self._data = self._data, None
        digests = (self._md5, self.config.sha256) if self._md5 else None
        texts = None if data is not None else _Texts(self._labels(), self.config.task)
        papers = read_papers(self.file, data=data, digests=digests, keep=texts.keep if texts else None)
        del data
        if papers.rows_read == 0:
            raise UserError(f"{self.csv}: a header and no rows", "get the data with `make data`")
        if len(papers.rejects) > MAXIMUM_REJECTED * papers.rows_read:
            raise self._too_many_rejects(papers)
        splits, outside, report = build_splits(papers, self.config, texts)
        feather.write_feather(outside, str(output / OUTSIDE_FILE), compression="uncompressed")
        del outside
        columns = ["text", "title", "abstract", "label", "arxiv_id", "published"]
        features: dict[str, Any] = dict.fromkeys(columns, datasets.Value("string"))
        if "categories" in splits["train"].papers.column_names:
            features["categories"] = datasets.Sequence(datasets.Value("string"))
        features["label"] = datasets.ClassLabel(names=list(report.splits["train"]))
        if self.config.task == "multi_label":
            features["labels"] = datasets.Sequence(features["label"])
        features["published"] = datasets.Value("date32")
        self.info.features = datasets.Features(features)
        write_rejects(papers.rejects, output / REJECTS_FILE)
        report.rejects_file = REJECTS_FILE if papers.rejects else None
        sums = {"papers": report.papers, "split_sizes": report.split_sizes()}
        record = {"report": asdict(report) | sums, "data": asdict(papers.version)}
        (output / REPORT_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"split": split}) for name, split in splits.items()
        ]

    def _generate_tables(self, split: SplitPapers) -> Iterator[tuple[int, pa.Table]]:
        for first in range(0, len(split.rows), _AT_ONCE):
            part = split.table(slice(first, first + _AT_ONCE))
            for start in range(0, len(part), _BATCH):
                yield (first + start) // _BATCH, part.slice(start, _BATCH)

    def _labels(self) -> list[str]:
        """The labels, for a file whose texts are not all held: most frequent ones take a first reading."""
        chosen = label_set(self.config.name, self.config.labels)
        categories = None
        if not (chosen.labels or chosen.archives):
            papers = read_papers(
                self.file, digests=("", ""), keep=lambda table: np.zeros(len(table), dtype=bool)
            )
            categories = keep_newest_versions(papers.table)[0]["category"]
        return label_names(self.config.name, categories, self.config.labels)

    def _too_many_rejects(self, papers: Papers) -> UserError:
        """More than 2 % unusable rows mean that the file is not what it should be."""
        rejected = len(papers.rejects)
        path = Path(self._cache_dir_root) / f"rejects-{self.config.sha256[:16]}.csv"
        write_rejects(papers.rejects, path)
        first = [f"    line {r.line}: {r.where}{r.reason}: {r.value!r}" for r in papers.rejects[:_SHOWN]]
        return UserError(
            f"{self.csv}: {rejected:,} of {papers.rows_read:,} rows cannot be used "
            f"({rejected / papers.rows_read:.1%}, at most {MAXIMUM_REJECTED:.0%} may be); the first ones:\n"
            + "\n".join(first),
            f"all of them are listed in {path}",
        )


class _Texts:
    """Whose texts are held of a file that is larger than the memory: those inside the label set, and others.

    The others are those whose hash is below a share, which halves whenever they become too many: in the end
    the same ones, whatever the order of the rows.
    """

    def __init__(self, names: list[str], task: str) -> None:
        self.names, self.task, self.share, self.lock = names, task, 1.0, threading.Lock()
        self.outside = np.empty(0)

    def keep(self, table: pa.Table) -> np.ndarray:
        """As `records.Keep`, for several parts of a file at once."""
        inside = _labels_of(table, self.names, self.task)[0] >= 0
        hashes = self.hashes(table["arxiv_id"])
        with self.lock:
            self.outside = np.concatenate([self.outside, hashes[~inside & (hashes < self.share)]])
            while len(self.outside) > _MOST_OUTSIDE:
                self.share /= 2
                self.outside = self.outside[self.outside < self.share]
            return inside | (hashes < self.share)

    @staticmethod
    def hashes(base_ids: pa.ChunkedArray) -> np.ndarray:
        """A number from 0 to 1 for each paper that has nothing to do with its split."""
        # By chunks: millions of strings at once would stay in the interpreter's memory.
        names = (name for chunk in base_ids.chunks for name in chunk.to_pylist())
        return np.fromiter((zlib.crc32(name.encode()) for name in names), float) / 2**32


@dataclass
class SplitPapers:
    """The papers of a split, in its order; a table of all of them would hold every text twice."""

    papers: pa.Table  # of all splits
    labels: np.ndarray  # int64, of all splits
    rows: np.ndarray  # those of this split
    every: pa.ListArray | None = None  # all labels of each paper of all splits, for `task: multi_label`

    def table(self, places: slice) -> pa.Table:
        """The features, label int64, of some papers of the split."""
        part = self.papers.take(pa.array(self.rows[places]))
        columns = {
            "text": pc.binary_join_element_wise(part["title"], part["abstract"], "\n\n"),
            "title": part["title"],
            "abstract": part["abstract"],
            "label": pa.array(self.labels[self.rows[places]], type=pa.int64()),
            "arxiv_id": part["arxiv_id"],
            "published": part["published"],
        }
        if "categories" in part.column_names:
            columns["categories"] = part["categories"]
        if self.every is not None:
            columns["labels"] = self.every.take(pa.array(self.rows[places]))
        return pa.table(columns)


def _labels_of(table: pa.Table, names: list[str], task: str) -> tuple[np.ndarray, pa.ListArray | None]:
    """The label of each paper, -1 outside the label set, and for `task: multi_label` all of its labels.

    Raises:
        UserError: `task: multi_label`, and a file that does not list all categories.
    """
    if task == "single_label":
        return label_indices(names, table["category"]), None
    if "categories" not in table.column_names:
        raise _no_categories()
    return listed_labels(names, table["categories"])


def _no_categories() -> UserError:
    return UserError(
        "data.task: multi_label: the file names one category a paper, not all of its categories",
        "take arXiv's full snapshot, or a CSV that `arxiv-cls data join` has given the column `categories`",
    )


def build_splits(
    papers: Papers, config: ArxivConfig, texts: _Texts | None = None
) -> tuple[dict[str, SplitPapers], pa.Table, BuildReport]:
    """The build without its files. Empties `papers.table`, so that a large file is not held twice.

    Returns:
        Split name to papers (in hash order, smallest first), the papers outside the label set, and the
        report.

    Raises:
        UserError: a split or a label is without papers.
    """
    merged, merged_away = keep_newest_versions(papers.table)
    names = label_names(config.name, merged["category"], config.labels)
    labels, every = _labels_of(merged, names, config.task)
    inside = labels >= 0
    held = ~inside if texts is None else ~inside & (texts.hashes(merged["arxiv_id"]) < texts.share)
    # Only the columns and rows that go on: the table of the whole file is freed. In one chunk, since
    # taking rows from many is several times slower.
    columns = ["title", "abstract", "arxiv_id", "published", "category"]
    outside = merged.select(columns).filter(pa.array(held))
    if "categories" in merged.column_names:
        lengths = pc.list_value_length(merged["categories"])
        if (pc.max(lengths).as_py() or 0) > 1:  # else the file says no more than the label
            columns.append("categories")
    if every is not None:
        if "categories" not in columns:
            raise _no_categories()
        every = every.filter(pa.array(inside))
    labels, papers.table = labels[inside], papers.table.schema.empty_table()
    # In two steps, each of which lets go of what it copied. Arrow's own pools keep what was freed, in pieces
    # that the next large copy does not fit into; the system's gives it back.
    pa.default_memory_pool().release_unused()
    pool = pa.system_memory_pool()
    merged = pc.filter(merged.select(columns), pa.array(inside), memory_pool=pool)
    merged = merged.combine_chunks(memory_pool=pool)
    base_ids = merged["arxiv_id"].to_pylist()
    positions = split_positions(base_ids, config.seed)
    if config.split == "paper":
        splits = split_by_paper(positions, config.ratios)
    else:
        published = np.asarray(merged["published"]).astype("datetime64[D]")
        splits = split_by_time(published, parse_time_boundaries(config.time_boundaries))

    duplicates = find_duplicates(merged["title"], merged["abstract"], base_ids, splits)
    keep = np.ones(len(merged), dtype=bool)
    keep[list(duplicates)] = False
    near_duplicates: dict[int, int] = {}
    if config.near_duplicates == "drop":
        places = np.flatnonzero(keep)
        joined = SplitPapers(merged, labels, places).table(slice(None))["text"].to_pylist()
        # Of several reasons to drop a paper the most similar one is reported.
        pairs = sorted(search(joined, splits[places], THRESHOLD), key=lambda pair: pair[2])
        near_duplicates = {int(places[first]): int(places[second]) for first, second, _ in pairs}
        keep[list(near_duplicates)] = False

    used = labels[keep] if every is None else np.asarray(every.filter(pa.array(keep)).flatten())
    present = np.bincount(used, minlength=len(names))
    if absent := [name for name, count in zip(names, present, strict=True) if not count]:
        raise UserError(
            f"no paper of the file has the label {', '.join(absent)} of {config.name}",
            "no model can learn it: take a file with papers of every label, or another data.config",
        )
    order = np.lexsort((np.asarray(base_ids, dtype=object), positions))
    found, counts, left_out = {}, {}, 0
    for number, split in enumerate(SPLITS):
        rows = order[(splits[order] == number) & keep[order]]
        if config.max_samples:
            limit = config.max_samples if split == "train" else config.max_samples // 4
            left_out += max(0, len(rows) - limit)
            rows = rows[:limit]
        if len(rows) == 0:
            raise UserError(
                f"no paper is in the split {split!r} of {config.name} ({len(base_ids):,} papers in all)",
                "take a larger file, another data.config or other data.time_boundaries",
            )
        found[split] = SplitPapers(merged, labels, rows, every)
        counted = np.bincount(labels[rows], minlength=len(names)).tolist()
        counts[split] = dict(zip(names, counted, strict=True))

    def dropped(pairs: dict[int, int]) -> list[DroppedDuplicate]:
        return [
            DroppedDuplicate(base_ids[one], SPLITS[splits[one]], base_ids[other], SPLITS[splits[other]])
            for one, other in sorted(pairs.items())
        ]

    report = BuildReport(
        config=config.name,
        split=config.split,
        seed=config.seed,
        time_boundaries=list(config.time_boundaries) or None,
        rows_read=papers.rows_read,
        rejected=len(papers.rejects),
        rejected_by_reason=papers.rejected_by_reason(),
        rejects_file=None,
        merged=merged_away,
        outside_config=int((~inside).sum()),
        duplicates=dropped(duplicates),
        near_duplicates=dropped(near_duplicates),
        left_out=left_out,
        splits=counts,
        ratios=list(config.ratios) or None,
    )
    return found, outside, report
