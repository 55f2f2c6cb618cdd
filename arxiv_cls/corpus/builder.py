"""The `datasets` builder: from the CSV to three Arrow splits, columnar all the way.

The cache is keyed by the sha256 of the file and by every option, never by the path: an edited file is never
answered with old rows, and a moved one is not built again. `VERSION` goes up whenever this code would build
something else from the same file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa

from arxiv_cls.corpus.assembly import build_splits
from arxiv_cls.corpus.csv_reading import read_bytes
from arxiv_cls.corpus.labels import CONFIGS
from arxiv_cls.corpus.near_duplicates import method
from arxiv_cls.corpus.papers import Papers, read_papers, write_rejects
from arxiv_cls.corpus.splits import parse_time_boundaries
from arxiv_cls.errors import UserError

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
        keyed = dict(options)
        if near_duplicates == "drop":
            # Named only here, so that builds from before there was a choice are found again.
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
        tables, report = build_splits(papers, self.config)
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
