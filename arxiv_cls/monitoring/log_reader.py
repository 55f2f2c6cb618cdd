"""Reads the endpoint's request log as a stream: each file or object once, memory flat, nothing fatal.

Files are read in the order of their names, which begin with their time. What is no line of the log is
counted: `torn` (a file's last line, while it is being written), `foreign` (no JSON object of the log's
schema, or other labels), `gone` (files that were rotated away meanwhile).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple

from arxiv_cls.errors import UserError
from arxiv_cls.models.text_features import TEXT_FEATURES
from arxiv_cls.scoring.reference import half_of

SUFFIX = ".jsonl"
# Objects that are downloaded together: a bucket answers each after some 50 ms, however small it is.
OBJECTS_AT_A_TIME = 64
BYTES_AT_A_TIME = 64 * 1024 * 1024
# Clocks of servers differ by less where they are kept at all.
SKEW = timedelta(minutes=5)
NAN = float("nan")
# Lines of schema 1 lack the last one.
MARKUP_SHARE = TEXT_FEATURES[-1]
_decode = json.JSONDecoder().raw_decode
_counts_of = itemgetter(*TEXT_FEATURES[:-1])

logger = logging.getLogger(__name__)


class LogRow(NamedTuple):
    """One line of the log.

    Attributes:
        time: when it was answered, seconds since 1970.
        request_id, place: name the text; the place of an old line is 0.
        version: of the model; of a cascade it has a "+".
        half: "baseline" or "transformer".
        scores: in the order of the labels.
        features: in the order of `arxiv_cls.scoring.reference.FEATURES`.
        in_scope: 1, 0, or NaN for a model without the rule.
    """

    time: float
    request_id: str
    place: int
    version: str
    half: str
    scores: tuple[float, ...]
    features: tuple[float, ...]
    in_scope: float


class LogReader:
    """The rows of a log; `counts` says what was read and what was no row.

    Args:
        target: a directory, one file, or gs://bucket/prefix.
        labels: the model's.
        since, until: seconds since 1970; rows outside are counted as `outside_period`.

    Raises:
        UserError: the target cannot be read or holds no log.
    """

    def __init__(
        self,
        target: str,
        labels: Sequence[str],
        since: float | None = None,
        until: float | None = None,
    ) -> None:
        self.target, self.labels = target, list(labels)
        self._since = float("-inf") if since is None else since
        self._until = float("inf") if until is None else until
        self.counts: Counter[str] = Counter()
        self._files = _Files(target)
        self._scores_of = itemgetter(*self.labels)
        self._latest = float("-inf")
        self._future = (datetime.now(UTC) + SKEW).timestamp()

    def __iter__(self) -> Iterator[LogRow]:
        for lines in self._files.each(self.counts):
            self._latest = float("-inf")
            torn = None
            for line in lines:
                if torn is not None:
                    self.counts["foreign"] += 1
                    torn = None
                self.counts["lines"] += 1
                try:
                    row = self._row(line)
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                    torn = line
                    continue
                if row is not None:
                    self.counts["rows"] += 1
                    yield row
            if torn is not None:
                # The last line of a file that is being written has no end yet.
                self.counts["foreign" if torn.endswith(b"\n") else "torn"] += 1

    def _row(self, line: bytes) -> LogRow | None:
        text = line.decode()
        content, end = _decode(text)
        if text[end:].strip():
            raise ValueError("more than an object")
        time = datetime.fromisoformat(content["time"]).timestamp()
        scores = content["scores"]
        if len(scores) != len(self.labels):
            raise ValueError("other labels")
        values = tuple(map(float, self._scores_of(scores)))
        features = tuple(map(float, _counts_of(content)))
        tokens = float(content["tokens"]) / max(1.0, features[1])
        # NaN compares false, infinity is too large.
        if not (0.98 < sum(values) < 1.02 and min(features) >= 0 and 0 <= sum(features) + tokens < 1e12):
            raise ValueError("no probabilities, or no counts")
        share = content.get(MARKUP_SHARE)
        markup = NAN if share is None else float(share)
        if share is not None and not 0 <= markup <= 1:
            raise ValueError("no share")
        in_scope = content.get("in_scope")
        row = LogRow(
            time=time,
            request_id=str(content["request_id"]),
            place=int(content.get("index", 0)),
            version=str(content["model_version"]),
            half=half_of(content["answered_by"]),
            scores=values,
            features=(*features, markup, NAN if content["truncated"] else tokens),
            in_scope=NAN if in_scope is None else float(in_scope),
        )
        if time > self._future:
            self.counts["in_the_future"] += 1
        if time < self._latest - SKEW.total_seconds():
            self.counts["out_of_order"] += 1
        self._latest = max(self._latest, time)
        if not self._since <= time <= self._until:
            self.counts["outside_period"] += 1
            return None
        return row


class _Files:
    """The files of a directory or a bucket, in the order of their names."""

    def __init__(self, target: str) -> None:
        import fsspec

        if "://" in target and not target.startswith(("gs://", "file://")):
            raise UserError(f"--log {target}: a directory, a file or gs://bucket/prefix")
        try:
            self._fs, path = fsspec.core.url_to_fs(target.rstrip("/") or "/")
        except ImportError:
            hint = 'install the extra `monitor`: pip install "arxiv_cls[monitor]"'
            raise UserError(f"--log {target}: gcsfs is not installed", hint=hint) from None
        self._local = not target.startswith("gs://")
        found: dict[str, Any] = self._reached(target, lambda: self._fs.find(path, detail=True))
        files = {
            name: entry.get("size") or 0
            for name, entry in found.items()
            if name.endswith(SUFFIX) or name == path
        }
        if not files:
            raise UserError(
                f"--log {target}: no file *{SUFFIX} there",
                hint="`arxiv-cls serve MODEL --request-log DIR` writes the log",
            )
        self._files = sorted(files.items(), key=lambda item: (item[0].rsplit("/", 1)[-1], item[0]))

    @staticmethod
    def _reached(target: str, act: Any) -> Any:
        try:
            return act()
        except Exception as error:
            # Every storage client has errors of its own for credentials, networks and names.
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--log {target}: cannot be read: {type(error).__name__}: {reason}") from error

    def each(self, counts: Counter[str]) -> Iterator[Iterator[bytes]]:
        """The lines of each file; a file that is gone is counted."""
        for name, size in self._files if self._local else ():
            try:
                with self._fs.open(name, "rb") as file:
                    counts["files"] += 1
                    counts["bytes"] += size
                    yield iter(file)
            except FileNotFoundError:
                counts["gone"] += 1
        for batch in () if self._local else self._batches():
            contents = self._reached(batch[0], lambda batch=batch: self._fs.cat(batch, on_error="return"))
            for name in batch:
                content = contents[name]
                if isinstance(content, FileNotFoundError):
                    counts["gone"] += 1
                    continue
                if isinstance(content, Exception):
                    raise UserError(f"gs://{name} cannot be read: {type(content).__name__}: {content}")
                counts["files"] += 1
                counts["bytes"] += len(content)
                yield iter(content.splitlines(keepends=True))

    def _batches(self) -> Iterator[list[str]]:
        batch: list[str] = []
        size = 0
        for name, of_file in self._files:
            if batch and (len(batch) >= OBJECTS_AT_A_TIME or size + of_file > BYTES_AT_A_TIME):
                yield batch
                batch, size = [], 0
            batch.append(name)
            size += of_file
        if batch:
            yield batch
