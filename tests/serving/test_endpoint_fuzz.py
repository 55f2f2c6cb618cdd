"""The endpoint under schemathesis: no 5xx, and no answer that the OpenAPI document does not promise."""

from __future__ import annotations

import pytest
from fuzzing import fuzz

OPERATIONS = {
    "GET /", "GET /health", "GET /health/live", "GET /info", "GET /metrics", "GET /monitoring",
    "POST /", "POST /feedback", "POST /load", "POST /predict",
}  # fmt: skip
EXAMPLES = 5
MORE_EXAMPLES = 100


def test_every_operation(server):
    """A few requests to each, on the real server process."""
    assert fuzz(server.url, EXAMPLES) == OPERATIONS


@pytest.mark.slow
def test_many_requests(server):
    """The same with many more of them."""
    assert fuzz(server.url, MORE_EXAMPLES) == OPERATIONS
