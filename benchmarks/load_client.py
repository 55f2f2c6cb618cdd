"""Clients for a load test on the machine of the server: they must not take its cores.

A handful of lines on bare sockets, since at a thousand requests a second an HTTP library would be most of
what is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field

READ_LIMIT = 1 << 20


@dataclass
class Load:
    """What came back.

    Attributes:
        seconds: of each answer with status 200, from the first byte sent to the last byte read.
        statuses: how often each status came; 0 stands for a broken connection.
        duration: of the whole load, seconds.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    duration: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers with status 200 a second."""
        return len(self.seconds) / self.duration

    def percentile(self, share: float) -> float:
        """The latency that this share of the answers does not exceed, in milliseconds."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def request_bytes(host: str, port: int, path: str, body: dict) -> bytes:
    """A POST request with a JSON body, for a connection that stays open."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1])


async def _client(port: int, requests: list[bytes], first: int, end: float, load: Load) -> None:
    reader = writer = None
    number = first
    while (start := time.perf_counter()) < end:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=READ_LIMIT)
            assert reader is not None
            status = await _one(reader, writer, requests[number % len(requests)])
        except (OSError, asyncio.IncompleteReadError):
            load.statuses[0] += 1
            writer = None
            await asyncio.sleep(0.05)
            continue
        load.statuses[status] += 1
        if status == 200:
            load.seconds.append(time.perf_counter() - start)
        elif status in (429, 503):
            await asyncio.sleep(0.05)
        number += 1
    if writer is not None:
        writer.close()


async def _run(port: int, requests: list[bytes], clients: int, seconds: float) -> Load:
    load = Load()
    start = time.perf_counter()
    # Each client starts elsewhere in the list, so that they do not ask for the same text at the same time.
    step = max(1, len(requests) // clients)
    await asyncio.gather(
        *(_client(port, requests, number * step, start + seconds, load) for number in range(clients))
    )
    load.duration = time.perf_counter() - start
    return load


def run_load(port: int, requests: list[bytes], *, clients: int, seconds: float) -> Load:
    """Lets clients send one request after another, each waiting for its answer, for so many seconds.

    Args:
        port: of a server on 127.0.0.1.
        requests: whole requests (`request_bytes`), sent in turn.
        clients: connections at a time.
        seconds: no request starts later.
    """
    return asyncio.run(_run(port, requests, clients, seconds))
