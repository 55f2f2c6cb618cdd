"""Runs `locustfile.py` without a browser, for a bounded time, against a server that runs or one of its own.

    python tests/performance/run_load.py --host http://127.0.0.1:8000 [--users 16] [--seconds 30]
    python tests/performance/run_load.py --model outputs/minilm [--serve-args "--engine int8"]

Exit status 0 when every request was answered, 1 when one failed, 2 when there is no server to ask.
"""

from __future__ import annotations

import argparse
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

LOCUSTFILE = Path(__file__).resolve().parent / "locustfile.py"
LONGEST_START = 120.0
# What a request under way may still take when the time is over.
GRACE_SECONDS = 10


def start_server(model: str, serve_args: str) -> tuple[subprocess.Popen, str]:
    """Starts `arxiv-cls serve` on a free port of this machine: the process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "arxiv_cls.cli", "serve", model, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "warning", *shlex.split(serve_args)]
    return subprocess.Popen(command), f"http://127.0.0.1:{port}"


def wait_until_ready(host: str, server: subprocess.Popen | None) -> str | None:
    """Asks `/health` until it answers; what is wrong, or None."""
    patience = LONGEST_START if server else 5.0
    before = time.monotonic()
    problem = "no answer"
    while time.monotonic() - before < patience:
        if server and server.poll() is not None:
            return f"the server ended with status {server.returncode}"
        try:
            with urllib.request.urlopen(f"{host}/health", timeout=5):
                return None
        except (urllib.error.URLError, OSError) as error:
            problem = str(error)
        time.sleep(0.1)
    return f"{host}/health: {problem}"


def run_locust(host: str, users: int, seconds: int) -> int:
    """The load itself; locust prints the summary. 0 when no request failed."""
    command = [
        sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary",
        "--host", host, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s",
        "--stop-timeout", str(GRACE_SECONDS), "--exit-code-on-error", "1", "--loglevel", "WARNING",
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Finds or starts the server, and loads it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--host", help="address of a server that runs, with http://")
    where.add_argument("--model", help="start a server of this model for the test")
    parser.add_argument("--serve-args", default="", help="with --model: more options of arxiv-cls serve")
    parser.add_argument("--users", type=int, default=16, help="clients at a time (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=30, help="length of the load (default %(default)s)")
    arguments = parser.parse_args()
    server, host = None, arguments.host
    if arguments.model:
        server, host = start_server(arguments.model, arguments.serve_args)
    try:
        if problem := wait_until_ready(host.rstrip("/"), server):
            print(
                f"error: {problem}\n  start one with `make serve MODEL=...`, or give MODEL=", file=sys.stderr
            )
            return 2
        failed = run_locust(host.rstrip("/"), arguments.users, arguments.seconds)
    finally:
        if server:
            server.terminate()
            server.wait(60)
    print("load test: " + ("a request failed" if failed else "every request was answered"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
