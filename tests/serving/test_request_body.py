"""Bodies: limits of size and time, gzip, and bodies that hold as much as they can of one thing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from local_servers import TOKEN

from arxiv_cls.serving.http_requests import DISCARD, BodyLimits

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


GZIP = [(b"content-encoding", b"gzip")]


@pytest.mark.parametrize(
    ("pieces", "headers", "status", "taken"),
    [
        ([b"x" * 60, b"x" * 40], [], 200, 2),
        # A length that is no number proves nothing: the bytes count.
        ([b"x" * LIMIT], [(b"content-length", b"-1")], 200, 1),
        # Without a declared length, it is answered when it is all there, so that the client reads the answer;
        # of an endless body only a few times the limit is taken, of one that is declared as such nothing.
        ([b"x" * 60, b"x" * 60, b"x"], [], 413, 3),
        ([b"x" * 50] * 1000, [], 413, LIMIT * DISCARD // 50 + 1),
        ([b"x"], [(b"content-length", b"5000000000")], 413, 0),
        # A compressed body is unpacked, never beyond the limit, and only a whole file.
        ([gzip.compress(b"x" * LIMIT)], GZIP, 200, 1),
        ([gzip.compress(b"x" * (LIMIT + 1))], GZIP, 413, 1),
        ([gzip.compress(b"x" * 60_000)], GZIP, 413, 1),
        ([gzip.compress(b"x" * LIMIT)[:-1]], GZIP, 422, 1),
        ([gzip.compress(b"x") + b"more"], GZIP, 422, 1),
        ([b"x" * LIMIT], GZIP, 422, 1),
        ([b""], GZIP, 422, 1),
        ([b"x"], [(b"content-encoding", b"br")], 415, 1),
    ],
)
def test_limits(pieces, headers, status, taken):
    """Above the limit 413, whatever the client declared; each refusal in the shape of errors."""
    answered, body, pieces_taken = ask(pieces, headers=headers)
    assert (answered, pieces_taken) == (status, taken)
    if status == 200:
        assert body == b"100"
    else:
        assert json.loads(body)["error_type"] == "Validation"


def test_time():
    """A body that trickles in is given up with 408; the time of the answer does not count."""
    status, body, _ = ask([b"x"] * 50, timeout=0.05, pause=0.02)
    assert (status, json.loads(body)["error_type"]) == (408, "Timeout")
    assert ask([b"x"], timeout=0.3, pause=0.2)[0] == 200


def test_others():
    """What has no body reaches the application as it is; a client that goes away is sent nothing."""
    assert [ask([b""], method=method)[0] for method in ("GET", "OPTIONS")] == [200, 200]
    assert ask([b"x" * 10], disconnect=True)[0] is None


MAX_BODY = 2 * 1024 * 1024
# Below 0.2 s on a slow core when measured.
CPU_SECONDS = 0.5


def filled(head: bytes, part: bytes, tail: bytes, between: bytes = b",") -> bytes:
    """`head part,part,...,part tail`, as long as the limit allows."""
    count = (MAX_BODY - len(head) - len(tail) + len(between)) // (len(part) + len(between))
    return head + between.join([part] * count) + tail


def keys(head: bytes, tail: bytes) -> bytes:
    """An object of 160,000 different keys."""
    return head + b"{" + b",".join(b'"k%d":1' % number for number in range(160_000)) + b"}" + tail


NESTED = b"[" * 150 + b"]" * 150
BODIES = {
    "numbers": filled(b'{"instances":[', b"1", b"]}"),
    "empty texts": filled(b'{"inputs":[', b'""', b"]}"),
    "empty lists": filled(b'{"instances":[', b"[]", b"]}"),
    "empty objects": filled(b'{"instances":[', b"{}", b"]}"),
    "pairs": filled(b'{"inputs":[', b'["a","b"]', b"]}"),
    "64 long lists": b'{"inputs":[' + b",".join([filled(b"[", b"1", b"]")[:32_000] + b"1]"] * 64) + b"]}",
    "64 wrong objects": b'{"instances":['
    + b",".join([b"{" + b",".join(b'"%d":1' % key for key in range(32)) + b"}"] * 64)
    + b"]}",
    "top level list": filled(b"[", b"1", b"]"),
    "nested lists": filled(b"[", NESTED, b"]"),
    "unclosed lists": b"[" * MAX_BODY,
    "unclosed objects": filled(b"", b'{"text":', b"", b" "),
    "different keys": keys(b"", b""),
    "keys of an item": keys(b'{"instances":[', b"]}"),
    "keys of parameters": keys(b'{"instances":["x"],"parameters":', b"}"),
    "one key again and again": filled(b"{", b'"text":1', b"}"),
    "long key": b'{"text":"x","' + b"k" * (MAX_BODY - 20) + b'":1}',
    "long number": b'{"text":' + b"9" * (MAX_BODY - 9) + b"}",
    "long numbers": filled(b'{"instances":[', b"9" * 4000, b"]}"),
    "long fraction": b'{"text":0.' + b"9" * (MAX_BODY - 11) + b"}",
    "long text": b'{"text":"' + b"x" * (MAX_BODY - 11) + b'"}',
    "long text that is not ASCII": filled(b'{"inputs":"', "é".encode(), b'"}', b""),
    "line separators": filled(b'{"inputs":"', b"\\u2028", b'"}', b""),
    "characters that show nothing": filled(b'{"text":"', "\u200b".encode(), b'"}', b""),
    "texts that show nothing": b'{"inputs":['
    + b",".join([filled(b'"', "\u200b".encode(), b'"', b"")[:32_000] + b'"'] * 64)
    + b"]}",
    "halves of surrogate pairs": filled(b'{"text":"', b"\\ud800", b'"}', b""),
    "no UTF-8": filled(b'{"text":"', b"\xff", b'"}', b""),
    "nothing but spaces": b" " * MAX_BODY,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_answered_at_once(server, body):
    """Every route refuses it within the CPU time, in a short answer; health is answered meanwhile."""
    assert len(body) <= MAX_BODY
    process = psutil.Process(server.process.pid)
    seen: list[tuple[int, float]] = []
    ended = threading.Event()

    def watch() -> None:
        while not (ended.wait(0.01) and seen):
            asked = time.monotonic()
            seen.append((server.call("/health")[0], time.monotonic() - asked))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for path in ("/predict", "/", "/load"):
            before = process.cpu_times()
            status, reply, _ = server.call(path, body, {"Authorization": f"Bearer {TOKEN}"})
            after = process.cpu_times()
            assert after.user + after.system - before.user - before.system < CPU_SECONDS
            assert status in (400, 422)
            assert len(reply["error"]) < 2000
    finally:
        ended.set()
        watcher.join()
    assert {status for status, _ in seen} == {200}
    # Generous: other programs share the cores.
    assert max(seconds for _, seconds in seen) < 5


def test_chunks_of_one_byte(server):
    """They are refused when their sizes alone are more than a request may have around its body."""
    process = psutil.Process(server.process.pid)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    before = process.cpu_times()
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    # The server may have closed the connection before everything is sent.
    with socket.create_connection(address, 60) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1_000_000)
    assert server.call("/health")[0] == 200
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < CPU_SECONDS


@pytest.mark.slow
def test_the_signal_is_heard(start_server, models_dir):
    """SIGTERM ends a process that gets nothing but such bodies."""
    server = start_server(models_dir / "tiny", "--threads", 1)

    def ask() -> int:
        try:
            return server.call("/predict", BODIES["nested lists"])[0]
        except OSError:
            return 0

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(ask) for _ in range(32)]
        while not any(one.done() for one in asking):
            time.sleep(0.01)
        assert server.stop(seconds=30) == 0
    # Some were answered, the last ones found no server.
    assert {one.result() for one in asking} == {422, 0}
