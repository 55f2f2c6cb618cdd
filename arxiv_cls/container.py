"""The first process of a container: runs a command and says so when the memory limit ended it.

Run as: python -m arxiv_cls.container COMMAND [ARGUMENT ...]        (the Dockerfile's entry points do)

When a container passes its memory limit, the kernel kills one of its processes. Where that is a worker, its
launcher ends with a status of its own, and the log of a lack of memory looks like that of a crash. The kernel
counts these kills, so this process looks at the count and ends with 137, the status of a killed container,
after a line that names the limit. Any other status is passed on as it is.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from arxiv_cls.errors import OUT_OF_MEMORY

CGROUP = Path("/sys/fs/cgroup")


def out_of_memory_kills(cgroup: Path = CGROUP) -> int:
    """How many processes of this control group the kernel has killed for memory; 0 where it does not tell.

    Source: the kernel's documentation of control groups, `memory.events` (v2) and `memory.oom_control` (v1).
    """
    for file in (cgroup / "memory.events", cgroup / "memory" / "memory.oom_control"):
        try:
            counts = dict(line.split() for line in file.read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(counts.get("oom_kill", 0))
    return 0


def memory_limit(cgroup: Path = CGROUP) -> str:
    """The limit as a person reads it, such as "2.0 GiB"; "the machine's memory" where there is none."""
    for file in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):
            continue
        # The older hierarchy writes "none" as the largest number of pages.
        if limit < 2**60:
            return f"{limit / 2**30:.1f} GiB"
    return "the machine's memory"


def run(command: list[str], cgroup: Path = CGROUP) -> int:
    """Runs the command to its end and returns the status to exit with.

    Signals that ask this process to end go on to the command. Orphans are reaped, because in a container
    nobody else does.

    Raises:
        OSError: the command cannot be started.
    """
    before = out_of_memory_kills(cgroup)
    process = subprocess.Popen(command)

    def pass_on(number: int, _frame: object) -> None:
        process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    # A terminal sends Ctrl-C to both of us; without one, only we get it.
    signal.signal(signal.SIGINT, signal.SIG_IGN if sys.stdin and sys.stdin.isatty() else pass_on)
    ended, status = 0, 0
    while ended != process.pid:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    if code and out_of_memory_kills(cgroup) > before:
        print(
            f"error: out of memory: the container may use {memory_limit(cgroup)}\n"
            "  give it more (docker run --memory), or ask for less: a smaller batch, fewer papers",
            file=sys.stderr,
            flush=True,
        )
        return OUT_OF_MEMORY
    return code


def main() -> int:
    """Reads the command from the command line; returns the exit status."""
    if len(sys.argv) < 2:
        print("error: no command\n  python -m arxiv_cls.container COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        return run(sys.argv[1:])
    except OSError as error:
        print(f"error: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
