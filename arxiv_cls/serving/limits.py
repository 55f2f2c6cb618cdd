"""Limits on requests as ASGI middleware: how large a body may be and how long it may take to arrive.

The body is read here, in pieces that are counted as they come, so that nothing larger than the limit is
ever held; the application then gets it whole.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arxiv_cls.serving.http_errors import error_reply

METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# What is thrown away of a body that is too large, as a multiple of the limit: a client that gets to the end
# of its sending reads the 413, one that is cut off sees a broken connection.
DISCARD = 8


class BodyLimits:
    """Reads bodies under a limit of size and of time.

    Args:
        app: what is called with the request.
        max_body: bytes; more is answered 413.
        timeout: seconds from the headers to the end of the body; more is answered 408.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, timeout: float) -> None:
        self.app, self.max_body, self.timeout = app, max_body, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http" or scope["method"] not in METHODS_WITH_BODY:
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(scope, receive)
        except TimeoutError:
            told = f"the request did not arrive within {self.timeout:g} s"
            await error_reply(408, told, {"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            told = f"the request is larger than {self.max_body} bytes"
            await error_reply(413, told, {"Connection": "close"})(scope, receive, send)
            return
        if isinstance(body, Disconnected):
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Disconnected | None:
        """The body; None when it is too large."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_body * DISCARD:
            return None
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return Disconnected()
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self.max_body:
                pieces.append(piece)
            elif size > self.max_body * DISCARD:
                return None
            else:
                pieces.clear()
            if not message.get("more_body", False):
                return None if size > self.max_body else b"".join(pieces)


class Disconnected:
    """The client went away before its body was whole."""
