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
    """A control group with a limit of 2 GiB in which nothing was killed yet."""
    folder = tmp_path / "a cgroup"
    folder.mkdir()
    (folder / "memory.max").write_text(f"{2 * 2**30}\n")
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 31\noom 0\noom_kill 0\n")
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


class TestRun:
    """The status that a container ends with."""

    @pytest.mark.parametrize("status", [0, 1, 2, 3])
    def test_status_is_the_command_s(self, cgroup, status):
        """Whatever the command says is passed on, and nothing is added to what it prints."""
        run = run_in(cgroup, "sh", "-c", f"echo out; exit {status}")
        assert (run.returncode, run.stdout, run.stderr) == (status, "out\n", "")

    def test_a_crash_is_not_a_lack_of_memory(self, cgroup):
        """A process killed by another signal ends with 128 + its number, and no word of memory."""
        run = run_in(cgroup, "sh", "-c", "kill -SEGV $$")
        assert run.returncode == 128 + signal.SIGSEGV
        assert "memory" not in run.stderr

    @pytest.mark.parametrize("end", ["kill -9 $$", "exit 1"])
    def test_killed_for_memory(self, cgroup, end):
        """The kernel's count tells, also where only a worker was killed and its launcher ends with 1."""
        count = cgroup / "memory.events"
        run = run_in(cgroup, "sh", "-c", f"echo oom_kill 1 > '{count}'; {end}")
        assert run.returncode == 137
        assert "error: out of memory: the container may use 2.0 GiB" in run.stderr
        assert "docker run --memory" in run.stderr

    def test_a_worker_that_was_replaced_is_no_error(self, cgroup):
        """A command that survived the kill and ended well ended well."""
        run = run_in(cgroup, "sh", "-c", f"echo oom_kill 1 > '{cgroup / 'memory.events'}'")
        assert (run.returncode, run.stderr) == (0, "")

    def test_earlier_kills_do_not_count(self, cgroup):
        """What was killed before the command started says nothing about it."""
        (cgroup / "memory.events").write_text("oom_kill 3\n")
        assert run_in(cgroup, "false").returncode == 1

    def test_stop_reaches_the_command(self, tmp_path):
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
    def test_no_command(self, arguments, status):
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


class TestControlGroups:
    """What the kernel tells."""

    def test_first_version(self, tmp_path):
        """The older hierarchy has its count in another file."""
        (tmp_path / "memory").mkdir()
        (tmp_path / "memory" / "memory.oom_control").write_text(
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
        )
        limit = tmp_path / "memory" / "memory.limit_in_bytes"
        limit.write_text(f"{2**29}\n")
        assert out_of_memory_kills(tmp_path) == 2
        assert memory_limit(tmp_path) == "0.5 GiB"
        limit.write_text("9223372036854771712\n")
        assert memory_limit(tmp_path) == "the machine's memory"

    def test_no_control_group(self, tmp_path):
        """Outside Linux there is nothing to read: no kills, no limit."""
        assert out_of_memory_kills(tmp_path) == 0
        assert memory_limit(tmp_path) == "the machine's memory"

    def test_no_limit(self, cgroup):
        """`max` is what the file says without a limit."""
        (cgroup / "memory.max").write_text("max\n")
        assert memory_limit(cgroup) == "the machine's memory"


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
