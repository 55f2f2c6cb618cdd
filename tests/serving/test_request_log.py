"""The request log: what is in a line, rotation, and that it never slows or breaks what it is asked to log."""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import create_autospec

import prometheus_client
import pytest
from local_servers import lines_in

from arxiv_cls.errors import UserError
from arxiv_cls.models.prediction import EncodedText, Prediction
from arxiv_cls.models.text_features import text_features
from arxiv_cls.serving import request_log
from arxiv_cls.serving.batching import Job
from arxiv_cls.serving.request_log import LogFiles, RequestLog, ScoredText, log_line
from arxiv_cls.serving.settings import ServingSettings

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


def scored(text: str = "vision", prediction: Prediction | None = SAID) -> ScoredText:
    """A text with its answer."""
    encoded = EncodedText(text, 3, False)
    return ScoredText(
        time=datetime(2026, 1, 2, 3, 4, 5, 6000, UTC),
        request_id="r1",
        index=2,
        schema="text",
        model=SimpleNamespace(name="tiny", version="abc"),
        encoded=encoded,
        prediction=prediction,
        answer=Job([text], None, None, accepted=1.0, started=1.001, encoded=[encoded], predictions=[SAID]),
        seconds=0.012345,
    )


class Disk(LogFiles):
    """A directory on a disk that may be full, slow, or keep lines in memory."""

    full = False
    in_memory = False

    def __init__(self, settings, **options) -> None:
        super().__init__(settings, **options)
        self.go_on, self.writing = threading.Event(), threading.Event()
        self.go_on.set()

    def write(self, lines: bytes) -> None:
        """As the disk is."""
        self.writing.set()
        assert self.go_on.wait(30)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.in_memory:
            self.unsafe += lines.count(b"\n")
        else:
            super().write(lines)

    def close(self) -> None:
        """Fails while lines are in memory, as a network does."""
        if self.in_memory and self.unsafe:
            raise OSError("no network")
        super().close()


@pytest.fixture
def open_log(tmp_path, monkeypatch):
    """Makes a log in the folder `log` and its counter as a dict-like function; closes it at the end."""
    monkeypatch.setattr(request_log, "LogFiles", Disk)
    made = []

    def make(target=tmp_path / "log", **options):
        registry = prometheus_client.CollectorRegistry()
        outcomes = prometheus_client.Counter("records", "Records", ["outcome"], registry=registry)
        log = RequestLog(ServingSettings(model="m", request_log=str(target), **options), outcomes)
        made.append(log)
        return log, lambda outcome: outcomes.labels(outcome)._value.get()

    yield make
    for log in made:
        log.files.go_on.set()
        log.close(30)
        assert not log._thread.is_alive()


def wait_until(log, condition) -> None:
    """Waits for the thread, which must not end before."""
    while not condition():
        assert log._thread.is_alive()
        time.sleep(0.01)


class TestLine:
    """One line of the log."""

    def test_fields(self):
        """The prediction, the scores, the times, the version, the features; the text only when asked for."""
        line = log_line(scored(), with_text=False)
        assert line["time"] == "2026-01-02T03:04:05.006+00:00"
        assert (line["label"], line["scores"]) == ("cs.CV", {"cs.CV": 0.9, "cs.AI": 0.1})
        assert (line["model_version"], line["answered_by"], line["schema_version"]) == ("abc", "onnx", 2)
        assert (line["request_id"], line["index"]) == ("r1", 2)
        assert (line["milliseconds"], line["waited_milliseconds"]) == (12.35, 1.0)
        assert (line["scope_score"], line["tokens"], line["words"]) == (0.8, 3, 1)
        assert "a secret finding" not in json.dumps(log_line(scored("a secret finding"), with_text=False))
        assert log_line(scored("a secret finding"), with_text=True)["text"] == "a secret finding"

    def test_features_by_hand(self):
        """`Übung 42\\n\\nGNNs` has 14 characters, 3 words of 5, 2 and 4 characters, 9 letters, 4 capitals.

        `²` is a digit, `Ж` a capital, `中` a letter without case; nothing divides by zero.
        """
        assert text_features("Übung 42\n\nGNNs") == {
            "characters": 14,
            "words": 3,
            "mean_word_length": 3.667,
            "non_ascii_share": round(1 / 14, 5),
            "digit_share": round(2 / 14, 5),
            "upper_case_share": round(4 / 9, 5),
            "line_breaks": 2,
            "markup_share": 0.0,
        }
        names = ("digit_share", "non_ascii_share", "upper_case_share", "words", "mean_word_length")
        assert [text_features("Ж中²a")[name] for name in names[:3]] == [0.25, 0.75, round(1 / 3, 5)]
        assert text_features(r"a $\alpha$")["markup_share"] == 0.3
        assert [text_features("!?")[name] for name in names] == [0, 0, 0, 0, 0]


