"""The first process of a container, and the health check of a server in it.

Run as: python -m arxiv_cls.container COMMAND [ARGUMENT ...]        (the Dockerfile's entry points do)
        python -m arxiv_cls.container --check /health               (its HEALTHCHECK does)

When a container passes its memory limit, the kernel kills one of its processes. Where that is a worker, its
launcher ends with a status of its own, and this looks like a crash. The kernel counts these kills: where it
counted one, this process names the limit and ends with 137. Any other status is passed on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from arxiv_cls.errors import OUT_OF_MEMORY

CGROUP = Path("/sys/fs/cgroup")
# The variables that `arxiv-cls serve` takes its port from, in its order.
PORT_VARIABLES = ("ARXIV_CLS_PORT", "AIP_HTTP_PORT", "PORT")


def _read(*files: Path) -> str:
    """The first of these files that can be read."""
    return next((file.read_text() for file in files if file.is_file()), "")


def out_of_memory_kills(cgroup: Path = CGROUP) -> int:
    """How many processes of this control group the kernel has killed for memory; 0 where it does not tell.

    Source: the kernel's documentation of control groups, `memory.events` (v2) and `memory.oom_control` (v1).
    """
    events = _read(cgroup / "memory.events", cgroup / "memory" / "memory.oom_control")
    return int(dict(line.split() for line in events.splitlines()).get("oom_kill", 0))


def memory_limit(cgroup: Path = CGROUP) -> str:
    """The limit as a person reads it, such as "2.0 GiB"; "the machine's memory" where there is none."""
    limit = _read(cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes").strip()
    # The older hierarchy writes "none" as the largest number of pages.
    if not limit.isdigit() or int(limit) >= 2**60:
        return "the machine's memory"
    return f"{int(limit) / 2**30:.1f} GiB"


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
    if code and out_of_memory_kills(cgroup) > before:
        print(
            f"error: out of memory: the container may use {memory_limit(cgroup)}\n"
            "  give it more (docker run --memory), or ask for less: a smaller batch, fewer papers",
            file=sys.stderr,
            flush=True,
        )
        return OUT_OF_MEMORY
    return 128 - code if code < 0 else code


def check(route: str) -> int:
    """Asks the server of this container for a route: 0 when it answers with a status below 400, else 1."""
    port = next((os.environ[name] for name in PORT_VARIABLES if os.environ.get(name)), "8000")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{route}", timeout=4.0):
            return 0
    except (OSError, ValueError) as error:
        print(f"port {port}{route}: {error}", file=sys.stderr)
        return 1


def main(words: list[str]) -> int:
    """Runs what the command line says; returns the exit status."""
    if not words:
        print("error: no command\n  python -m arxiv_cls.container COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    if words[0] == "--check":
        return check(*words[1:])
    try:
        return run(words)
    except OSError as error:
        print(f"error: {words[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
