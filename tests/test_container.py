"""Inside a container: a lack of memory is told apart from a crash, and a health check says what is wrong."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_servers import serving

from arxiv_cls.container import memory_limit, out_of_memory_kills

pytestmark = pytest.mark.skipif(os.name == "nt", reason="containers run Linux")


@pytest.fixture
def cgroup(tmp_path) -> Path:
    """A control group with a limit of 2 GiB in which three processes were killed before."""
    folder = tmp_path / "a cgroup"
    folder.mkdir()
    (folder / "memory.max").write_text(f"{2 * 2**30}\n")
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 31\noom 0\noom_kill 3\n")
    return folder


def run_in(cgroup: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command under `container.run`, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from arxiv_cls.container import run;"
        "sys.exit(run(sys.argv[2:], Path(sys.argv[1])))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(cgroup), *command], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        *((f"exit {status}", status, "") for status in (0, 1, 2, 3)),
        ("kill -SEGV $$", 128 + signal.SIGSEGV, ""),
        # The kernel's count tells, also where only a worker was killed and its launcher ends with 1.
        ("echo oom_kill 4 > '{}'; kill -9 $$", 137, "error: out of memory: the container may use 2.0 GiB"),
        ("echo oom_kill 4 > '{}'; exit 1", 137, "docker run --memory"),
        # A command that survived the kill and ended well ended well.
        ("echo oom_kill 4 > '{}'", 0, ""),
    ],
)
def test_status(cgroup, script, status, said):
    """The command's own, without a word of memory; 137 and the limit when one of its processes was killed."""
    run = run_in(cgroup, "sh", "-c", "echo out; " + script.format(cgroup / "memory.events"))
    assert (run.returncode, run.stdout) == (status, "out\n")
    assert said in run.stderr
    assert bool(run.stderr) == bool(said)


def test_stop_reaches_the_command(tmp_path):
    """`docker stop` sends SIGTERM to us: the command gets it and may end in order."""
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"
    script = f"trap 'touch {stopped}; exit 0' TERM; touch {ready}; while :; do sleep 0.05; done"
    process = subprocess.Popen([sys.executable, "-m", "arxiv_cls.container", "sh", "-c", script])
    try:
        for _ in range(600):
            if ready.exists():
                break
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
    assert stopped.exists()


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["no-such-command"], 127)])
def test_no_command(arguments, status):
    """Nothing to run, or nothing of that name: one line, no traceback."""
    run = subprocess.run(
        [sys.executable, "-m", "arxiv_cls.container", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("files", "kills", "limit"),
    [
        # The older hierarchy has its counts in other files, and writes "none" as the largest number of pages.
        ({"memory/memory.oom_control": "oom_kill 2\n", "memory/memory.limit_in_bytes": f"{2**29}\n"},
         2, "0.5 GiB"),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0, "the machine's memory"),
        ({"memory.max": "max\n"}, 0, "the machine's memory"),
        # Outside Linux there is nothing to read.
        ({}, 0, "the machine's memory"),
    ],
)  # fmt: skip
def test_control_groups(tmp_path, files, kills, limit):
    """What the kernel tells."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert (out_of_memory_kills(tmp_path), memory_limit(tmp_path)) == (kills, limit)


@pytest.fixture
def server():
    """Answers 200 to /health and 503 to all else; yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        yield url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("route", "ports", "status", "said"),
    [
        ("/health", {"PORT": "{}"}, 0, ""),
        ("/health", {"PORT": "1", "ARXIV_CLS_PORT": "{}"}, 0, ""),
        ("/other", {"PORT": "{}"}, 1, "503"),
        ("/health", {"PORT": "9"}, 1, "port 9/health"),
    ],
)
def test_health_check(server, route, ports, status, said):
    """Status 0 or 1, as Docker wants it, and the reason; the port is found as `arxiv-cls serve` finds it."""
    checked = subprocess.run(
        [sys.executable, "-m", "arxiv_cls.container", "--check", route],
        env=os.environ | {name: port.format(server) for name, port in ports.items()},
        capture_output=True,
        text=True,
    )
    assert (checked.returncode, bool(checked.stderr)) == (status, bool(status))
    assert said in checked.stderr
