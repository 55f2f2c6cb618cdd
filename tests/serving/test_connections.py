"""Connections to the real server process: more than are allowed."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow


def test_too_many_connections(start_server, models_dir):
    """A request on one connection too many gets 503 in the shape of every error; later ones are answered."""
    server = start_server(models_dir / "tiny", "--max-connections", 2, "--threads", 1)
    address = urlsplit(server.url)
    idle = [socket.create_connection((address.hostname, address.port)) for _ in range(2)]
    try:
        status, reply, headers = server.call("/predict", {"text": "vision"})
        assert (status, reply["error_type"]) == (503, "Unhealthy")
        assert "connections" in reply["error"]
        assert headers["Connection"] == "close"
    finally:
        for connection in idle:
            connection.close()
    assert server.call("/predict", {"text": "vision"})[0] == 200
    assert server.stop() == 0
