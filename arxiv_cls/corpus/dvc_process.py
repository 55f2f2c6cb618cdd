"""One DVC command in a process of its own: its libraries print tracebacks and retry for minutes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

# It ends with ours, whose end closes its standard input: an orphan would go on and hold DVC's lock.
_DVC_PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_dvc(
    arguments: list[str], environment: Mapping[str, str], watch: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Runs `dvc <arguments>` and waits for it.

    Args:
        arguments: the command line after `dvc`.
        environment: all environment variables of the process.
        watch: called ten times a second while it runs; what it raises ends the process.

    Returns:
        The exit status, and everything that was printed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _DVC_PROGRAM, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.1)
        finally:
            process.kill()
            process.communicate()
        log.seek(0)
        return process.returncode, log.read()
