"""What the request log says of a text instead of the text itself: the features that drift is seen in."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from arxiv_cls.errors import UserError

_WORD = re.compile(r"\w+")


def text_features(text: str, tokens: int) -> dict[str, Any]:
    """Counts and shares of one text.

    Args:
        text: as it was scored, not blank.
        tokens: how many of them the model read, after truncation.

    Returns:
        characters, words, tokens, mean_word_length (characters), non_ascii_share and digit_share (of the
        characters, 0 to 1), upper_case_share (of the letters), line_breaks.
    """
    words = _WORD.findall(text)
    # One pass in C, then a look at each of the few characters that occur: this thread shares the interpreter
    # with those that answer.
    counts = Counter(text)
    letters = _sum_of(counts, str.isalpha)
    return {
        "characters": len(text),
        "words": len(words),
        "tokens": tokens,
        "mean_word_length": round(sum(map(len, words)) / max(1, len(words)), 3),
        "non_ascii_share": round((len(text) - _sum_of(counts, str.isascii)) / len(text), 5),
        "digit_share": round(_sum_of(counts, str.isdigit) / len(text), 5),
        "upper_case_share": round(_sum_of(counts, str.isupper) / max(1, letters), 5),
        "line_breaks": text.count("\n"),
    }


def _sum_of(counts: Counter[str], belongs: Callable[[str], bool]) -> int:
    return sum(count for character, count in counts.items() if belongs(character))


PREFIX, SUFFIX = "requests-", ".jsonl"
# Lines that wait for a bucket which cannot be reached; what comes after is dropped.
MAX_UNSENT_BYTES = 64 * 1024 * 1024
SECONDS_BETWEEN_TRIES = 10.0


class LogFiles(Protocol):
    """Takes lines; every method may raise what its storage raises.

    Attributes:
        unsafe: lines that were taken and are in memory only.
    """

    unsafe: int

    def probe(self) -> None:
        """Raises when lines could not be kept; costs a call to the storage where that is elsewhere."""

    def write(self, lines: bytes) -> None:
        """Appends whole lines."""

    def rotate_if_due(self) -> None:
        """Starts a new file when the current one is large or old enough."""

    def close(self) -> None:
        """Makes everything that was written durable."""


def open_log_files(target: str, *, rotate_bytes: int, rotate_seconds: float, keep: int) -> LogFiles:
    """The files of a request log.

    Args:
        target: a directory, made when it is not there, or gs://bucket/folder.
        rotate_bytes: size from which a new file starts.
        rotate_seconds: age from which a new file starts.
        keep: newest files kept in a directory, 0 for all; a bucket has its own lifecycle rules.

    Raises:
        UserError: the directory cannot be written, or Google's client is not installed.
    """
    if target.startswith("gs://"):
        return BucketFiles(target, rotate_bytes, rotate_seconds)
    if "://" in target:
        raise UserError(f"serve: --request-log {target}: a directory or gs://bucket/folder")
    return DirectoryFiles(Path(target).expanduser(), rotate_bytes, rotate_seconds, keep)


def _new_name() -> str:
    # Sorted by name is sorted by time; the random end keeps two servers on one target apart.
    return f"{PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}{SUFFIX}"


class DirectoryFiles:
    """Lines in files of a local directory, flushed with each write."""

    unsafe = 0

    def __init__(self, directory: Path, rotate_bytes: int, rotate_seconds: float, keep: int) -> None:
        self.directory, self.keep = directory, keep
        self.rotate_bytes, self.rotate_seconds = rotate_bytes, rotate_seconds
        self._file: BinaryIO | None = None
        self._opened = 0.0
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"serve: --request-log {directory}: {error.strerror}") from None
        if not os.access(directory, os.W_OK):
            raise UserError(f"serve: --request-log {directory}: no permission to write there")

    def probe(self) -> None:
        """The directory was looked at when it was opened."""

    def write(self, lines: bytes) -> None:
        """Appends whole lines, or none of them."""
        if self._file is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is in the file or was refused, it does not come later.
            self._file = (self.directory / _new_name()).open("ab", buffering=0)
            self._opened = time.monotonic()
            self._prune()
        start = self._file.seek(0, os.SEEK_END)
        left = memoryview(lines)
        try:
            while left:
                # A disk that is nearly full takes a part, and refuses the rest only when it is asked again.
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                # Half a line would spoil the file for whoever reads it.
                self._file.truncate(start)
            self.close()
            raise

    def rotate_if_due(self) -> None:
        """Starts a new file when the current one is large or old enough."""
        if self._file is None:
            return
        if self._file.tell() >= self.rotate_bytes or time.monotonic() - self._opened >= self.rotate_seconds:
            self.close()

    def close(self) -> None:
        """Closes the current file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _prune(self) -> None:
        if self.keep:
            for old in sorted(self.directory.glob(f"{PREFIX}*{SUFFIX}"))[: -self.keep]:
                old.unlink(missing_ok=True)


