"""Limits on bodies: counted as they come, timed, and never held beyond the limit."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from arxiv_cls.serving.request_body import DISCARD, BodyLimits

LIMIT = 100


async def echo(scope, receive, send):
    """Answers with the length of the body, then waits for what comes after it."""
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(message["body"])).encode()})
    assert (await receive())["type"] == "http.disconnect"


def ask(pieces, *, headers=(), method="POST", timeout=5.0, pause=0.0, disconnect=False):
    """Sends the pieces of a body; returns (status, body, number of pieces that were taken)."""
    sent, taken = [], 0

    async def receive():
        nonlocal taken
        await asyncio.sleep(pause)
        if taken == len(pieces):
            return {"type": "http.disconnect"}
        taken += 1
        more = taken < len(pieces) or disconnect
        return {"type": "http.request", "body": pieces[taken - 1], "more_body": more}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "headers": list(headers)}
    app = BodyLimits(echo, max_body=LIMIT, timeout=timeout)
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None, b"", taken
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), taken


class TestSize:
    """413 above the limit, whatever the client declared."""

    def test_at_the_limit(self):
        """A body of exactly the limit arrives whole."""
        assert ask([b"x" * 60, b"x" * 40])[:2] == (200, b"100")

    def test_above_the_limit_without_a_declared_length(self):
        """Counted as it comes, and answered when it is all there, so that the client reads the answer."""
        status, body, taken = ask([b"x" * 60, b"x" * 60, b"x"])
        assert (status, taken) == (413, 3)
        assert json.loads(body) == {
            "error": "the request is larger than 100 bytes",
            "error_type": "Validation",
        }

    def test_a_flood_is_cut_off(self):
        """Of an endless body only a few times the limit is taken."""
        status, _, taken = ask([b"x" * 50] * 1000)
        assert status == 413
        assert taken == LIMIT * DISCARD // 50 + 1

    def test_a_huge_declared_length_is_not_read_at_all(self):
        """The answer comes before the body."""
        assert ask([b"x"], headers=[(b"content-length", b"5000000000")])[::2] == (413, 0)

    def test_a_length_that_is_no_number_proves_nothing(self):
        """The bytes count, not the header."""
        assert ask([b"x" * 10], headers=[(b"content-length", b"-1")])[:2] == (200, b"10")


class TestGzip:
    """A compressed body is unpacked, never beyond the limit."""

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            (gzip.compress(b"x" * LIMIT), 200),
            (gzip.compress(b"x" * (LIMIT + 1)), 413),
            (gzip.compress(b"x" * 60_000), 413),
            (gzip.compress(b"x" * LIMIT)[:-1], 422),
            (gzip.compress(b"x") + b"more", 422),
            (b"x" * LIMIT, 422),
            (b"", 422),
        ],
    )
    def test_unpacked(self, body, status):
        """Whole files only; what is too large is refused by the size that it unpacks to."""
        answered, received, _ = ask([body], headers=[(b"content-encoding", b"gzip")])
        assert (answered, received if status == 200 else b"") == (status, b"100" if status == 200 else b"")

    def test_another_coding(self):
        """415 for what is not understood."""
        assert ask([b"x"], headers=[(b"content-encoding", b"br")])[0] == 415


class TestTime:
    """A body that trickles in is given up."""

    def test_slow(self):
        """408 in the one shape of errors, and the connection closes."""
        status, body, _ = ask([b"x"] * 50, timeout=0.05, pause=0.02)
        assert status == 408
        assert json.loads(body)["error_type"] == "Timeout"

    def test_the_time_of_the_answer_does_not_count(self):
        """Only the arrival is timed: waiting for the end of the connection is not."""
        assert ask([b"x"], timeout=0.3, pause=0.2)[0] == 200


class TestOthers:
    """What has no body passes; who goes away is let go."""

    @pytest.mark.parametrize("method", ["GET", "OPTIONS"])
    def test_methods_without_a_body(self, method):
        """They reach the application as they are."""
        assert ask([b""], method=method)[0] == 200

    def test_a_client_that_goes_away(self):
        """Nothing is sent to it, and the application never hears of it."""
        assert ask([b"x" * 10], disconnect=True)[0] is None
