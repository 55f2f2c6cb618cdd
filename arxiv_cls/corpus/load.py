"""The corpus from Python: `from arxiv_cls.corpus import load_arxiv; load_arxiv("top5")`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import pyarrow as pa

from arxiv_cls.corpus.builder import REPORT_FILE, ArxivBuilder
from arxiv_cls.corpus.papers import DataVersion
from arxiv_cls.corpus.report import BuildReport
from arxiv_cls.errors import UserError

DEFAULT_CSV = Path("data/raw/arxiv.csv")


@dataclass
class Corpus:
    """A built corpus and how it came about."""

    splits: datasets.DatasetDict  # train, validation, test
    labels: list[str]
    report: BuildReport
    data: DataVersion
    cache_dir: Path  # holds the Arrow files, report.json and rejects.csv

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