class BucketFiles:
    """Lines in objects of a Google Cloud bucket: an object cannot grow, so each is sent when it is whole."""

    def __init__(self, target: str, rotate_bytes: int, rotate_seconds: float) -> None:
        bucket, _, folder = target.removeprefix("gs://").partition("/")
        if not bucket:
            raise UserError(f"serve: --request-log {target}: gs:// needs the name of a bucket")
        self.folder = folder.strip("/")
        self.rotate_bytes, self.rotate_seconds = rotate_bytes, rotate_seconds
        self._bucket_name = bucket
        self._bucket: Any = None
        self._unsent = bytearray()
        self.unsafe = 0
        self._since = time.monotonic()
        self._next_try = 0.0
        try:
            from google.cloud import storage
        except ImportError:
            raise UserError(
                f"serve: --request-log {target}: Google's storage client is not installed",
                hint='install the extra `gcs`: pip install "arxiv_cls[serve,gcs]"',
            ) from None
        self._storage = storage

    def probe(self) -> None:
        """Asks whether this program may create objects.

        Raises:
            PermissionError: it may not. The client raises its own for a bucket that is not there, for missing
                credentials and for a network that is down.
        """
        create = "storage.objects.create"
        if create not in self._open().test_iam_permissions([create], timeout=30):
            raise PermissionError(f"no permission {create} on gs://{self._bucket_name}")

    def write(self, lines: bytes) -> None:
        """Keeps whole lines for the next object.

        Raises:
            OSError: too much waits already, because the bucket cannot be reached.
        """
        if len(self._unsent) + len(lines) > MAX_UNSENT_BYTES:
            raise OSError(f"{len(self._unsent):,} bytes wait for gs://{self._bucket_name}")
        if not self._unsent:
            self._since = time.monotonic()
        self._unsent += lines
        self.unsafe += lines.count(b"\n")

    def rotate_if_due(self) -> None:
        """Sends what was written when it is large or old enough."""
        now = time.monotonic()
        due = len(self._unsent) >= self.rotate_bytes or now - self._since >= self.rotate_seconds
        if self._unsent and due and now >= self._next_try:
            self._next_try = now + SECONDS_BETWEEN_TRIES
            self._send()
            self._next_try = 0.0

    def close(self) -> None:
        """Sends what was written."""
        if self._unsent:
            self._send()

    def _send(self) -> None:
        name = "/".join(part for part in (self.folder, _new_name()) if part)
        # No retries of the client's own: the lines stay here until the next turn.
        self._open().blob(name).upload_from_string(
            bytes(self._unsent), content_type="application/x-ndjson", timeout=30, retry=None
        )
        self._unsent.clear()
        self.unsafe = 0

    def _open(self) -> Any:
        if self._bucket is None:
            self._bucket = self._storage.Client().bucket(self._bucket_name)
        return self._bucket


logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
QUEUE_RECORDS = 10_000
# A record holds its text until it is written: ten thousand of the longest ones would be gigabytes.
QUEUE_BYTES = 64 * 1024 * 1024
RECORDS_AT_A_TIME = 500
# A log that fails says so once in a while, not once a record.
SECONDS_BETWEEN_WARNINGS = 60.0
SECONDS_BETWEEN_LOOKS = 0.5

Record = Callable[[], dict[str, Any]]


