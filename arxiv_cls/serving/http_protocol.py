"""HTTP/1.1 on a connection: uvicorn's protocol with limits, errors in JSON, and half-closed connections.

The protocol is uvicorn's of h11, whether httptools is installed or not: one parser, and it limits the head of
a request (64 KiB), which httptools does not.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from arxiv_cls.serving.http_errors import error_reply
from arxiv_cls.serving.observability import RequestLines

# How often it is looked whether a client that half-closed its connection is still there.
SECONDS_BETWEEN_LOOKS = 0.1
# Bytes around the body of one request: its head and the sizes of its chunks. A body in chunks of one byte
# takes the parser a hundred times as long as one in large chunks.
MAX_FRAMING = 192 * 1024
PIECE = 64 * 1024


def limited_protocol(  # noqa: C901 - one class whose methods count as one function
    *, seconds: float, max_connections: int, on_refused: Callable[[str], Any]
) -> type[H11Protocol]:
    """uvicorn's HTTP protocol under limits.

    A connection that does not send the head of a request in time is closed. What is no HTTP is answered 400
    in JSON. A client that shuts down its sending side after a request gets its answer, then the connection
    closes.

    Args:
        seconds: from the connection, or from the first byte of a later request, to the end of its head.
        max_connections: that may be open; the requests of more are answered 503. uvicorn's own limit counts
            the same, but answers in plain text.
        on_refused: is told "connections" or "malformed" for each request that the application never sees.
    """

    async def answer_crowded(scope: Scope, receive: Receive, send: Send) -> None:
        on_refused("connections")
        headers = {"Connection": "close", "Retry-After": "1"}
        await error_reply(503, "too many connections are open", headers)(scope, receive, send)

    crowded: Any = RequestLines(answer_crowded, quiet=frozenset())

    class LimitedHTTPProtocol(H11Protocol):
        timer: Any = None
        half_closed = False
        framing = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                self.app = crowded
            self._wait_for_head()

        def data_received(self, data: bytes) -> None:
            for start in range(0, len(data), PIECE):
                self._parse(data[start : start + PIECE])
                if self.transport.is_closing():
                    return
            if self._in_request():
                self._stop_waiting()
            elif self.timer is None:
                self._wait_for_head()

        def eof_received(self) -> bool | None:  # type: ignore[override]
            if not self._in_request() or self.cycle.more_body:
                return None
            if not self.half_closed:
                self.half_closed = True
                self._probe()
            return True

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.half_closed and not self._in_request():
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            on_refused("malformed")
            if not (self._in_request() and self.cycle.response_started):
                body = error_reply(400, msg, kind="Validation").body
                head = (
                    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                )
                self.transport.write(head.encode("ascii") + bytes(body))
            self.transport.close()

        def _parse(self, piece: bytes) -> None:
            cycle, before = self.cycle, len(self.cycle.body) if self.cycle else 0
            super().data_received(piece)
            if self.cycle is not cycle:
                self.framing = before = 0
            if self._in_request() and self.cycle.more_body:
                self.framing += len(piece) - (len(self.cycle.body) - before)
                if self.framing > MAX_FRAMING:
                    self.logger.warning("The chunks of a request are too small.")
                    self.send_400_response("the chunks of the body are too small: send it in larger ones")

        def _unsupported_upgrade_warning(self) -> None:
            """An upgrade is an offer; the request is answered in HTTP/1.1 and logged as every other."""

        def _in_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _probe(self) -> None:
            # A closed connection and a half-closed one look the same until something is sent: the system of a
            # client that is gone answers with a reset, and a client that is there skips an interim answer.
            if self.cycle.scope["http_version"] == "1.1" and not self.cycle.response_started:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._look()

        def _look(self) -> None:
            if self.transport.is_closing() or not self._in_request():
                return
            if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.transport.abort()
            else:
                self.loop.call_later(SECONDS_BETWEEN_LOOKS, self._look)

        def _wait_for_head(self) -> None:
            self.timer = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def _give_up(self) -> None:
            self.timer = None
            if not self._in_request():
                self.transport.close()

    return LimitedHTTPProtocol
