"""The load test itself: real clients on a real server, and a status that says when something failed."""

from __future__ import annotations

import http.server
import socket
from pathlib import Path

import pytest
from local_servers import serving

RUN_LOAD = "tests/performance/run_load.py"
MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "releases" / "v0.1.0" / "tiny-tfidf"


@pytest.mark.slow
class TestLoad:
    """`tests/performance/run_load.py`, as `make load-test` runs it."""

    def test_own_server(self, run_python):
        """Starts the endpoint, asks it in the mix for three seconds, prints the summary, ends it."""
        done = run_python(RUN_LOAD, "--model", MODEL, "--users", 4, "--seconds", 3)
        assert done.returncode == 0, done.stdout + done.stderr
        for name in ("/predict", "/health", "Aggregated", "every request was answered"):
            assert name in done.stdout + done.stderr

    def test_a_server_that_fails(self, run_python):
        """An answer of 500 to a prediction is a failure, and the exit status says so."""

        class Broken(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.answer(200)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(500)

            def answer(self, status):
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments):
                """Quiet."""

        with serving(Broken) as host:
            done = run_python(RUN_LOAD, "--host", host, "--users", 2, "--seconds", 2)
        assert done.returncode == 1
        assert "a request failed" in done.stdout
        assert "status 500" in done.stdout + done.stderr

    def test_no_server(self, run_python):
        """Says what to start."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        done = run_python(RUN_LOAD, "--host", f"http://127.0.0.1:{port}", "--seconds", 1)
        assert done.returncode == 2
        assert "make serve" in done.stderr