class TestWriting:
    """A thread writes what requests put into the queue."""

    def test_lines_arrive(self, open_log, tmp_path):
        """Each record is a line of its own after `close`, whatever characters its text has."""
        log, count = open_log(request_log_texts=True)
        log.start()
        for number in range(50):
            log.add(scored(f"text {number}\nof two\u2028lines\x85 ä\ud800"))
        log.close(30)
        assert count("written") == 50
        (file,) = (tmp_path / "log").iterdir()
        assert len(file.read_text().splitlines()) == 50
        assert lines_in(tmp_path / "log")[49]["text"] == "text 49\nof two\u2028lines\x85 ä\ud800"

    def test_a_full_disk_costs_records_and_nothing_else(self, open_log, tmp_path, caplog, monkeypatch):
        """Lost records are counted, one warning is logged, and writing goes on when there is space again."""
        monkeypatch.setattr(request_log, "RECORDS_AT_A_TIME", 1)
        log, count = open_log()
        log.files.full = True
        with caplog.at_level(logging.WARNING, "arxiv_cls.serving.request_log"):
            log.start()
            for _ in range(3):
                log.add(scored())
            wait_until(log, lambda: count("write_failed") == 3)
            log.files.full = False
            log.add(scored())
            log.close(30)
        assert len(lines_in(tmp_path / "log")) == 1
        assert [entry.message for entry in caplog.records] == [
            "the request log cannot be written: OSError: [Errno 28] No space left on device"
        ]

    def test_a_record_that_cannot_be_made(self, open_log, tmp_path):
        """Whatever making a line raises is counted as a lost record, and the thread goes on."""
        log, count = open_log()
        log.start()
        log.add(scored(prediction=None))
        wait_until(log, lambda: count("write_failed"))
        log.add(scored())
        log.close(30)
        assert len(lines_in(tmp_path / "log")) == 1

    @pytest.mark.parametrize(("bound", "value"), [("QUEUE_RECORDS", 5), ("QUEUE_BYTES", 5 * 1049)])
    def test_a_slow_disk_blocks_nobody(self, open_log, tmp_path, monkeypatch, bound, value):
        """With the writer held up and the queue full, adding returns and counts what it dropped."""
        monkeypatch.setattr(request_log, bound, value)
        monkeypatch.setattr(request_log, "RECORDS_AT_A_TIME", 1)
        log, count = open_log()
        log.files.go_on.clear()
        log.start()
        log.add(scored("x"))
        assert log.files.writing.wait(30)
        for _ in range(8):
            log.add(scored("x" * 1000))
        assert count("queue_full") in (3, 4)
        lost = count("queue_full")
        log.files.go_on.set()
        wait_until(log, lambda: count("written") == 9 - lost and not log._queued_bytes)
        log.add(scored("x" * 1000))
        log.close(30)
        assert len(lines_in(tmp_path / "log")) == 10 - lost

    def test_lines_in_memory_are_not_written_yet(self, open_log, caplog):
        """They count when they are sent; a last sending that fails loses them, and says so."""
        log, count = open_log()
        log.files.in_memory = True
        log.start()
        for _ in range(3):
            log.add(scored())
        wait_until(log, lambda: log.files.unsafe == 3)
        assert count("written") == 0
        with caplog.at_level(logging.WARNING, "arxiv_cls.serving.request_log"):
            log.close(30)
        assert (count("written"), count("write_failed")) == (0, 3)
        assert "no network" in caplog.text


class NearlyFull:
    """A file on a disk with room for so many bytes, which takes five at a time."""

    def __init__(self, file, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data) -> int:
        """What a short write does."""
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: min(5, self.room)])
        self.room -= taken
        return taken

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def files_of(target, **options) -> LogFiles:
    """The files of a log; rotation by size and time can be set below what an option may be."""
    settings = ServingSettings(model="m", request_log=str(target))
    keep = options.pop("keep", 0)
    changed = {f"request_log_{name}": value for name, value in options.items()}
    return LogFiles(settings.model_copy(update=changed), keep=keep)


