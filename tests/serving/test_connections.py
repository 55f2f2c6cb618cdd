"""Connections to the real server process: too many, malformed, half-closed, and what its log says of them."""

from __future__ import annotations

import json
import re
import socket
import time
from urllib.parse import quote

import pytest

HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"text":"vision"}'
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def connect(server) -> socket.socket:
    """A connection."""
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 60)


def exchange(server, sent: bytes, half_close: bool = False) -> bytes:
    """What comes back until the server closes the connection."""
    with connect(server) as connection:
        connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            # A server that closes before it has read everything resets the connection behind its answer.
            assert received
        return received


def refused(server, reason: str) -> float:
    """How often the server has refused a request for this reason."""
    text = server.call("/metrics")[1]
    return float(re.search(rf'^arxiv_cls_refused_total{{reason="{reason}"}} (\S+)$', text, re.M).group(1))


@pytest.mark.parametrize(
    "sent",
    [
        b"rubbish\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01" + b"\x00" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 200_000 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n",
    ],
    ids=["rubbish", "TLS", "no host", "long header", "chunk", "two lengths"],
)
def test_malformed(server, sent):
    """400 in the shape of every error, counted and logged."""
    before = refused(server, "malformed")
    head, _, body = exchange(server, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body) == {"error": "Invalid HTTP request received.", "error_type": "Validation"}
    assert refused(server, "malformed") == before + 1
    assert [line for line in server.log_lines() if line["message"] == "Invalid HTTP request received."]


def test_an_upgrade_is_ignored(server):
    """A request that offers another protocol is answered in this one, without advice on what to install."""
    offer = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert exchange(server, offer).startswith(b"HTTP/1.1 200")
    assert not [line for line in server.log_lines() if "WebSocket" in line["message"]]


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/live", "/info", "/metrics", "/docs", "/openapi.json"]
)
def test_head(server, path):
    """HEAD is answered as GET, without the body."""
    sent = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, _, body = exchange(server, sent.encode()).partition(b"\r\n\r\n")
    assert (head.partition(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"")
    assert int(re.search(rb"content-length: (\d+)", head).group(1)) > 0


class TestHalfClosed:
    """A client that sends its request and shuts down its sending side."""

    @pytest.mark.parametrize("requests", [1, 3])
    def test_answered(self, server, requests):
        """Each complete request gets its answer, then the connection closes."""
        assert exchange(server, REQUEST * requests, half_close=True).count(b'"code":"cs.CV"') == requests

    def test_an_old_client(self, server):
        """HTTP/1.0 knows no interim answers: it gets none."""
        answer = exchange(server, REQUEST.replace(b"/1.1", b"/1.0"), half_close=True)
        assert answer.startswith(b"HTTP/1.1 200")

    def test_half_a_request(self, server):
        """Nothing more can come: the connection closes."""
        assert exchange(server, REQUEST[:-1], half_close=True) == b""


def test_invented_methods(server):
    """They are one label of the counters, as unknown paths are."""
    before = len(server.call("/metrics")[1])
    for number in range(40):
        sent = f"NEW{number} /path-{number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert exchange(server, sent.encode()).startswith(b"HTTP/1.1 404")
    text = server.call("/metrics")[1]
    assert 'method="other"' in text
    assert "NEW" not in text
    assert len(text) < before + 5000


def test_no_line_of_the_log_can_be_forged(server):
    """What ends a line for some reader, or turns its direction, is escaped."""
    parts = "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\x7f\u202e\u2066\r\n"
    path = "/" + quote(f"{parts}forged")
    server.call(path, headers={"X-Request-Id": "\x85forged"})
    # The line is written when the answer has been sent.
    end = time.monotonic() + 10
    while "forged" not in (text := server.output.read_bytes().decode()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not set(text) & set(parts) - {"\n"}
    (line,) = [line for line in server.log_lines() if "forged" in line.get("path", "")]
    assert line["path"] == f"/{parts}forged"
    assert line["request_id"].isalnum()


@pytest.mark.slow
def test_too_many_connections(start_server, models_dir):
    """A request on one connection too many gets 503 in the shape of every error; later ones are answered."""
    server = start_server(models_dir / "tiny", "--max-connections", 2, "--threads", 1)
    idle = [connect(server) for _ in range(2)]
    try:
        status, reply, headers = server.call("/predict", {"text": "vision"})
        assert (status, reply["error_type"]) == (503, "Unhealthy")
        assert "connections" in reply["error"]
        assert headers["Connection"] == "close"
    finally:
        for connection in idle:
            connection.close()
    # A connection that was just closed may still count for a moment.
    end = time.monotonic() + 10
    while server.call("/predict", {"text": "vision"})[0] == 503 and time.monotonic() < end:
        time.sleep(0.05)
    assert server.call("/predict", {"text": "vision"})[0] == 200
    logged = [line for line in server.log_lines() if line.get("status") == 503 and line["path"] == "/predict"]
    assert refused(server, "connections") == len(logged) >= 1
    assert server.stop() == 0
