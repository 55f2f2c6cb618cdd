"""The processes of a benchmark end with it, also when it is interrupted or asked to end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from arxiv_cls.errors import run_main

# The papers unless others are named. Not imported: a side's peak memory is measured.
DATA = "data/raw/arxiv.csv"


def end(process: subprocess.Popen) -> None:
    """Asks a process to end, waits for it, and kills one that does not."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_child(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
    """`subprocess.run`, but on an interrupt the child may end its own children before it ends."""
    with subprocess.Popen(command, **options) as process:
        try:
            stdout, stderr = process.communicate()
        except BaseException:
            end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def run_benchmark(main: Callable[[list[str]], int | None]) -> None:
    """`run_main` for a process with children: SIGTERM interrupts it as Ctrl-C does."""
    # A side has no children; nothing shall keep it from ending at once.
    if "--side" not in sys.argv:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_main(main)
