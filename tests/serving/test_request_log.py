"""The request log: what is in a line, rotation, and that it never slows or breaks what it is asked to log."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections import Counter

import pytest

from arxiv_cls.errors import UserError
from arxiv_cls.models.predictor import Prediction
from arxiv_cls.serving import request_log
from arxiv_cls.serving.request_log import RequestLog, log_record
from arxiv_cls.serving.request_log_files import BucketFiles, DirectoryFiles, open_log_files

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


def lines_in(directory) -> list[dict]:
    """The lines of all files, oldest file first."""
    files = sorted(directory.glob("requests-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


class FailingFiles:
    """Files on a disk that is full until it is not; each write can be held up."""

    def __init__(self) -> None:
        self.full = True
        self.lines: list[bytes] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.writing = threading.Event()

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


class TestDirectory:
    """Rotated files of a local directory."""

    def test_rotation_by_size_and_age(self, tmp_path):
        """A file that is large enough or old enough is followed by another one."""
        files = DirectoryFiles(tmp_path, rotate_bytes=10, rotate_seconds=3600, keep=0)
        for _ in range(3):
            files.write(b'{"a": "long enough"}\n')
            files.rotate_if_due()
        assert len(list(tmp_path.iterdir())) == 3
        files = DirectoryFiles(tmp_path, rotate_bytes=10**6, rotate_seconds=0, keep=0)
        files.write(b"{}\n")
        files.rotate_if_due()
        files.write(b"{}\n")
        files.close()
        assert len(list(tmp_path.iterdir())) == 5

    def test_keep(self, tmp_path):
        """Only the newest files stay; files of others are left alone."""
        (tmp_path / "notes.txt").write_text("mine")
        files = DirectoryFiles(tmp_path, rotate_bytes=1, rotate_seconds=3600, keep=2)
        for number in range(5):
            files.write(f'{{"n": {number}}}\n'.encode())
            files.rotate_if_due()
        assert [line["n"] for line in lines_in(tmp_path)] == [3, 4]
        assert (tmp_path / "notes.txt").exists()

    def test_a_directory_that_vanishes_comes_back(self, tmp_path):
        """Someone who clears the log while the server runs loses no later line."""
        files = DirectoryFiles(tmp_path / "log", 10**6, 0, keep=0)
        files.write(b"{}\n")
        files.rotate_if_due()
        for path in (tmp_path / "log").iterdir():
            path.unlink()
        (tmp_path / "log").rmdir()
        files.write(b'{"n": 1}\n')
        assert lines_in(tmp_path / "log") == [{"n": 1}]

    def test_a_target_that_cannot_be(self, tmp_path):
        """A file in the way, or an address of another kind, is refused at the start."""
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="--request-log"):
            open_log_files(str(tmp_path / "file"), rotate_bytes=1, rotate_seconds=1, keep=0)
        with pytest.raises(UserError, match="a directory or gs://"):
            open_log_files("s3://bucket", rotate_bytes=1, rotate_seconds=1, keep=0)
        with pytest.raises(UserError, match="name of a bucket"):
            open_log_files("gs:///folder", rotate_bytes=1, rotate_seconds=1, keep=0)


@pytest.mark.slow
class TestBucket:
    """gs://, proven on an emulator of Google's storage on loopback."""

    def test_objects(self, monkeypatch):
        """Lines are sent when they are due and at the end; a bucket that is away loses nothing but time."""
        from gcp_storage_emulator.server import create_server
        from google.cloud import storage
        from server_process import free_port

        port = free_port()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        files = open_log_files("gs://logs/papers/", rotate_bytes=20, rotate_seconds=3600, keep=0)
        assert isinstance(files, BucketFiles)
        files.write(b'{"n": 1}\n')
        files.rotate_if_due()
        files.write(b'{"n": 2, "long": 1}\n')
        with pytest.raises(OSError, match="refused"):
            files.rotate_if_due()
        emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="logs")
        emulator.start()
        try:
            # Right after a failure the bucket is left alone for a while.
            files.rotate_if_due()
            blobs = list(storage.Client().list_blobs("logs"))
            assert blobs == []
            files._next_try = 0.0
            files.rotate_if_due()
            files.write(b'{"n": 3}\n')
            files.close()
            blobs = sorted(storage.Client().list_blobs("logs"), key=lambda blob: blob.name)
            lines = [json.loads(line) for blob in blobs for line in blob.download_as_text().splitlines()]
        finally:
            emulator.stop()
        assert [blob.name[:16] for blob in blobs] == ["papers/requests-"] * 2
        assert [line["n"] for line in lines] == [1, 2, 3]
