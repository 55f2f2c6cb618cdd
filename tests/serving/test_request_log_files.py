"""Where the request log lies: files that are whole and rotated, and objects in a bucket."""

from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from unittest.mock import create_autospec

import pytest
from local_servers import lines_in

from arxiv_cls.errors import UserError
from arxiv_cls.serving.request_log import BucketFiles, DirectoryFiles, open_log_files


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

    def test_a_disk_that_takes_a_part(self, tmp_path):
        """A short write goes on; when the rest is refused, no half line stays and the next line is whole."""
        files = DirectoryFiles(tmp_path, 10**6, 3600, keep=0)
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


class TestProbe:
    """A bucket is asked at the start whether it takes lines."""

    @pytest.mark.parametrize(("granted", "refused"), [(["storage.objects.create"], False), ([], True)])
    def test_permission(self, granted, refused):
        """A wrong credential shows before the first rotation."""
        storage = pytest.importorskip("google.cloud.storage")
        files = BucketFiles("gs://logs/papers", 20, 3600)
        bucket = create_autospec(storage.Bucket, instance=True)
        bucket.test_iam_permissions.return_value = granted
        files._bucket = bucket
        with pytest.raises(PermissionError, match="gs://logs") if refused else nullcontext():
            files.probe()


@pytest.mark.slow
class TestBucket:
    """gs://, proven on an emulator of Google's storage on loopback."""

    def test_objects(self, monkeypatch):
        """Lines are sent when they are due and at the end; a bucket that is away loses nothing but time."""
        from gcp_storage_emulator.server import create_server
        from google.cloud import storage
        from local_servers import free_port

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
            assert files.unsafe == 0
            blobs = sorted(storage.Client().list_blobs("logs"), key=lambda blob: blob.name)
            lines = [json.loads(line) for blob in blobs for line in blob.download_as_text().splitlines()]
        finally:
            emulator.stop()
        assert [blob.name[:16] for blob in blobs] == ["papers/requests-"] * 2
        assert [line["n"] for line in lines] == [1, 2, 3]
