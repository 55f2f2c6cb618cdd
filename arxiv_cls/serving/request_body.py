"""The body of a request: read in bounded time and size, unpacked, parsed as JSON in bounded work."""

from __future__ import annotations

import asyncio
import codecs
import gc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arxiv_cls.serving.http_errors import Refused, error_reply

METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# So many times the limit is read of a body that is too large: a client that is cut off does not see its 413.
DISCARD = 8
# Keys of one JSON object: more than any schema knows, and few enough to name each that is not known.
MAX_KEYS = 32
# Lists and objects besides one for each text.
SPARE_CONTAINERS = 64
# A larger body is parsed in a thread; of a smaller one the change of threads costs more than the parsing.
PARSED_AT_ONCE = 16 * 1024
# One thread for all: parsing holds the interpreter's lock, so that several would only hinder each other.
_PARSER = ThreadPoolExecutor(1, thread_name_prefix="json")


class BodyLimits:
    """ASGI middleware: reads bodies under a limit of size and of time.

    More than `max_body` bytes, also of what a gzip body unpacks to, is answered 413; a body that has not come
    within `timeout` seconds after its headers 408.
    """

    def __init__(self, app: ASGIApp, *, max_body: int, timeout: float) -> None:
        self.app, self.max_body, self.timeout = app, max_body, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; HEAD as GET, whose body the server leaves out."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        if scope["type"] != "http" or scope["method"] not in METHODS_WITH_BODY:
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read_in_time(scope, receive)
        except Refused as refused:
            await error_reply(refused.status, refused.error, refused.headers)(scope, receive, send)
            return
        if body is None:
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)

    async def _read_in_time(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, unpacked; None when the client went away before it was whole."""
        headers = dict(scope["headers"])
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(headers.get(b"content-length", b"0"), receive)
        except TimeoutError:
            message = f"the request did not arrive within {self.timeout:g} s"
            raise Refused(408, message, {"Connection": "close"}) from None
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
        if body is None or coding == "identity":
            return body
        if coding not in ("gzip", "x-gzip"):
            raise Refused(415, "of the content codings only gzip is understood", {"Accept-Encoding": "gzip"})
        return await asyncio.get_running_loop().run_in_executor(_PARSER, self._unzipped, body)

    async def _read(self, declared: bytes, receive: Receive) -> bytes | None:
        if declared.isdigit() and int(declared) > self.max_body * DISCARD:
            raise self._too_large()
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > self.max_body * DISCARD:
                raise self._too_large()
            if size <= self.max_body:
                pieces.append(piece)
            else:
                pieces.clear()
        if size > self.max_body:
            raise self._too_large()
        return b"".join(pieces)

    def _unzipped(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            # Never more than the limit is unpacked, whatever it would become.
            unpacked = unpacker.decompress(body, self.max_body + 1)
        except zlib.error:
            raise Refused(422, "the body is not in the format gzip") from None
        if len(unpacked) > self.max_body:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise Refused(422, "the body is not one whole gzip file")
        return unpacked

    def _too_large(self) -> Refused:
        return Refused(413, f"the request is larger than {self.max_body} bytes", {"Connection": "close"})


async def parse_json(body: bytes, max_texts: int) -> Any:
    """The JSON object of a request; an empty list for JSON of another kind, which no schema takes.

    Raises:
        HTTPException: 422 for what is no JSON, and for more texts, keys or lists than a schema can need.
    """
    if len(body) <= PARSED_AT_ONCE:
        return _parsed(body, max_texts)
    return await asyncio.get_running_loop().run_in_executor(_PARSER, _parsed_uncollected, body, max_texts)


def _parsed_uncollected(body: bytes, max_texts: int) -> Any:
    # The collector would go through a million lists again and again: five times as long as the parsing.
    gc.disable()
    try:
        return _parsed(body, max_texts)
    finally:
        gc.enable()


def _parsed(body: bytes, max_texts: int) -> Any:
    try:
        value = from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError:
        raise HTTPException(422, "the body is not JSON") from None
    if not isinstance(value, dict):
        # No schema takes it: nobody should hold on to what may be a million lists.
        return []
    # A pair of title and abstract is one text.
    most = max(2, max_texts)
    for key in ("inputs", "instances"):
        if isinstance(value.get(key), list) and len(value[key]) > most:
            raise HTTPException(422, too_many_texts(len(value[key]), max_texts))
    waiting: list[Any] = [value]
    containers = 0
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict | list):
            continue
        what, parts, allowed = (
            ("object", "keys", MAX_KEYS) if isinstance(item, dict) else ("list", "items", most)
        )
        if len(item) > allowed:
            raise HTTPException(422, f"a JSON {what} has {len(item)} {parts}; at most {allowed} are allowed")
        containers += 1
        if containers > most + SPARE_CONTAINERS:
            raise HTTPException(422, "the JSON has more lists and objects than any schema here")
        waiting.extend(item.values() if isinstance(item, dict) else item)
    return value


def too_many_texts(texts: int, allowed: int) -> str:
    """The error for a request with more texts than are allowed."""
    return f"{texts} texts in one request; at most {allowed} are allowed"


class _BoundedRequest(Request):
    async def json(self) -> Any:
        return await parse_json(await self.body(), self.app.state.endpoint.settings.texts_per_request)


class BoundedRoute(APIRoute):
    """A route whose JSON is bounded by `parse_json` before a schema looks at it."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """FastAPI's handler, given the bounded request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(_BoundedRequest(request.scope, request.receive))

        return bounded
