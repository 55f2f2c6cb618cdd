"""Reads the endpoint's request log as a stream: each file or object once, memory flat, nothing fatal.

Files are read in the order of their names, which begin with their time. What is no line of the log is
counted: `torn` (a file's last line, while it is being written), `foreign` (no JSON object of the log's
schema), `gone` (files that were rotated away meanwhile).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from arxiv_cls.errors import UserError
from arxiv_cls.models.text_features import TEXT_FEATURES
from arxiv_cls.record.storage import file_system, storage_errors
from arxiv_cls.scoring.reference import half_of

SUFFIX = ".jsonl"
HINT = "`arxiv-cls serve MODEL --request-log DIR` writes the log"
# Objects are downloaded together: a bucket answers each after some 50 ms, however small it is.
BYTES_AT_A_TIME = 64 * 1024 * 1024
OBJECTS_AT_A_TIME = 64
# Clocks of servers differ by less where they are kept at all.
SKEW = timedelta(minutes=5).total_seconds()
NAN = float("nan")
# Characters of a request id, of which the endpoint takes 64, and of a version: two tags of the Hub.
LONGEST = 200
# Lines of schema 1 lack the last one.
MARKUP_SHARE = TEXT_FEATURES[-1]
_counts_of = itemgetter(*TEXT_FEATURES[:-1])


class LogRow(NamedTuple):
    """One line of the log."""

    time: float  # when it was answered, seconds since 1970
    request_id: str
    place: int  # of the text in its request; 0 in an old line
    version: str  # of the model; of a cascade it has a "+"
    half: str  # "baseline" or "transformer"
    scores: tuple[float, ...]  # in the order of the labels; empty for a model with other labels
    features: tuple[float, ...]  # in the order of `arxiv_cls.scoring.reference.FEATURES`
    in_scope: float  # 1, 0, or NaN for a model without the rule


class LogReader:
    """The rows of a log; `counts` says what was read and what was no row.

    `target` is a directory, one file, or gs://bucket/prefix; `labels` are the model's. Rows outside `since`
    and `until`, in seconds since 1970, are counted as `outside_period`; a file that changed last before
    `since` is not read.

    Raises:
        UserError: the target cannot be read or holds no log.
    """

    def __init__(
        self, target: str, labels: Sequence[str], since: float | None = None, until: float | None = None
    ) -> None:
        self.target, self.labels, self.since = target, list(labels), since
        self.counts: Counter[str] = Counter()
        self._first = float("-inf") if since is None else since
        self._last = float("inf") if until is None else until
        self._fs, files = listed("--log", target, (SUFFIX,), HINT)
        self._files = {
            name: entry.get("size") or 0 for name, entry in files.items() if self._may_be_inside(entry)
        }
        self._scores_of, self._names = itemgetter(*self.labels), set(self.labels)
        self._latest = float("-inf")
        self._future = datetime.now(UTC).timestamp() + SKEW

    def _may_be_inside(self, entry: dict[str, Any]) -> bool:
        """Whether a file that changed last then can have lines of the period."""
        changed = entry.get("mtime")
        changed = changed.timestamp() if isinstance(changed, datetime) else changed
        return changed is None or changed >= self._first - SKEW

    def __iter__(self) -> Iterator[LogRow]:
        newest = 0.0
        for lines in self._objects() if self.target.startswith("gs://") else self._local_files():
            self.counts["files"] += 1
            self._latest = float("-inf")
            bad = b""
            for line in lines:
                if bad:
                    self.counts["foreign"] += 1
                    bad = b""
                self.counts["bytes"] += len(line)
                try:
                    row = self._row(line)
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                    bad = line
                    continue
                if self._in_period(row.time):
                    self.counts["rows"] += 1
                    if row.time <= self._future:
                        newest = max(newest, row.time)
                    else:
                        # A clock that is ahead makes no version the newest: the rows before say when it was.
                        row = row._replace(time=newest or self._future)
                    yield row
            if bad:
                # The last line of a file that is being written has no end yet.
                self.counts["foreign" if bad.endswith(b"\n") else "torn"] += 1

    def _row(self, line: bytes) -> LogRow:
        content = orjson.loads(line)
        scores = content["scores"]
        values = tuple(map(float, self._scores_of(scores))) if scores.keys() == self._names else ()
        features = tuple(map(float, _counts_of(content)))
        tokens = float(content["tokens"]) / max(1.0, features[1])
        # NaN compares false, infinity is too large.
        if values and not 0.98 < sum(values) < 1.02:
            raise ValueError("no probabilities")
        if not (min(features) >= 0 and 0 <= sum(features) + tokens < 1e12):
            raise ValueError("no counts")
        share, in_scope = content.get(MARKUP_SHARE), content.get("in_scope")
        if share is not None and not 0 <= share <= 1:
            raise ValueError("no share")
        time = datetime.fromisoformat(content["time"]).timestamp()
        names = request_id, version = str(content["request_id"]), str(content["model_version"])
        # Control characters would reach a terminal, or the log of a program that reads commands there.
        if time < 0 or max(map(len, names)) > LONGEST or not "".join(names).isprintable():
            raise ValueError("no time or no names")
        return LogRow(
            time=time,
            request_id=request_id,
            place=int(content.get("index", 0)),
            version=version,
            half=half_of(content["answered_by"]),
            scores=values,
            features=(*features, NAN if share is None else share, NAN if content["truncated"] else tokens),
            in_scope=NAN if in_scope is None else float(in_scope),
        )

    def _in_period(self, time: float) -> bool:
        if time > self._future:
            self.counts["in_the_future"] += 1
        if time < self._latest - SKEW:
            self.counts["out_of_order"] += 1
        self._latest = max(self._latest, time)
        if self._first <= time <= self._last:
            return True
        self.counts["outside_period"] += 1
        return False

    def _local_files(self) -> Iterator[Iterator[bytes]]:
        for name in self._files:
            with reading(f"--log {name}"):
                try:
                    file = self._fs.open(name, "rb")
                except FileNotFoundError:
                    self.counts["gone"] += 1
                    continue
            with file:
                yield iter(file)

    def _objects(self) -> Iterator[Iterator[bytes]]:
        least = BYTES_AT_A_TIME // OBJECTS_AT_A_TIME
        ends = accumulate(max(least, size) for size in self._files.values())
        for _, group in groupby(zip(self._files, ends, strict=True), lambda item: item[1] // BYTES_AT_A_TIME):
            names = [name for name, _ in group]
            with reading(f"--log {self.target}"):
                contents = self._fs.cat(names, on_error="return")
            for name in names:
                content = contents[name]
                if isinstance(content, FileNotFoundError):
                    self.counts["gone"] += 1
                    continue
                with reading(f"--log gs://{name}"):
                    if isinstance(content, Exception):
                        raise content
                yield iter(content.splitlines(keepends=True))


def reading(target: str, done: str = "read") -> AbstractContextManager[None]:
    """`storage_errors` with the exit status 2: 3 is an alarm."""
    return storage_errors(target, done, exit_code=2)


def listed(option: str, target: str, suffixes: tuple[str, ...], hint: str) -> tuple[Any, dict[str, Any]]:
    """The file system, and {name: its entry} in the order of the names without their folder.

    `target` is a directory or gs://bucket/prefix, below which files with a suffix count, or one file.
    """
    if "://" in target and not target.startswith(("gs://", "file://")):
        raise UserError(f"{option} {target}: a directory, a file or gs://bucket/prefix")
    with reading(f"{option} {target}"):
        filesystem, path = file_system(target, exit_code=2)
        found = filesystem.find(path, detail=True)
    files = {
        name: entry
        for name, entry in sorted(found.items(), key=lambda item: (item[0].rsplit("/", 1)[-1], item[0]))
        if name.endswith(suffixes) or name == path
    }
    if not files:
        raise UserError(f"{option} {target}: no file *{' or *'.join(suffixes)} there", hint=hint)
    return filesystem, files
