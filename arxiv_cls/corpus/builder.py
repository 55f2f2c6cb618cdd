"""What a build did with every row of the CSV."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arxiv_cls.corpus.csv_reader import read_bytes
from arxiv_cls.corpus.duplicates import THRESHOLD, find_duplicates, method, search
from arxiv_cls.corpus.labels import CONFIGS, label_indices, label_names
from arxiv_cls.corpus.outside import OUTSIDE_FILE, OutsidePapers, outside_table, read_outside, write_outside
from arxiv_cls.corpus.papers import DataVersion, Papers, keep_newest_versions, read_papers, write_rejects
from arxiv_cls.corpus.splits import (
    SPLITS,
    parse_time_boundaries,
    split_by_paper,
    split_by_time,
    split_positions,
)
from arxiv_cls.errors import UserError


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
    left_out: int  # by max_samples
    splits: dict[str, dict[str, int]]  # split to label to papers
    near_duplicates: list[DroppedDuplicate] = field(default_factory=list)  # with data.near_duplicates: drop

    @property
    def papers(self) -> int:
        """Papers in all splits."""
        return sum(sum(labels.values()) for labels in self.splits.values())

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

    def split_sizes(self) -> dict[str, int]:
        """Papers per split."""
        return {split: sum(labels.values()) for split, labels in self.splits.items()}

    def to_dict(self) -> dict:
        """As JSON can hold it, with the sums that a reader wants."""
        return {**asdict(self), "papers": self.papers, "split_sizes": self.split_sizes()}

    @classmethod
    def from_dict(cls, values: dict) -> BuildReport:
        """The inverse of `to_dict`."""
        # A report from before near-duplicates could be dropped does not name them.
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in ("duplicates", "near_duplicates"):
            fields[name] = [DroppedDuplicate(**duplicate) for duplicate in values.get(name, [])]
        return cls(**fields)

    def save(self, path: Path, **more: object) -> None:
        """Writes the report as JSON, `more` beside it."""
        path.write_text(json.dumps({"report": self.to_dict(), **more}, indent=2) + "\n", encoding="utf-8")

    def summary(self) -> str:
        """For a terminal: what happened to the rows, then a table of papers per split and label."""
        lines = [f"{self.rows_read:>9,} rows read"]
        lines.append(
            f"{self.rejected:>9,} rejected" + (f", see {self.rejects_file}" if self.rejected else "")
        )
        lines += [f"{count:>13,} {reason}" for reason, count in self.rejected_by_reason.items()]
        lines.append(f"{self.merged:>9,} merged into a newer version of the same paper")
        lines.append(f"{self.outside_config:>9,} outside the label set {self.config}")
        lines.append(f"{len(self.duplicates):>9,} duplicates dropped")
        lines += self._where(self.duplicates, "same text")
        if self.near_duplicates:
            lines.append(f"{len(self.near_duplicates):>9,} near-duplicates dropped")
            lines += self._where(self.near_duplicates, "almost the same text")
        if self.left_out:
            lines.append(f"{self.left_out:>9,} left out by max_samples")
        how = f"by paper, seed {self.seed}" if self.split == "paper" else "by time"
        if self.time_boundaries:
            how += f": validation from {self.time_boundaries[0]}, test from {self.time_boundaries[1]}"
        lines += [f"{self.papers:>9,} papers, split {how}", "", *self._table()]
        return "\n".join(lines)

    def _where(self, dropped: list[DroppedDuplicate], what: str) -> list[str]:
        where = Counter((duplicate.split, duplicate.same_as_split) for duplicate in dropped)
        return [f"{n:>13,} from {a}, {what} in {b}" for (a, b), n in sorted(where.items())]

    def _table(self) -> list[str]:
        """Papers per label (rows) and split (columns), with sums."""
        splits = list(self.splits)
        labels = list(next(iter(self.splits.values()), {}))
        width = max([5, *map(len, labels)])
        rows = [f"{'label':<{width}}" + "".join(f"{split:>12}" for split in splits)]
        for label in labels:
            rows.append(f"{label:<{width}}" + "".join(f"{self.splits[s][label]:>12,}" for s in splits))
        rows.append(f"{'all':<{width}}" + "".join(f"{size:>12,}" for size in self.split_sizes().values()))
        return rows


def build_splits(papers: Papers, config: ArxivConfig) -> tuple[dict[str, pa.Table], pa.Table, BuildReport]:
    """The build without its files. Empties `papers.table`, so that a large file is not held twice.

    Returns:
        Split name to table (columns of the features, label int64; in hash order, smallest first), the
        `outside_table`, and the report.

    Raises:
        UserError: a split would be empty.
    """
    merged, merged_away = keep_newest_versions(papers.table)
    names = label_names(config.name, merged["category"])
    labels = label_indices(config.name, names, merged["category"])
    inside = labels >= 0
    outside = np.flatnonzero(~inside)
    others = merged.select(["arxiv_id", "published"]).take(pa.array(outside))
    kept_outside = outside_table(merged, outside, *_positions_and_splits(others, config))
    # Only the columns and rows that go on: the table of the whole file is let go of. In one chunk, since
    # taking rows from many is several times slower.
    merged = merged.select(["title", "abstract", "arxiv_id", "published"]).filter(pa.array(inside))
    merged = merged.combine_chunks()
    labels, papers.table = labels[inside], papers.table.slice(0, 0)
    base_ids = merged["arxiv_id"].to_pylist()
    positions, splits = _positions_and_splits(merged, config)

    duplicates = find_duplicates(merged["title"], merged["abstract"], base_ids, splits)
    keep = np.ones(len(merged), dtype=bool)
    keep[[duplicate.dropped for duplicate in duplicates]] = False

    near_duplicates = []
    if config.near_duplicates == "drop":
        near_duplicates = _drop_near_duplicates(merged, base_ids, splits, keep)

    order = np.lexsort((np.asarray(base_ids, dtype=object), positions))
    tables, counts, left_out = {}, {}, 0
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
        tables[split] = _features(merged.take(pa.array(rows)), labels[rows])
        counted = np.bincount(labels[rows], minlength=len(names)).tolist()
        counts[split] = dict(zip(names, counted, strict=True))
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
        outside_config=len(outside),
        duplicates=[
            DroppedDuplicate(
                base_ids[d.dropped], SPLITS[splits[d.dropped]], base_ids[d.kept], SPLITS[splits[d.kept]]
            )
            for d in duplicates
        ],
        left_out=left_out,
        splits=counts,
        near_duplicates=near_duplicates,
    )
    return tables, kept_outside, report


def _positions_and_splits(papers: pa.Table, config: ArxivConfig) -> tuple[np.ndarray, np.ndarray]:
    """The hash of each paper, which gives the order, and the number of its split."""
    positions = split_positions(papers["arxiv_id"].to_pylist(), config.seed)
    if config.split == "paper":
        return positions, split_by_paper(positions)
    published = np.asarray(papers["published"]).astype("datetime64[D]")
    return positions, split_by_time(published, parse_time_boundaries(config.time_boundaries))


def _drop_near_duplicates(
    papers: pa.Table, base_ids: list[str], splits: np.ndarray, keep: np.ndarray
) -> list[DroppedDuplicate]:
    """Takes the copy that is further from the test split out of `keep`, and says which and why."""
    places = np.flatnonzero(keep)
    kept = papers.select(["title", "abstract"]).take(pa.array(places))
    texts = pc.binary_join_element_wise(kept["title"], kept["abstract"], "\n\n").to_pylist()
    # Of several reasons to drop a paper the most similar one is told.
    pairs = sorted(search(texts, splits[places], THRESHOLD), key=lambda pair: pair[2])
    reasons = {int(places[first]): int(places[second]) for first, second, _ in pairs}
    keep[list(reasons)] = False
    return [
        DroppedDuplicate(base_ids[dropped], SPLITS[splits[dropped]], base_ids[same], SPLITS[splits[same]])
        for dropped, same in sorted(reasons.items())
    ]


def _features(papers: pa.Table, labels: np.ndarray) -> pa.Table:
    """The columns of the features, in their order."""
    return pa.table(
        {
            "text": pc.binary_join_element_wise(papers["title"], papers["abstract"], "\n\n"),
            "title": papers["title"],
            "abstract": papers["abstract"],
            "label": pa.array(labels, type=pa.int64()),
            "arxiv_id": papers["arxiv_id"],
            "published": papers["published"],
        }
    )


MAXIMUM_REJECTED = 0.02  # share of the rows
REPORT_FILE, REJECTS_FILE = "report.json", "rejects.csv"

_BATCH = 2000  # papers per Arrow record batch
_SHOWN = 5  # rejects in an error message


@dataclass
class ArxivConfig(datasets.BuilderConfig):
    """Everything that decides what is built; all of it is in the cache key."""

    sha256: str = ""  # of the CSV
    split: str = "paper"  # "paper" or "time"
    seed: int = 42
    time_boundaries: tuple[str, ...] = ()  # ISO dates, for "time"
    near_duplicates: str = "keep"  # or "drop"
    max_samples: int = 0  # papers to train on, 0 for all


class ArxivBuilder(datasets.ArrowBasedBuilder):
    """Builds the splits of one config from one CSV.

    Args:
        csv: the file.
        config: a key of `CONFIGS`.
        split: "paper" or "time".
        seed: seed of the split by paper and of the order of papers.
        time_boundaries: first day of validation and first day of test, ISO; None for the defaults.
        near_duplicates, max_samples: see `build_corpus`.
        cache_dir: where to build; None for the cache of `datasets`.

    Raises:
        UserError: an unknown option, or the file cannot be read.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ArxivConfig
    BUILDER_CONFIGS: ClassVar = [
        ArxivConfig(name=name, version=datasets.Version("1.0.0"), description=text)
        for name, text in CONFIGS.items()
    ]

    def __init__(
        self,
        csv: str | Path,
        config: str = "top5",
        *,
        split: str = "paper",
        seed: int = 42,
        time_boundaries: list[str] | None = None,
        near_duplicates: str = "keep",
        max_samples: int | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        if config not in CONFIGS:
            raise UserError(f"data.config: {config!r} is unknown", f"one of {', '.join(CONFIGS)}")
        if split not in ("paper", "time"):
            raise UserError(f"data.split: {split!r} is unknown", "one of paper, time")
        if split == "paper" and time_boundaries is not None:
            raise UserError("data.time_boundaries: only for data.split: time", "leave it out")
        if near_duplicates not in ("keep", "drop"):
            raise UserError(f"data.near_duplicates: {near_duplicates!r} is unknown", "one of keep, drop")
        if max_samples is not None and max_samples < 4:
            raise UserError(
                f"data.max_samples: {max_samples} is too few",
                "at least 4: validation and test get a quarter of it each",
            )
        boundaries = tuple(str(day) for day in parse_time_boundaries(time_boundaries)) * (split == "time")
        self.csv = Path(csv)
        # Kept for the build, which would read and hash the file a second time.
        self._data: bytes | None = read_bytes(self.csv)
        options: dict[str, Any] = {
            "sha256": hashlib.sha256(self._data).hexdigest(),
            "split": split,
            "seed": seed,
            "time_boundaries": boundaries,
            "max_samples": max_samples or 0,
        }
        # Counted up when a build leaves other files, so that an older one in the cache is not taken for it.
        keyed = {**options, "layout": 2}
        if near_duplicates == "drop":
            options["near_duplicates"] = near_duplicates
            keyed["near_duplicates"] = method()
        key = hashlib.sha256(json.dumps(keyed, sort_keys=True).encode()).hexdigest()[:16]
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name="arxiv",
            config_name=config,
            config_id=f"{config}-{key}",
            **options,
        )

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
        papers = read_papers(self.csv, data=data, sha256=self.config.sha256 if data else None)
        del data
        if papers.version.sha256 != self.config.sha256:
            raise UserError(f"{self.csv}: the file changed while it was read", "run it again")
        self._refuse_too_many_rejects(papers)
        tables, outside, report = build_splits(papers, self.config)
        names = list(report.splits["train"])
        self.info.features = datasets.Features(
            {
                "text": datasets.Value("string"),
                "title": datasets.Value("string"),
                "abstract": datasets.Value("string"),
                "label": datasets.ClassLabel(names=names),
                "arxiv_id": datasets.Value("string"),
                "published": datasets.Value("date32"),
            }
        )
        write_rejects(papers.rejects, output / REJECTS_FILE)
        write_outside(outside, output / OUTSIDE_FILE)
        report.rejects_file = REJECTS_FILE if papers.rejects else None
        report.save(output / REPORT_FILE, data=asdict(papers.version))
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"table": table}) for name, table in tables.items()
        ]

    def _generate_tables(self, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        for number, start in enumerate(range(0, len(table), _BATCH)):
            yield number, table.slice(start, _BATCH)

    def _refuse_too_many_rejects(self, papers: Papers) -> None:
        """More than 2 % unusable rows mean that the file is not what it should be."""
        rejected = len(papers.rejects)
        if papers.rows_read == 0:
            raise UserError(f"{self.csv}: a header and no rows", "get the data with `make data`")
        if rejected <= MAXIMUM_REJECTED * papers.rows_read:
            return
        path = Path(self._cache_dir_root) / f"rejects-{self.config.sha256[:16]}.csv"
        write_rejects(papers.rejects, path)
        first = [
            f"    line {r.line}: {f'{r.column}: ' if r.column else ''}{r.reason}: {r.value!r}"
            for r in papers.rejects[:_SHOWN]
        ]
        raise UserError(
            f"{self.csv}: {rejected:,} of {papers.rows_read:,} rows cannot be used "
            f"({rejected / papers.rows_read:.1%}, at most {MAXIMUM_REJECTED:.0%} may be); the first ones:\n"
            + "\n".join(first),
            f"all of them are listed in {path}",
        )


DEFAULT_CSV = Path("data/raw/arxiv.csv")


@dataclass
class Corpus:
    """A built corpus and how it came about."""

    splits: datasets.DatasetDict  # train, validation, test
    labels: list[str]
    report: BuildReport
    data: DataVersion
    cache_dir: Path  # holds the Arrow files, report.json and rejects.csv

    @property
    def outside(self) -> OutsidePapers:
        """Papers of the file without a label, read from what the build left."""
        return read_outside(self.cache_dir / OUTSIDE_FILE)

    def report_line(self) -> str:
        """What became of the rows of the file, and where the whole report is: for the log of a training."""
        return f"{self.report.line()}; report: {self.cache_dir / REPORT_FILE}"


def load_arxiv(
    config: str = "top5",
    *,
    csv: str | Path | None = None,
    split: str = "paper",
    seed: int = 42,
    time_boundaries: list[str] | None = None,
    near_duplicates: str = "keep",
    max_samples: int | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.DatasetDict:
    """The splits train, validation and test; see `build_corpus` for the arguments and errors.

    Each has the features text (title, blank line, abstract), title, abstract, label (`ClassLabel` of category
    codes), arxiv_id (base id) and published (date), and is in hash order.
    """
    return build_corpus(
        config,
        csv=csv,
        split=split,
        seed=seed,
        time_boundaries=time_boundaries,
        near_duplicates=near_duplicates,
        max_samples=max_samples,
        cache_dir=cache_dir,
    ).splits


def build_corpus(
    config: str = "top5",
    *,
    csv: str | Path | None = None,
    split: str = "paper",
    seed: int = 42,
    time_boundaries: list[str] | None = None,
    near_duplicates: str = "keep",
    max_samples: int | None = None,
    cache_dir: str | Path | None = None,
) -> Corpus:
    """Builds the corpus from the CSV, or takes it from the cache, with the report of the build.

    Args:
        config: label set: top5, top10, top20, archive or all.
        csv: the file; `data/raw/arxiv.csv` by default.
        split: "paper" (70 / 15 / 15 by hash of the base id) or "time" (train before, test after a date).
        seed: seed of the hash.
        time_boundaries: ISO dates `[from_validation, from_test]` for "time"; None for those of `splits`.
        near_duplicates: "drop" leaves out the papers of training that have a near-duplicate in validation or
            test, and those of validation that have one in test; "keep" keeps them.
        max_samples: N takes the first N training papers in hash order, and of validation and test at most
            N // 4 each; the label set stays.
        cache_dir: None for the cache of `datasets` (`HF_DATASETS_CACHE`).

    Raises:
        UserError: the file cannot be read or used, an option is wrong, or the cache cannot be written.
    """
    path = DEFAULT_CSV if csv is None else Path(csv)
    try:
        builder = ArxivBuilder(
            path,
            config,
            split=split,
            seed=seed,
            time_boundaries=time_boundaries,
            near_duplicates=near_duplicates,
            max_samples=max_samples,
            cache_dir=cache_dir,
        )
        with _progress_on_terminals_only():
            builder.download_and_prepare(verification_mode="no_checks")
        # Arrow keeps what the build has freed, some 240 MB on 136,238 rows, and a training in this process
        # would need its memory on top.
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
    report = BuildReport.from_dict(record["report"])
    if report.rejects_file:
        report.rejects_file = str(home / report.rejects_file)
    return Corpus(
        splits=builder.as_dataset(),
        labels=list(builder.info.features["label"].names),
        report=report,
        # The same content may have been built from another path.
        data=replace(DataVersion(**record["data"]), csv=str(path)),
        cache_dir=home,
    )


@contextlib.contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    """The bars of `datasets` are of use to a person who waits, and noise in a log file."""
    silence = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if silence:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if silence:
            datasets.enable_progress_bars()
