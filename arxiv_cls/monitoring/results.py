"""Where the service keeps what it finds: a directory, or gs://bucket/prefix with a copy on this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from arxiv_cls.errors import UserError
from arxiv_cls.monitoring.alerts import ALERT
from arxiv_cls.monitoring.check import DRIFT, HISTORY, REPORT
from arxiv_cls.monitoring.feedback import FEEDBACK
from arxiv_cls.monitoring.log_reader import reading
from arxiv_cls.record.files import write_atomically, write_json
from arxiv_cls.record.storage import file_system

FILES = (ALERT, FEEDBACK, HISTORY, REPORT, DRIFT)


class Results:
    """The files of a target.

    Attributes:
        directory: where they lie on this machine.

    Raises:
        UserError: the target cannot be read or written.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self._fs: Any = None
        if target.startswith("gs://"):
            self._kept = tempfile.TemporaryDirectory(prefix="arxiv-cls-monitor-")
            self.directory = Path(self._kept.name)
            with reading(f"--out {target}"):
                self._fs, self._prefix = file_system(target, exit_code=2)
            self._fetch()
            return
        if "://" in target:
            raise UserError(f"--out {target}: a directory or gs://bucket/prefix")
        self.directory = Path(target).expanduser()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {target}: {error.strerror}") from None

    def _fetch(self) -> None:
        for name in FILES:
            with reading(f"--out {self.target}/{name}"):
                try:
                    content = self._fs.cat_file(f"{self._prefix}/{name}")
                except FileNotFoundError:
                    continue
            write_atomically(self.directory / name, content)

    def send(self, *names: str) -> None:
        """Copies files to the bucket in this order, where there is one; each is whole there or not at all."""
        if self._fs is None:
            return
        for name in names:
            path = self.directory / name
            if path.is_file():
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
        path = self.directory / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return content if content["schema_version"] == schema_version else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"--out {self.target}: {name} is no record of this service: {type(error).__name__}",
                hint="move it away: the next run writes a new one",
            ) from None
