"""Refusals: every error has the shape of Text Embeddings Inference, `{"error", "error_type"}`."""

from __future__ import annotations

import asyncio
import codecs
import gc
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

# The kinds of Text Embeddings Inference, and below them those that it has no word for.
KINDS = {
    400: "Empty",
    413: "Validation",
    415: "Validation",
    422: "Validation",
    424: "Backend",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "Timeout",
    409: "Conflict",
}
MAX_PROBLEMS = 5
MAX_LOOKED_AT = 100
# Type of pydantic's error for a text without content: it is answered 400, as Text Embeddings Inference does.
EMPTY_TEXT = "empty_text"


class ErrorReply(BaseModel):
    """The body of every reply that is not a success."""

    error: str = Field(description="What was wrong and what to do.")
    error_type: str = Field(description="Validation, Empty, Overloaded, Unhealthy, ...")


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, a key of `KINDS`.
        error: what was wrong and what to do; never holds the text of the request.
        headers: of the reply.
    """

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, dict(headers or {})

    def reply(self) -> JSONResponse:
        """The error as a response."""
        return error_reply(self.status, self.error, self.headers)


def error_reply(
    status: int, error: str, headers: Mapping[str, str] | None = None, kind: str | None = None
) -> JSONResponse:
    """A response in the shape of errors; its kind is the one of its status, unless another is named."""
    # The name of a file may hold bytes that are no text.
    error = error.encode("utf-8", "replace").decode()
    content = {"error": error, "error_type": kind or KINDS.get(status, "Backend")}
    return JSONResponse(content, status, dict(headers or {}))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for its errors."""
    what = {
        400: "A text is empty",
        401: "No token or a wrong one",
        403: "Not allowed",
        404: "Not there",
        408: "The request arrived too slowly",
        409: "Another switch is under way",
        413: "The request is too large",
        415: "The body is compressed, but not with gzip",
        422: "The request does not fit the schema, or a limit",
        424: "The model cannot be loaded",
        429: "The queue is full: try again after `Retry-After` seconds",
        503: "No model is loaded yet, or the server is ending",
    }
    return {status: {"model": ErrorReply, "description": what[status]} for status in statuses}


