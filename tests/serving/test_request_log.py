"""The request log: what is in a line, rotation, and that it never slows or breaks what it is asked to log."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections import Counter

from local_servers import lines_in

from arxiv_cls.models.prediction import Prediction
from arxiv_cls.serving import request_log
from arxiv_cls.serving.request_log import DirectoryFiles, RequestLog, log_record

SAID = Prediction(
    label="cs.CV",
    score=0.9,
    scores={"cs.CV": 0.9, "cs.AI": 0.1},
    truncated=False,
    prediction_set=("cs.CV",),
    in_scope=True,
    scope_score=0.8,
    answered_by="onnx",
)


def record(text: str = "vision", with_text: bool = False) -> dict:
    """A line of the log for a text."""
    return log_record(
        time_utc="2026-01-02T03:04:05.006+00:00",
        request_id="r1",
        schema="text",
        model="tiny",
        model_version="abc",
        text=text,
        tokens=3,
        prediction=SAID,
        milliseconds=12.345,
        waited_milliseconds=1.0,
        texts=1,
        with_text=with_text,
    )


class FailingFiles:
    """Files on a disk that is full until it is not; each write can be held up."""

    unsafe = 0

    def __init__(self) -> None:
        self.full = True
        self.lines: list[bytes] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.writing = threading.Event()

    def probe(self) -> None:
        """Nothing to ask."""

    def write(self, lines: bytes) -> None:
        """Fails as a full disk does."""
        self.writing.set()
        assert self.go_on.wait(30)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.lines += lines.splitlines()

    def rotate_if_due(self) -> None:
        """Never due."""

    def close(self) -> None:
        """Nothing to close."""


class HeldFiles(FailingFiles):
    """Lines that are held in memory until they are due, and cannot be sent at the end."""

    due = False

    def write(self, lines: bytes) -> None:
        """Keeps them."""
        self.unsafe += lines.count(b"\n")

    def rotate_if_due(self) -> None:
        """Sends them."""
        if self.due:
            self.unsafe = 0

    def close(self) -> None:
        """Fails as a network does."""
        if self.unsafe:
            raise OSError("no network")


class TestRecord:
    """One line of the log."""

    def test_fields(self):
        """The prediction, the scores, the times, the version, the features."""
        line = record()
        assert line["label"] == "cs.CV"
        assert line["scores"] == {"cs.CV": 0.9, "cs.AI": 0.1}
        assert (line["model_version"], line["answered_by"], line["schema_version"]) == ("abc", "onnx", 1)
        assert (line["milliseconds"], line["scope_score"], line["tokens"]) == (12.35, 0.8, 3)
        assert (line["words"], line["characters"]) == (1, 6)

    def test_the_text_is_only_there_when_switched_on(self):
        """No part of a line holds it otherwise."""
        assert "a secret finding" not in json.dumps(record("a secret finding"))
        assert record("a secret finding", with_text=True)["text"] == "a secret finding"


class TestWriting:
    """A thread writes what requests put into the queue."""

    def test_lines_arrive(self, tmp_path):
        """Every record that was added is in the files after `close`, one JSON object per line."""
        counts = Counter()
        log = RequestLog(
            DirectoryFiles(tmp_path / "log", 10**6, 3600, keep=0),
            on_written=lambda records: counts.update(written=records),
        )
        log.start()
        for number in range(50):
            log.add(lambda number=number: record(f"text {number}\nof two lines ä"))
        log.close(30)
        assert len(lines_in(tmp_path / "log")) == 50
        assert counts["written"] == 50

    def test_a_full_disk_costs_records_and_nothing_else(self, caplog, monkeypatch):
        """Lost records are counted, one warning is logged, and writing goes on when there is space again."""
        monkeypatch.setattr(request_log, "RECORDS_AT_A_TIME", 1)
        dropped = Counter()
        files = FailingFiles()
        log = RequestLog(files, on_dropped=lambda reason, records: dropped.update({reason: records}))
        with caplog.at_level(logging.WARNING, "arxiv_cls.serving.request_log"):
            log.start()
            for _ in range(3):
                log.add(record)
            while dropped["write_failed"] < 3:
                assert log._thread.is_alive()
                time.sleep(0.01)
            files.full = False
            log.add(record)
            log.close(30)
        assert len(files.lines) == 1
        assert [entry.message for entry in caplog.records] == [
            "the request log cannot be written: OSError: [Errno 28] No space left on device"
        ]

    def test_a_record_that_cannot_be_made_spoils_no_thread(self):
        """Whatever making a line raises is counted as a lost record."""
        dropped = Counter()
        files = FailingFiles()
        files.full = False
        log = RequestLog(files, on_dropped=lambda reason, records: dropped.update({reason: records}))
        log.start()
        log.add(lambda: 1 / 0)
        while not dropped["write_failed"]:
            assert log._thread.is_alive()
            time.sleep(0.01)
        log.add(record)
        log.close(30)
        assert len(files.lines) == 1

    def test_a_slow_disk_blocks_nobody(self):
        """With the writer held up and the queue full, adding returns and counts what it dropped."""
        dropped = Counter()
        files = FailingFiles()
        files.full = False
        files.go_on.clear()
        log = RequestLog(
            files, on_dropped=lambda reason, records: dropped.update({reason: records}), queue_records=5
        )
        log.start()
        log.add(record)
        assert files.writing.wait(30)
        for _ in range(8):
            log.add(record)
        assert dropped == {"queue_full": 3}
        files.go_on.set()
        log.close(30)
        assert len(files.lines) == 6

    def test_long_texts_do_not_fill_the_memory(self):
        """Records that hold more bytes than may wait are dropped, and fit again when others are written."""
        dropped = Counter()
        files = FailingFiles()
        files.full = False
        files.go_on.clear()
        log = RequestLog(
            files, on_dropped=lambda reason, records: dropped.update({reason: records}), queue_bytes=100
        )
        log.start()
        for _ in range(3):
            log.add(record, size=40)
        assert dropped == {"queue_full": 1}
        assert files.writing.wait(30)
        files.go_on.set()
        while log._queued_bytes:
            assert log._thread.is_alive()
            time.sleep(0.01)
        log.add(record, size=100)
        log.close(30)
        assert len(files.lines) == 3
        assert dropped == {"queue_full": 1}

    def test_lines_in_memory_are_not_written_yet(self, caplog):
        """They count when they are sent; a last sending that fails loses them, and says so."""
        counts = Counter()
        files = HeldFiles()
        log = RequestLog(
            files,
            on_written=lambda records: counts.update(written=records),
            on_dropped=lambda reason, records: counts.update({reason: records}),
        )
        log.start()
        log.add(record)
        while not files.unsafe:
            time.sleep(0.01)
        assert counts == {}
        files.due = True
        while files.unsafe:
            time.sleep(0.01)
        while not counts:
            time.sleep(0.01)
        assert counts == {"written": 1}
        files.due = False
        for _ in range(3):
            log.add(record)
        with caplog.at_level(logging.WARNING, "arxiv_cls.serving.request_log"):
            log.close(30)
        assert counts == {"written": 1, "write_failed": 3}
        assert "no network" in caplog.text

    def test_a_target_that_does_not_answer_is_told_at_the_start(self, caplog):
        """One warning before the first line, and lines are taken all the same."""
        files = FailingFiles()
        files.full = False

        def probe():
            raise PermissionError("no permission")

        files.probe = probe
        log = RequestLog(files)
        with caplog.at_level(logging.WARNING, "arxiv_cls.serving.request_log"):
            log.start()
            while not caplog.records:
                assert log._thread.is_alive()
                time.sleep(0.01)
        log.add(record)
        log.close(30)
        assert len(files.lines) == 1
        assert [entry.message for entry in caplog.records] == [
            "the request log cannot be written: PermissionError: no permission"
        ]
