"""The server's own log: JSON lines, a line per request, never a text or a secret."""

from __future__ import annotations

import asyncio
import json
import logging

from arxiv_cls.serving.observability import JsonFormatter, RequestLines


def formatted(**extra) -> dict:
    """A record with extras as its line."""
    record = logging.makeLogRecord(
        {"msg": "hello %s", "args": ("there",), "name": "here", "levelname": "INFO", **extra}
    )
    return json.loads(JsonFormatter().format(record))


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
        except (ConnectionError, RuntimeError):
            assert fails
    return caplog.records, dict(replies[0]["headers"]) if replies else {}


class TestLines:
    """A record as JSON."""

    def test_fields(self):
        """Message, extras and what cannot be JSON as text; on one line."""
        line = formatted(url="http://x", path=object)
        assert line["message"] == "hello there"
        assert (line["logger"], line["severity"], line["url"]) == ("here", "INFO", "http://x")
        assert "object" in line["path"]

    def test_a_traceback_stays_on_its_line(self):
        """One record is one line also when it carries an exception."""
        try:
            raise ValueError("broken")
        except ValueError as error:
            info = (ValueError, error, error.__traceback__)
        record = logging.makeLogRecord({"msg": "x", "exc_info": info})
        text = JsonFormatter().format(record)
        assert "\n" not in text
        assert "ValueError: broken" in json.loads(text)["traceback"]


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

    def test_the_id_of_the_client(self, caplog):
        """A sound id is kept, one that could forge a log line is replaced."""
        assert log_of(caplog, [(b"x-request-id", b"abc-1")])[1][b"x-request-id"] == b"abc-1"
        forged = log_of(caplog, [(b"x-request-id", b'a"\n{')])[1][b"x-request-id"]
        assert forged.isalnum()

    def test_probes_are_quiet(self, caplog):
        """A health probe that succeeds is a debug line; one that fails is not."""
        assert log_of(caplog, path="/health")[0] == []
        assert log_of(caplog, path="/health", status=503)[0][0].status == 503

    def test_a_client_that_goes_away(self, caplog):
        """A request without an answer is logged as 499."""
        records, _ = log_of(caplog, fails=ConnectionError)
        assert records[0].status == 499

    def test_a_failure_of_ours(self, caplog):
        """An exception is no client that left: 500, though the answer is made further out."""
        records, _ = log_of(caplog, fails=RuntimeError)
        assert records[0].status == 500