class TestDirectory:
    """Rotated files of a local directory."""

    @pytest.mark.parametrize("options", [{"rotate_mb": 1e-5}, {"rotate_minutes": 0}])
    def test_rotation(self, tmp_path, options):
        """A file that is large enough or old enough is followed by another one."""
        files = files_of(tmp_path, **options)
        for _ in range(3):
            files.write(b'{"a": "long enough"}\n')
            files.rotate_if_due()
        assert len(list(tmp_path.iterdir())) == 3

    def test_a_disk_that_takes_a_part(self, tmp_path):
        """A short write goes on; when the rest is refused, no half line stays and the next line is whole."""
        files = files_of(tmp_path)
        files.write(b'{"n": 0}\n')
        files._file = NearlyFull(files._file, room=12)
        files.write(b'{"n": 1}\n')
        with pytest.raises(OSError, match="No space left"):
            files.write(b'{"n": 2}\n')
        files.write(b'{"n": 3}\n')
        files.close()
        assert [line["n"] for line in lines_in(tmp_path)] == [0, 1, 3]

    def test_keep(self, tmp_path):
        """Only the newest files stay; files of others are left alone."""
        (tmp_path / "notes.txt").write_text("mine")
        files = files_of(tmp_path, rotate_mb=1e-6, keep=2)
        for number in range(5):
            files.write(f'{{"n": {number}}}\n'.encode())
            files.rotate_if_due()
        assert [line["n"] for line in lines_in(tmp_path)] == [3, 4]
        assert (tmp_path / "notes.txt").exists()

    def test_a_directory_that_vanishes_comes_back(self, tmp_path):
        """Someone who clears the log while the server runs loses no later line."""
        files = files_of(tmp_path / "log", rotate_minutes=0)
        files.write(b"{}\n")
        files.rotate_if_due()
        for path in (tmp_path / "log").iterdir():
            path.unlink()
        (tmp_path / "log").rmdir()
        files.write(b'{"n": 1}\n')
        assert lines_in(tmp_path / "log") == [{"n": 1}]

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("file", "--request-log"),
            ("s3://bucket", "a directory or gs://"),
            ("gs:///folder", "name of a bucket"),
        ],
    )
    def test_a_target_that_cannot_be(self, tmp_path, monkeypatch, target, expected):
        """A file in the way, or an address of another kind, is refused at the start."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=expected):
            files_of(target)


class TestBucket:
    """gs://, on a fake of the client's bucket and on an emulator of Google's storage on loopback."""

    @pytest.mark.parametrize("granted", [["storage.objects.create"], []])
    def test_permission(self, open_log, caplog, granted):
        """A wrong credential is one warning before the first line, and lines are taken all the same."""
        storage = pytest.importorskip("google.cloud.storage")
        log, _ = open_log(target="gs://logs/papers")
        log.files.objects.bucket = create_autospec(storage.Bucket, instance=True)
        log.files.objects.bucket.test_iam_permissions.return_value = granted
        with caplog.at_level(logging.WARNING, "arxiv_cls.serving.request_log"):
            log.start()
            log.add(scored())
            log.close(30)
        warning = "PermissionError: no permission storage.objects.create on gs://logs"
        assert caplog.messages == [f"the request log cannot be written: {warning}"] * (not granted)
        log.files.objects.bucket.blob.return_value.upload_from_string.assert_called_once()

    @pytest.mark.slow
    def test_objects(self, monkeypatch):
        """Lines are sent when they are due and at the end; a bucket that is away loses nothing but time."""
        from gcp_storage_emulator.server import create_server
        from google.cloud import storage
        from local_servers import free_port

        port = free_port()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        files = files_of("gs://logs/papers/", rotate_mb=2e-5)
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
            assert list(storage.Client().list_blobs("logs")) == []
            files._next_try = 0.0
            files.rotate_if_due()
            files.write(b'{"n": 3}\n')
            files.close()
            assert files.unsafe == 0
            blobs = sorted(storage.Client().list_blobs("logs"), key=lambda blob: blob.name)
            lines = [json.loads(line) for blob in blobs for line in blob.download_as_text().splitlines()]
        finally:
            emulator.stop()
        assert [blob.name[:16] for blob in blobs] == ["papers/requests-"] * 2
        assert [line["n"] for line in lines] == [1, 2, 3]
