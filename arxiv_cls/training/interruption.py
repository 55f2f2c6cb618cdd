"""A run that is asked to end early (SIGTERM, Ctrl-C, its time is up), so that `--resume` goes on with it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

# EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command can go on later.
EXIT_STATUS = 75
MARKER = "interrupted"
# A terminal sends Ctrl-C to the launcher too, which passes it on: so soon a second signal is the same one.
SAME_SIGNAL_SECONDS = 1.0
PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


class Interruption(contextlib.AbstractContextManager["Interruption"]):
    """What asks a run to end, and how it then ends: one line, the file `interrupted`, exit status 75.

    In the `with` block SIGTERM ends the process at once. While `deferred` is set, SIGTERM and the first
    SIGINT are only noted, and the training asks `due` after each step; a second SIGINT ends it at once.

    Args:
        folder: of the run, for the marker file.
        max_hours: hours from now after which the run is due to end; None or 0: no limit.
        main: whether this process writes line and marker.
    """

    def __init__(self, folder: Path, max_hours: float | None = None, *, main: bool = True) -> None:
        self.folder, self.main = folder, main
        self.deferred = False
        self.reason: str | None = None
        self._noted = 0.0
        self._deadline = time.monotonic() + 3600 * max_hours if max_hours else math.inf

    def __enter__(self) -> Interruption:
        _follow_launcher()
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def due(self) -> bool:
        """Whether this process was asked to end, or its time is up."""
        if self.reason is None and time.monotonic() >= self._deadline:
            self.reason = "trainer.max_hours"
        return self.reason is not None

    def mark(self, state: str) -> str:
        """Writes the marker, and returns its line; `state` says what is kept and where."""
        begun = self.folder.is_dir()
        how = "the same command with --resume goes on" if begun else "start it again"
        line = f"interrupted ({self.reason or 'another process'}): {state}; {how}"
        if begun and self.main:
            (self.folder / MARKER).write_text(line + "\n", encoding="utf-8")
        return line

    def end(self, state: str) -> NoReturn:
        """Ends the process, with the marker."""
        line = self.mark(state)
        if self.main:
            logger.warning("%s", line)
        raise SystemExit(EXIT_STATUS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        again = self._noted and now - self._noted > SAME_SIGNAL_SECONDS
        if number == signal.SIGINT and (again or not self.deferred):
            signal.default_int_handler(number, frame)
        self.reason = self.reason or signal.Signals(number).name
        self._noted = self._noted or now
        if not self.deferred:
            self.end("nothing new was kept")
        if self.main:
            # The signal may have come in the middle of a line of the log.
            os.write(2, b"the run ends with a checkpoint after this step; Ctrl-C ends it at once\n")


def restarted(folder: Path, state: str) -> bool:
    """Whether torch-elastic has started this run once more, which then goes on where it was.

    Ends the process if the run was interrupted: that status is a failure to torch-elastic (`--max_restarts`).
    """
    if not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return False
    if (folder / MARKER).is_file():
        raise SystemExit(EXIT_STATUS)
    return (folder / state).is_file()


def _follow_launcher() -> None:
    """Has Linux send SIGTERM when `accelerate launch` of one process ends: it does not pass on its own."""
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if "WORLD_SIZE" not in os.environ and parent.is_file():
        words = parent.read_bytes().split(b"\0")[:4]
        if any(word.endswith((b"/accelerate", b"accelerate.commands.launch")) for word in words):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
