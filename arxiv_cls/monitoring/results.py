"""Where the service keeps what it finds: a directory, or gs://bucket/prefix with a copy on this machine."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.alerts import ALERT
from arxiv_cls.monitoring.check import DRIFT, HISTORY, REPORT
from arxiv_cls.monitoring.feedback import FEEDBACK
from arxiv_cls.monitoring.log_reader import reading
from arxiv_cls.record.files import write_atomically, write_json
from arxiv_cls.record.storage import file_system, writable_directory

LOCK = ".lock"
FILES = (ALERT, FEEDBACK, HISTORY, REPORT, DRIFT)


class Results:
    """The files of a target; a directory has one service at a time, a bucket does not know who writes.

    Attributes:
        directory: where they lie on this machine.

    Raises:
        UserError: the target cannot be read or written, or another service writes there.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._fs: Any = None
        if target.startswith("gs://"):
            self._copy = tempfile.TemporaryDirectory(prefix="arxiv-cls-monitor-")
            self.directory = Path(self._copy.name)
            with reading(f"--out {target}"):
                self._fs, self._prefix = file_system(target, exit_code=2)
            for name in FILES:
                with reading(f"--out {target}/{name}"), contextlib.suppress(FileNotFoundError):
                    write_atomically(self.directory / name, self._fs.cat_file(f"{self._prefix}/{name}"))
        else:
            self.directory = writable_directory(target, f"--out {target}")
        # The service begins and ends in different threads.
        self._lock = FileLock(self.directory / LOCK, blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            hint = "end that service, or name another --out"
            raise UserError(f"--out {target}: another monitoring service writes there", hint) from None

    def close(self) -> None:
        """Leaves the directory to the next service."""
        self._lock.release()

    def send(self, *names: str) -> None:
        """Copies files to the bucket in this order, where there is one; each is whole there or not at all."""
        for name in names:
            path = self.directory / name
            if self._fs and path.is_file():
                with reading(f"--out {self.target}/{name}", "written"):
                    self._fs.pipe_file(f"{self._prefix}/{name}", path.read_bytes())

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a record."""
        write_json(content, self.directory / name)
        self.send(name)

    def read(self, name: str, schema_version: int) -> dict[str, Any] | None:
        """A record; None where there is none of this schema.

        Raises:
            UserError: it is no JSON object.
        """
        try:
            content = json.loads((self.directory / name).read_text(encoding="utf-8"))
            return content if content["schema_version"] == schema_version else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"--out {self.target}: {name} is no record of this service: {type(error).__name__}",
                hint="move it away: the next run writes a new one",
            ) from None