class RequestLog:
    """Takes records without ever blocking and writes them in the background.

    Args:
        files: where the lines go.
        on_dropped: is told (reason, records) when records are lost: "queue_full" or "write_failed".
        on_written: is told the number of records that are safe: on the disk or in the bucket.
        queue_records: records that may wait.
        queue_bytes: of the texts that they hold.
    """

    def __init__(
        self,
        files: LogFiles,
        *,
        on_dropped: Callable[[str, int], Any] = lambda reason, records: None,
        on_written: Callable[[int], Any] = lambda records: None,
        queue_records: int = QUEUE_RECORDS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._files, self._on_dropped, self._on_written = files, on_dropped, on_written
        self._queue: queue.Queue[tuple[Record, int]] = queue.Queue(queue_records)
        self._queue_bytes, self._queued_bytes = queue_bytes, 0
        self._counting = threading.Lock()
        self._ending = threading.Event()
        self._warned = float("-inf")
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, record: Record, size: int = 0) -> None:
        """Queues a record, given as a function that makes it, so that making it costs the request nothing.

        Args:
            record: makes the line.
            size: bytes that it holds until then.
        """
        with self._counting:
            fits = self._queued_bytes + size <= self._queue_bytes
            self._queued_bytes += size if fits else 0
        try:
            if not fits:
                raise queue.Full
            self._queue.put_nowait((record, size))
        except queue.Full:
            self._give_back(size if fits else 0)
            self._on_dropped("queue_full", 1)

    def _give_back(self, size: int) -> None:
        with self._counting:
            self._queued_bytes -= size

    def close(self, timeout: float) -> None:
        """Writes what waits and closes the files.

        Args:
            timeout: seconds to wait for that.
        """
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _work(self) -> None:
        self._guarded(self._files.probe)
        while not (self._ending.is_set() and self._queue.empty()):
            self._guarded(self._files.rotate_if_due)
            records, size = self._take()
            if records:
                self._guarded(lambda taken=records: self._write(taken), len(records))
            self._give_back(size)
        self._guarded(self._files.close, last=True)

    def _take(self) -> tuple[list[Record], int]:
        taken, size = [], 0
        wait = SECONDS_BETWEEN_LOOKS
        with contextlib.suppress(queue.Empty):
            while len(taken) < RECORDS_AT_A_TIME:
                record, held = self._queue.get(timeout=wait) if wait else self._queue.get_nowait()
                taken.append(record)
                size, wait = size + held, 0.0
        return taken, size

    def _write(self, records: list[Record]) -> None:
        lines = [json.dumps(record(), ensure_ascii=False) + "\n" for record in records]
        self._files.write("".join(lines).encode("utf-8", "replace"))

    def _guarded(self, action: Callable[[], Any], records: int = 0, last: bool = False) -> None:
        """Does something with the files, and tells how many records became safe by it, or were lost."""
        waiting = self._files.unsafe + records
        # Whatever a disk or a storage client raises, the answers go on.
        try:
            action()
        except Exception as error:
            lost = waiting if last else records
            if lost:
                self._on_dropped("write_failed", lost)
            if time.monotonic() - self._warned > SECONDS_BETWEEN_WARNINGS:
                self._warned = time.monotonic()
                logger.warning("the request log cannot be written: %s: %s", type(error).__name__, error)
        else:
            if waiting > self._files.unsafe:
                self._on_written(waiting - self._files.unsafe)


def log_record(
    *,
    time_utc: str,
    request_id: str,
    schema: str,
    model: str,
    model_version: str,
    text: str,
    tokens: int,
    prediction: Any,
    milliseconds: float,
    waited_milliseconds: float,
    texts: int,
    with_text: bool,
) -> dict[str, Any]:
    """One line of the request log.

    Args:
        time_utc: ISO time of the answer.
        request_id: the reply's `X-Request-Id`.
        schema: text, inputs, instances or huggingface.
        model: name of the model.
        model_version: its version.
        text: as it was scored.
        tokens: that the model read.
        prediction: the `Prediction`.
        milliseconds: from the acceptance of the request to its answer.
        waited_milliseconds: of them, in the queue.
        texts: in the same request.
        with_text: whether the text itself goes into the line.
    """
    line = {
        "schema_version": SCHEMA_VERSION,
        "time": time_utc,
        "request_id": request_id,
        "schema": schema,
        "model": model,
        "model_version": model_version,
        "answered_by": prediction.answered_by,
        "label": prediction.label,
        "score": round(prediction.score, 6),
        "scores": {label: round(score, 6) for label, score in prediction.scores.items()},
        "prediction_set": prediction.prediction_set,
        "in_scope": prediction.in_scope,
        "scope_score": prediction.scope_score,
        "truncated": prediction.truncated,
        "milliseconds": round(milliseconds, 2),
        "waited_milliseconds": round(waited_milliseconds, 2),
        "texts_in_request": texts,
        **text_features(text, tokens),
    }
    return line | ({"text": text} if with_text else {})
