"""The request log: a JSON line per scored text, written by a thread of its own.

A request only puts a record into a bounded queue. When the queue is full or the disk is, records are
dropped and counted; no request waits for the log or fails because of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from arxiv_cls.serving.log_features import text_features
from arxiv_cls.serving.request_log_files import LogFiles

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
