"""Where the lines of the request log lie: rotated files in a directory, or objects in a gs:// bucket."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from arxiv_cls.errors import UserError

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
