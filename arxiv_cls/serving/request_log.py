"""The request log: a JSON line per scored text, written by a thread of its own that never delays an answer.

A new field is a line in `log_line`; what it can be made of are the attributes of `ScoredText`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

import prometheus_client

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText, Prediction
from arxiv_cls.models.text_features import text_features
from arxiv_cls.record.storage import writable_directory
from arxiv_cls.serving.batching import Job
from arxiv_cls.serving.schemas import ServedModel
from arxiv_cls.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

# 2: `index`, the place of a text in its request, and `markup_share`. Readers take lines without them.
SCHEMA_VERSION = 2


class ScoredText(NamedTuple):
    """What is known of one text when its answer goes out: `answer` and `seconds` are of its whole request."""

    time: datetime
    request_id: str
    index: int
    schema: str
    model: ServedModel
    encoded: EncodedText
    prediction: Prediction
    answer: Job
    seconds: float


def log_line(scored: ScoredText, with_text: bool) -> dict[str, Any]:
    """One line of the request log; it holds the text itself only on request."""
    prediction, answer, text = scored.prediction, scored.answer, scored.encoded.text
    line = {
        "schema_version": SCHEMA_VERSION,
        "time": scored.time.isoformat(timespec="milliseconds"),
        "request_id": scored.request_id,
        "index": scored.index,
        "schema": scored.schema,
        "model": scored.model.name,
        "model_version": scored.model.version,
        "answered_by": prediction.answered_by,
        "label": prediction.label,
        "score": round(prediction.score, 6),
        "scores": {label: round(score, 6) for label, score in prediction.scores.items()},
        "prediction_set": prediction.prediction_set,
        "in_scope": prediction.in_scope,
        "scope_score": prediction.scope_score,
        "truncated": prediction.truncated,
        "milliseconds": round(scored.seconds * 1000, 2),
        "waited_milliseconds": round(answer.waited * 1000, 2),
        "texts_in_request": len(answer.predictions),
        "tokens": scored.encoded.tokens,
        **text_features(text),
    }
    return line | ({"text": text} if with_text else {})


QUEUE_RECORDS = 10_000
# A record holds its text until it is written: ten thousand of the longest ones would be gigabytes.
QUEUE_BYTES = 64 * 1024 * 1024
RECORDS_AT_A_TIME = 500
SECONDS_BETWEEN_CHECKS = 0.5
# A failing log warns once in a while, not once a record.
SECONDS_BETWEEN_WARNINGS = 60.0


class RequestLog:
    """Takes records without ever blocking and writes them in the background.

    `outcomes` counts records as "written" (on the disk or in the bucket), "queue_full" or "write_failed".
    """

    def __init__(self, settings: ServingSettings, outcomes: prometheus_client.Counter) -> None:
        self.files = LogFiles(settings, keep=settings.request_log_keep)
        self._with_text = settings.request_log_texts
        self._outcomes = outcomes.labels
        self._records: deque[ScoredText] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._ending, self._end = False, 0.0
        self._next_warning = 0.0
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def add(self, record: ScoredText) -> None:
        """Queues a record; its line is made by the thread, so that it costs the request nothing."""
        size = sys.getsizeof(record.encoded.text)
        with self._changed:
            if len(self._records) < QUEUE_RECORDS and self._queued_bytes + size <= QUEUE_BYTES:
                self._records.append(record)
                self._queued_bytes += size
                self._changed.notify()
                return
        self._outcomes("queue_full").inc()

    def close(self, timeout: float) -> None:
        """Writes what waits and closes the files, within so many seconds."""
        with self._changed:
            self._ending, self._end = True, time.monotonic() + timeout
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)
            if self._thread.is_alive():
                lost = self.files.unsafe + len(self._records)
                logger.warning("the request log was not written in time: %d lines are lost", lost)

    def _work(self) -> None:
        self._guarded(self.files.probe)
        while not self._ending or self._records:
            self._guarded(self.files.rotate_if_due)
            with self._changed:
                self._changed.wait_for(lambda: self._records or self._ending, SECONDS_BETWEEN_CHECKS)
                count = min(len(self._records), RECORDS_AT_A_TIME)
                records = [self._records.popleft() for _ in range(count)]
            if records:
                self._guarded(lambda taken=records: self._write(taken), count)
                with self._changed:
                    self._queued_bytes -= sum(sys.getsizeof(record.encoded.text) for record in records)
        # A bucket that refuses is asked again while there is time.
        while self.files.unsafe and time.monotonic() < self._end - 2 * SECONDS_BETWEEN_CHECKS:
            self._guarded(self.files.close)
            if self.files.unsafe:
                time.sleep(SECONDS_BETWEEN_CHECKS)
        self._guarded(self.files.close, last=True)

    def _write(self, records: list[ScoredText]) -> None:
        # ASCII: a text's own line separators (U+0085, U+2028) are escaped, so that no reader splits there.
        lines = [json.dumps(log_line(record, self._with_text)) + "\n" for record in records]
        self.files.write("".join(lines).encode("ascii"))

    def _guarded(self, action: Callable[[], Any], records: int = 0, last: bool = False) -> None:
        """Does something with the files, and counts the records that became safe by it, or were lost."""
        waiting = self.files.unsafe + records
        # Whatever a disk or a storage client raises, the answers go on.
        try:
            action()
        except Exception as error:
            self._outcomes("write_failed").inc(waiting if last else records)
            if time.monotonic() >= self._next_warning:
                self._next_warning = time.monotonic() + SECONDS_BETWEEN_WARNINGS
                logger.warning("the request log cannot be written: %s: %s", type(error).__name__, error)
        else:
            self._outcomes("written").inc(waiting - self.files.unsafe)


PREFIX, SUFFIX = "requests-", ".jsonl"
# Lines that wait for a bucket which cannot be reached; what comes after is dropped.
MAX_UNSENT_BYTES = 64 * 1024 * 1024
SECONDS_BETWEEN_TRIES = 10.0
# What waits in memory is lost with a killed process; each object costs a reader a request.
MINUTES_OF_A_FILE, MINUTES_OF_AN_OBJECT = 15.0, 1.0


class LogFiles:
    """Files of a directory, which grow with each write; or objects of a bucket, which are sent when whole.

    The newest `request_log_keep` files of a directory stay, 0 keeps all; a bucket has its own rules. `name`
    is the setting that has the target, `prefix` begins the names of files.

    Attributes:
        unsafe: lines that were taken and are in memory only.

    Raises:
        UserError: the directory cannot be written, or Google's client is not installed.
    """

    def __init__(
        self, settings: ServingSettings, name: str = "request_log", prefix: str = PREFIX, keep: int = 0
    ) -> None:
        self._settings, self._prefix, self._keep = settings, prefix, keep
        self.unsafe = 0
        self._size, self._since, self._next_try = 0, 0.0, 0.0
        self._file: BinaryIO | None = None
        self._unsent = bytearray()
        target = str(getattr(settings, name))
        shown = f"serve: --{name.replace('_', '-')} {target}"
        self.objects = Objects(target, shown) if target.startswith("gs://") else None
        self._minutes = settings.request_log_rotate_minutes
        if self._minutes is None:
            self._minutes = MINUTES_OF_AN_OBJECT if self.objects else MINUTES_OF_A_FILE
        if not self.objects:
            self.directory = writable_directory(target, shown)

    def probe(self) -> None:
        """Raises PermissionError when this program may not create objects in the bucket."""
        create = "storage.objects.create"
        # No retries: they would hold up the thread for two minutes while the bucket is away.
        once: dict[str, Any] = {"timeout": 10, "retry": None}
        if self.objects and create not in self.objects.bucket.test_iam_permissions([create], **once):
            raise PermissionError(f"no permission {create} on gs://{self.objects.name}")

    def write(self, lines: bytes) -> None:
        """Appends whole lines, or none of them: OSError when the disk or the memory for a bucket is full."""
        self._since = self._since if self._size else time.monotonic()
        if not self.objects:
            self._append(lines)
        elif self._size + len(lines) > MAX_UNSENT_BYTES:
            raise OSError(f"{self._size:,} bytes wait for gs://{self.objects.name}")
        else:
            self._unsent += lines
            self.unsafe += lines.count(b"\n")
        self._size += len(lines)

    def _append(self, lines: bytes) -> None:
        if self._file is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line is in the file or was refused, it does not come later.
            self._file = (self.directory / self.new_name()).open("ab", buffering=0)
            if self._keep:
                for old in sorted(self.directory.glob(f"{self._prefix}*{SUFFIX}"))[: -self._keep]:
                    old.unlink(missing_ok=True)
        start = self._file.seek(0, os.SEEK_END)
        left = memoryview(lines)
        try:
            while left:
                # A disk that is nearly full takes a part, and refuses the rest only when it is called again.
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                # Half a line would make the file unreadable.
                self._file.truncate(start)
            self.close()
            raise

    def rotate_if_due(self) -> None:
        """Ends the current file, or sends the current object, when it is large or old enough."""
        now, settings = time.monotonic(), self._settings
        large = self._size >= settings.request_log_rotate_mb * 1e6
        due = large or now - self._since >= self._minutes * 60
        if self._size and due and now >= self._next_try:
            self._next_try = now + SECONDS_BETWEEN_TRIES
            self.close()
            self._next_try = 0.0

    def close(self) -> None:
        """Closes the current file, or sends the current object."""
        if self._unsent and self.objects:
            self.objects.send(self.new_name(), bytes(self._unsent))
            self._unsent.clear()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self.unsafe = self._size = 0

    def new_name(self) -> str:
        """A name for the next file or object."""
        # Sorted by name is sorted by time; the random end keeps two servers on one target apart.
        return f"{self._prefix}{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{secrets.token_hex(4)}{SUFFIX}"


class Objects:
    """The objects below gs://bucket/folder; the client connects at the first call.

    Raises:
        UserError: no bucket is named, or Google's client is not installed; `shown` begins the message.
    """

    def __init__(self, target: str, shown: str) -> None:
        self.name, _, folder = target.removeprefix("gs://").partition("/")
        self._folder = folder.strip("/")
        if not self.name:
            raise UserError(f"{shown}: gs:// needs the name of a bucket")
        try:
            from google.cloud import storage
        except ImportError:
            hint = 'install the extra `gcs`: pip install "arxiv_cls[serve,gcs]"'
            raise UserError(f"{shown}: Google's storage client is not installed", hint=hint) from None
        self._storage = storage

    @cached_property
    def bucket(self) -> Any:
        """The client's bucket."""
        return self._storage.Client().bucket(self.name)

    def _blob(self, name: str) -> Any:
        return self.bucket.blob(f"{self._folder}/{name}".lstrip("/"))

    def send(self, name: str, lines: bytes) -> None:
        """Writes an object of JSON lines, whole or not at all."""
        # No retries of the client's own: whoever holds the lines tries again.
        self._blob(name).upload_from_string(
            lines, content_type="application/x-ndjson", timeout=10, retry=None
        )

    def read(self, name: str) -> bytes:
        """An object's content; FileNotFoundError when there is none."""
        from google.api_core.exceptions import NotFound

        try:
            return self._blob(name).download_as_bytes(timeout=10)
        except NotFound:
            raise FileNotFoundError(name) from None
