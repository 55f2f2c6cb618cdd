"""The server's own log: JSON lines, a line per request, never a text or a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys

from arxiv_cls.serving.observability import JsonFormatter, RequestLines


def log_of(caplog, headers=(), status=200, level=logging.INFO, path="/predict", fails=None):
    """The records and the reply headers of one request."""
    replies = []

    async def app(scope, receive, send):
        scope["state"]["log"]["texts"] = 2
        if fails:
            raise fails("no answer")
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message):
        replies.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "query_string": b"k=v"}
    with caplog.at_level(level, "arxiv_cls.serving.observability"):
        try:
            asyncio.run(RequestLines(app, quiet=frozenset({"/health"}))(scope, None, send))
        except ConnectionError:
            assert fails
    return caplog.records, dict(replies[0]["headers"]) if replies else {}


FAILING = """
import logging, threading, warnings
from arxiv_cls.serving.observability import configure_logging

configure_logging("info")
warnings.warn("a warning")
logging.getLogger("another.library").warning("another %s", "record", extra={"kind": object})
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
"""


def test_nothing_but_json_on_standard_error():
    """Also what other libraries log, Python's warnings, and a thread that fails."""
    ended = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["severity"] for line in lines] == ["WARNING", "WARNING", "ERROR"]
    assert (lines[1]["logger"], lines[1]["message"]) == ("another.library", "another record")
    assert "object" in lines[1]["kind"]
    assert "ZeroDivisionError" in lines[2]["traceback"]


class TestRequestLines:
    """A line per request."""

    def test_line(self, caplog):
        """Method, path without its query, status, time and what the route added."""
        records, headers = log_of(caplog, [(b"authorization", b"Bearer hush")])
        line = json.loads(JsonFormatter().format(records[0]))
        assert (line["method"], line["path"], line["status"], line["texts"]) == ("POST", "/predict", 200, 2)
        assert "hush" not in json.dumps(line)
        assert "k=v" not in json.dumps(line)
        assert headers[b"x-request-id"].decode() == line["request_id"]

    def test_probes_are_quiet(self, caplog):
        """A health probe that succeeds is a debug line; one that fails is not."""
        assert log_of(caplog, path="/health")[0] == []
        assert log_of(caplog, path="/health", status=503)[0][0].status == 503

    def test_no_answer(self, caplog):
        """499 for a client that left."""
        records, _ = log_of(caplog, fails=ConnectionError)
        assert records[0].status == 499