def explain(problems: Sequence[Mapping[str, Any]]) -> str:
    """Pydantic's problems in one line: the place and the reason, without the values that were sent.

    Looks at the first `MAX_LOOKED_AT` only, so that its time does not grow with the body.
    """
    told: dict[str, None] = {}
    for problem in problems[:MAX_LOOKED_AT]:
        if problem["type"] == "json_invalid":
            return "the body is not JSON"
        # A union's place names the branches that were tried (`str`, `list[...]`): of no use to a reader.
        parts = [shortened(str(part)) for part in problem["loc"] if part != "body" and "[" not in str(part)]
        place = ".".join(part for part, before in zip(parts, ["", *parts], strict=False) if part != before)
        reason = shortened(str(problem["msg"]).removeprefix("Value error, "), 200)
        told[f"{place}: {reason}" if place else reason] = None
    more = len(told) - MAX_PROBLEMS + max(0, len(problems) - MAX_LOOKED_AT)
    return "; ".join(list(told)[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def shortened(text: str, characters: int = 60) -> str:
    """The beginning of a text that a client chose."""
    return text if len(text) <= characters else text[:characters] + "..."


def install_error_handlers(app: FastAPI) -> None:
    """Makes the app answer every error in the one shape."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return error.reply()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        content_type = request.headers.get("content-type", "")
        problems = error.errors()
        empty = [problem for problem in problems if problem["type"] == EMPTY_TEXT]
        if empty:
            return error_reply(400, explain(empty))
        told = explain(problems)
        if "json" not in content_type.lower():
            told = f"send JSON with the header Content-Type: application/json, not {content_type[:80]!r}"
        return error_reply(422, told)

    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> JSONResponse:
        told = str(error.detail)
        if error.status_code == 404:
            told = "there is nothing at this address; GET / lists what there is"
        status = 422 if error.status_code == 400 else error.status_code
        return error_reply(status, told, error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # What an exception says may hold the text of a request: its type is enough for the client.
        logger.error("unexpected %s", type(error).__name__, exc_info=error)
        # This reply is made outside of the middleware that gives all others their id.
        headers = {"X-Request-Id": request.scope["state"]["request_id"]}
        return error_reply(500, "the server failed on this request; its log says why", headers)


METHODS_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
# What is thrown away of a body that is too large, as a multiple of the limit: a client that gets to the end
# of its sending reads the 413, one that is cut off sees a broken connection.
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
    """Reads bodies under a limit of size and of time.

    Args:
        app: what is called with the request.
        max_body: bytes, also of what a gzip body unpacks to; more is answered 413.
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
            body = await self._read_in_time(scope, receive)
        except Refused as refused:
            await refused.reply()(scope, receive, send)
            return
        if body is None:
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read_in_time(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, unpacked; None when the client went away before it was whole."""
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(scope, receive)
        except TimeoutError:
            told = f"the request did not arrive within {self.timeout:g} s"
            raise Refused(408, told, {"Connection": "close"}) from None
        coding = dict(scope["headers"]).get(b"content-encoding", b"identity").decode("latin-1").lower()
        if body is None or coding == "identity":
            return body
        if coding not in ("gzip", "x-gzip"):
            raise Refused(415, "of the content codings only gzip is understood", {"Accept-Encoding": "gzip"})
        return await asyncio.get_running_loop().run_in_executor(_PARSER, self._unzipped, body)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.max_body * DISCARD:
            raise self._too_large()
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self.max_body:
                pieces.append(piece)
            elif size > self.max_body * DISCARD:
                raise self._too_large()
            else:
                pieces.clear()
            if not message.get("more_body", False):
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
    """The JSON of a request.

    Args:
        body: UTF-8, with or without a byte order mark.
        max_texts: texts in one request.

    Returns:
        The object; an empty list for JSON of another kind, which no schema takes.

    Raises:
        HTTPException: 422 for what is no JSON, for more texts than are allowed, for an object with more than
            `MAX_KEYS` keys, and for more lists and objects than the texts can need.
    """
    if len(body) <= PARSED_AT_ONCE:
        return _parsed(body, max_texts)
    return await asyncio.get_running_loop().run_in_executor(_PARSER, _parsed_uncollected, body, max_texts)


def _parsed_uncollected(body: bytes, max_texts: int) -> Any:
    # Of a million lists in one body the collector would go through all, again and again while they grow: that
    # took five times as long as the parsing.
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
    _check_counts(value, most)
    return value


def _check_counts(body: dict[str, Any], most_items: int) -> None:
    waiting: list[Any] = [body]
    seen = 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if len(value) > MAX_KEYS:
                told = f"a JSON object has {len(value)} keys; at most {MAX_KEYS} are allowed"
                raise HTTPException(422, told)
            waiting.extend(value.values())
        elif isinstance(value, list):
            if len(value) > most_items:
                told = f"a JSON list has {len(value)} items; at most {most_items} are allowed"
                raise HTTPException(422, told)
            waiting.extend(value)
        else:
            continue
        seen += 1
        if seen > most_items + SPARE_CONTAINERS:
            raise HTTPException(422, "the JSON has more lists and objects than any schema here")


def too_many_texts(texts: int, allowed: int) -> str:
    """The error for a request with more texts than are allowed."""
    return f"{texts} texts in one request; at most {allowed} are allowed"


class CountedRequest(Request):
    """A request whose JSON is bounded before a schema looks at it."""

    async def json(self) -> Any:
        """The body's JSON; see `parse_json` for what it raises."""
        return await parse_json(await self.body(), self.app.state.endpoint.settings.texts_per_request)


class CountedRoute(APIRoute):
    """A route that reads its body as a `CountedRequest`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """FastAPI's handler, given the bounded request."""
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            return await handle(CountedRequest(request.scope, request.receive))

        return bounded
